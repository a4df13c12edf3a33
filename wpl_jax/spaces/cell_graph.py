"""Cells whose graph is data: nodes that apply chosen operations to chosen states.

Pham et al., "Efficient Neural Architecture Search" (2018), section 2.4. The states of
a cell are its two inputs and then its nodes; each node adds up two branches, and each
branch applies one of :data:`OPERATIONS` to one earlier state. What comes out are the
nodes that nobody uses, mixed by a pointwise convolution; it is an input of the next
two cells.

Which operation is a number on the device. A conditional runs the chosen one and no
other, in the forward as in the backward pass; both passes are loops over cells and
nodes, so that one compiled body serves them all. The backward pass is written out,
because that of a differentiated conditional keeps room for what every operation would
want remembered, that of a differentiated choice of a state adds up a gradient for
each state that was not chosen, and that of a differentiated loop copies all states of
a cell into an array of those of all cells. Here the loops write into one array of all
states, and into one of gradients. Remembered are the states and the batch statistics
of what was normalized; what is between them in a convolution is computed again, which
costs less than to write it, and room for it where there is none, for every branch.
Halves of convolutions are jitted functions: all branches share their trace.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces.depthwise import average_pool, depthwise, max_pool

OPERATIONS = (
    "separable_3x3",
    "separable_5x5",
    "average_3x3",
    "max_3x3",
    "identity",
)
CONVOLUTIONS = 2  # The first of them have weights.

EPSILON = 1e-5  # added to a variance


class Wiring(NamedTuple):
    """The graphs of cells; the last axis are the two branches of a node."""

    inputs: jax.Array  # int32[cells, nodes, 2]; a state, at most node + 1
    operations: jax.Array  # int32[cells, nodes, 2]; index into OPERATIONS


class Separable(NamedTuple):
    """Weights of convolutions, which go twice through depthwise and pointwise.

    Both sizes of the depthwise kernel are there, of which a branch uses one or none.
    """

    depthwise_3x3: jax.Array  # float[cells, nodes, 2, 2, 3, 3, channels]
    depthwise_5x5: jax.Array  # float[cells, nodes, 2, 2, 5, 5, channels]
    pointwise: jax.Array  # float[cells, nodes, 2, 2, channels, channels]
    scale: jax.Array  # float[cells, nodes, 2, 2, channels]; of the normalization
    offset: jax.Array  # float[cells, nodes, 2, 2, channels]


class Mix(NamedTuple):
    """Weights that make a cell's output of its nodes."""

    kernel: jax.Array  # float[cells, nodes, channels, channels]
    scale: jax.Array  # float[cells, channels]; of the normalization
    offset: jax.Array  # float[cells, channels]


class Weights(NamedTuple):
    """Of cells."""

    branches: Separable
    output: Mix


class Moments(NamedTuple):
    """Of what is normalized, over a batch and its pixels."""

    mean: jax.Array  # float[..., channels]
    variance: jax.Array  # float[..., channels]


class CellMoments(NamedTuple):
    """Of cells."""

    branches: Moments  # float[cells, nodes, 2, 2, channels]
    output: Moments  # float[cells, channels]


class _Branch(NamedTuple):
    """What belongs to one branch, or to many."""

    input: jax.Array  # its place in the array of states
    operation: jax.Array
    weights: Separable
    kept: jax.Array
    batch_stats: Moments | None


class _Node(NamedTuple):
    """What belongs to one node, or to many."""

    place: jax.Array  # in the array of states
    unused: jax.Array  # bool; whether it is part of the output
    kernel: jax.Array  # of the mix
    branches: _Branch


class _Cell(NamedTuple):
    """What belongs to one cell, or to many."""

    place: jax.Array  # of its output in the array of states
    nodes: _Node
    output: Mix
    batch_stats: Moments | None  # of its output


class _Gradients(NamedTuple):
    """Where a cell's gradients lie in an array of gradients."""

    output: jax.Array
    nodes: jax.Array  # int[nodes]
    inputs: jax.Array  # int32[nodes, 2]; of its branches
    first: jax.Array  # bool[nodes, 2]; whether what lies there is of another cell


def used(wiring: Wiring) -> jax.Array:
    """Which nodes are somebody's input, ``bool[..., nodes]``."""
    nodes = wiring.inputs.shape[-2]
    states = jnp.arange(2, nodes + 2)
    return jnp.any(wiring.inputs[..., None] == states, (-3, -2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def run_cells(
    inputs: tuple[jax.Array, jax.Array],
    weights: Weights,
    wiring: Wiring,
    kept: jax.Array,
    batch_stats: CellMoments | None = None,
    axis: Axis = NO_AXIS,
) -> tuple[tuple[jax.Array, jax.Array], CellMoments]:
    """Computes cells, each on the outputs of the two before.

    Args:
      inputs: Of the first cell, the older and the newer, ``float[batch, height,
        width, channels]`` each. The newer is the second cell's older one.
      weights: Of all cells.
      wiring: The graphs. Not differentiated.
      kept: Factor on what each branch makes of each image, ``float[cells, nodes, 2,
        batch]``, but for the identity: 1, or for drop-path 0 or more than 1. Not
        differentiated.
      batch_stats: To normalize with; None for those of the batch. Not differentiated.
      axis: Devices of which each has its share of a batch.

    Returns:
      The outputs of the first and of the last cell, like the inputs, and the batch
      statistics, or those that were given; zeros where a branch is no convolution.
      They carry no gradient.
    """
    found, _ = _forward_rule(inputs, weights, wiring, kept, batch_stats, axis)
    return found


def _forward_rule(inputs, weights, wiring, kept, batch_stats, axis):
    cells, nodes, _ = wiring.inputs.shape
    places = _places(cells, nodes)
    first, second = inputs
    states = jnp.zeros((np.max(places) + 1, *first.shape), first.dtype)
    states = states.at[0].set(first).at[1].set(second)

    def run(states, cell):
        def add_node(carry, node):
            states, mixed = carry
            (y, found), (other, found_there) = (
                _branch(states, branch, axis) for branch in _both(node.branches)
            )
            y = y + other
            mixed = jax.lax.cond(
                node.unused,
                lambda mixed: mixed + jax.nn.relu(y) @ node.kernel,
                lambda mixed: mixed,
                mixed,
            )
            return (_put(states, y, node.place), mixed), _of_both(found, found_there)

        (states, mixed), of_branches = jax.lax.scan(
            add_node, (states, jnp.zeros_like(first)), cell.nodes
        )
        y, _, of_output = normalize(mixed, cell.batch_stats, axis)
        y = y * cell.output.scale + cell.output.offset
        found = CellMoments(of_branches, of_output)
        return _put(states, y, cell.place), (mixed, found)

    each = _cells(places, weights, wiring, kept, batch_stats)
    states, (mixed, found) = jax.lax.scan(run, states, each)
    outputs = states[places[0, -1]], states[places[-1, -1]]
    remembered = states, mixed, weights, wiring, kept, batch_stats is None, found
    return (outputs, found), remembered


def _places(cells: int, nodes: int) -> np.ndarray:
    """Where states lie, ``int[cells, 2 + nodes + 1]``: inputs, nodes and output.

    The inputs of a cell are outputs of the two before, or of all.
    """
    starts = 2 + np.arange(cells) * (nodes + 1)
    outputs = np.concatenate([[0, 1], starts + nodes])
    own = starts[:, None] + np.arange(nodes + 1)
    return np.column_stack([outputs[:-2], outputs[1:-1], own])


def _gradient_places(cells: int, nodes: int) -> np.ndarray:
    """The same of gradients; the nodes of all cells share their places."""
    outputs = np.arange(cells + 2)
    own = np.broadcast_to(cells + 2 + np.arange(nodes), (cells, nodes))
    return np.column_stack([outputs[:-2], outputs[1:-1], own, outputs[2:]])


def _of_inputs(places: np.ndarray, wiring: Wiring) -> jax.Array:
    """The places of the branches' inputs."""
    return jnp.asarray(places)[np.arange(len(places))[:, None, None], wiring.inputs]


def _cells(places, weights, wiring, kept, batch_stats) -> _Cell:
    """All cells, to go through."""
    branches = _Branch(
        _of_inputs(places, wiring),
        wiring.operations,
        weights.branches,
        kept,
        batch_stats and batch_stats.branches,
    )
    nodes = _Node(
        jnp.asarray(places[:, 2:-1]), ~used(wiring), weights.output.kernel, branches
    )
    output = jnp.asarray(places[:, -1])
    return _Cell(output, nodes, weights.output, batch_stats and batch_stats.output)


def _both(pair: Any) -> list[Any]:
    """Two branches of a node, or halves of a branch, of a tree of both.

    Branches are not joined by anything, so that they may run side by side; halves in
    a loop would have to write down what one pass leaves to the next.
    """
    return [jax.tree.map(lambda x, i=i: x[i], pair) for i in range(2)]


def _of_both(*each):
    """What was found of both, as one tree."""
    return jax.tree.map(lambda *both: jnp.stack(both), *each)


def _put(states, state, place):
    """Writes one. ``at[place].set`` would read what was there, and guard the place."""
    return jax.lax.dynamic_update_index_in_dim(states, state, place, 0)


def _branch(states, branch, axis):
    """One branch's output, and its batch statistics."""
    channels = states.shape[-1]
    nothing = Moments(jnp.zeros((2, channels)), jnp.zeros((2, channels)))

    def convolve(kernels):
        return lambda x: _separable(x, kernels, branch, axis)

    def pool(reduce):
        return lambda x: (reduce(x), nothing)

    runs = [
        convolve(branch.weights.depthwise_3x3),
        convolve(branch.weights.depthwise_5x5),
        pool(average_pool),
        pool(max_pool),
    ]

    def dropping(run):
        def dropped(states):
            y, found = run(states[branch.input])
            return y * _factor(branch.kept, y), found

        return dropped

    def identity(states):
        return states[branch.input], nothing

    return jax.lax.switch(branch.operation, [*map(dropping, runs), identity], states)


def _separable(x, kernels, branch, axis):
    """A separable convolution, twice."""

    def half(x, each):
        y, found, _ = _separable_half(x, each, axis)
        return y, found

    return jax.lax.scan(half, x, _halves(kernels, branch))


def _halves(kernels, branch):
    _, _, pointwise, scale, offset = branch.weights
    return kernels, pointwise, scale, offset, branch.batch_stats


@functools.partial(jax.jit, static_argnames="axis")
def _separable_half(x, each, axis):
    """Its output, the batch statistics, and what the backward pass needs."""
    kernel, pointwise, scale, offset, given = each
    filtered = depthwise(jax.nn.relu(x), kernel)
    mixed = filtered @ pointwise
    normalized, _, found = normalize(mixed, given, axis)
    return normalized * scale + offset, found, (filtered, mixed)


def normalize(
    x: jax.Array, given: Moments | None, axis: Axis = NO_AXIS
) -> tuple[jax.Array, jax.Array, Moments]:
    """Batch normalization (Ioffe and Szegedy, 2015), before scale and offset.

    Args:
      x: ``float[batch, height, width, channels]``.
      given: Moments to normalize with; None for those of the batch.
      axis: Devices of which each has its share of the batch.

    Returns:
      ``x`` normalized, 1 / standard deviation, and the batch statistics.
    """
    found = _moments_of(x, axis) if given is None else given
    deviation = jax.lax.rsqrt(found.variance + EPSILON)
    x = (x - found.mean.astype(x.dtype)) * deviation.astype(x.dtype)
    return x, deviation, found


def _moments_of(x, axis):
    """Of images, over the batch and its pixels."""
    mean = axis.mean(jnp.mean(x, (0, 1, 2), dtype=jnp.float32))
    centered = x - mean.astype(x.dtype)
    variance = jnp.mean(centered**2, (0, 1, 2), dtype=jnp.float32)
    return Moments(mean, axis.mean(variance))


def _backward_rule(axis, remembered, gradients):
    states, mixed, weights, wiring, kept, of_batch, batch_stats = remembered
    (of_first, of_last), _ = gradients
    cells, nodes, _ = wiring.inputs.shape
    places = _gradient_places(cells, nodes)
    gradients = jnp.zeros((np.max(places) + 1, *of_first.shape), of_first.dtype)
    gradients = gradients.at[places[0, -1]].set(of_first)
    gradients = gradients.at[places[-1, -1]].add(of_last)

    def through_cell(gradients, each):
        cell, there, mixed = each
        of_mixed, of_scale, of_offset = _normalization_backward(
            gradients[there.output],
            mixed,
            cell.output.scale,
            cell.batch_stats,
            of_batch,
            axis,
        )

        def through_node(gradients, each):
            node, place, inputs, first = each

            def from_output(_):
                x = states[node.place]
                of_node = jnp.where(x > 0, of_mixed @ node.kernel.T, 0)
                return of_node, _of_kernel(jax.nn.relu(x), of_mixed)

            # A conditional that were handed all gradients would copy them.
            gradient, of_kernel = jax.lax.cond(
                node.unused,
                from_output,
                lambda gradient: (gradient, jnp.zeros_like(node.kernel)),
                gradients[place],
            )
            of_inputs, of_weights = zip(
                *(
                    _branch_backward(states, branch, gradient, of_batch, axis)
                    for branch in _both(node.branches)
                ),
                strict=True,
            )
            for i, of_input in enumerate(of_inputs):
                before = jnp.where(first[i], 0, gradients[inputs[i]])
                gradients = _put(gradients, before + of_input, inputs[i])
            return gradients, (of_kernel, _of_both(*of_weights))

        gradients, (of_kernel, of_branches) = jax.lax.scan(
            through_node,
            gradients,
            (cell.nodes, there.nodes, there.inputs, there.first),
            reverse=True,
        )
        return gradients, Weights(of_branches, Mix(of_kernel, of_scale, of_offset))

    there = _Gradients(
        jnp.asarray(places[:, -1]),
        jnp.asarray(places[:, 2:-1]),
        _of_inputs(places, wiring),
        _first(wiring),
    )
    cell = _cells(_places(cells, nodes), weights, wiring, kept, batch_stats)
    gradients, of_weights = jax.lax.scan(
        through_cell, gradients, (cell, there, mixed), reverse=True
    )
    return (gradients[0], gradients[1]), of_weights, None, None, None


run_cells.defvjp(_forward_rule, _backward_rule)


def _first(wiring: Wiring) -> jax.Array:
    """Whether a branch's input is a node, and the backward pass comes to it first."""
    cells, nodes, _ = wiring.inputs.shape
    inputs = wiring.inputs.reshape(cells, -1)
    # It goes from the last node to the first, of each through one branch and the other.
    turn = (np.arange(nodes)[::-1, None] * 2 + np.arange(2)).ravel()
    same = inputs[:, :, None] == inputs[:, None, :]
    before = jnp.any(same & (turn[:, None] > turn), -1)
    return ((inputs >= 2) & ~before).reshape(wiring.inputs.shape)


def _branch_backward(states, branch, gradient, of_batch, axis):
    """The gradients of a branch's input and of its weights."""
    no_weights = jax.tree.map(jnp.zeros_like, branch.weights)

    def convolve(name):
        def run(x, gradient):
            kernels = getattr(branch.weights, name)
            of_input, (of_kernels, *rest) = _separable_backward(
                gradient, x, kernels, branch, of_batch, axis
            )
            found = dict(zip(("pointwise", "scale", "offset"), rest, strict=True))
            return of_input, no_weights._replace(**{name: of_kernels}, **found)

        return run

    def pool(reduce):
        def run(x, gradient):
            _, backward = jax.vjp(reduce, x)
            return *backward(gradient), no_weights

        return run

    runs = [
        convolve("depthwise_3x3"),
        convolve("depthwise_5x5"),
        pool(average_pool),
        pool(max_pool),
    ]

    def dropping(run):
        return lambda states, gradient: run(
            states[branch.input], gradient * _factor(branch.kept, gradient)
        )

    def identity(states, gradient):
        del states
        return gradient, no_weights

    branches = [*map(dropping, runs), identity]
    return jax.lax.switch(branch.operation, branches, states, gradient)


def _separable_backward(gradient, x, kernels, branch, of_batch, axis):
    """The gradients of the input, and of kernels, pointwise, scale and offset."""
    first, second = _both(_halves(kernels, branch))
    between, _, inside_first = _separable_half(x, first, axis)
    _, _, inside_second = _separable_half(between, second, axis)
    gradient, of_second = _half_backward(
        gradient, between, second, inside_second, of_batch, axis
    )
    gradient, of_first = _half_backward(
        gradient, x, first, inside_first, of_batch, axis
    )
    return gradient, _of_both(of_first, of_second)


@functools.partial(jax.jit, static_argnames=("of_batch", "axis"))
def _half_backward(gradient, x, each, inside, of_batch, axis):
    """The same of one half, given what is inside of it."""
    kernel, pointwise, scale, _, given = each
    filtered, mixed = inside
    of_mixed, of_scale, of_offset = _normalization_backward(
        gradient, mixed, scale, given, of_batch, axis
    )
    of_pointwise = _of_kernel(filtered, of_mixed)
    _, through_depthwise = jax.vjp(depthwise, jax.nn.relu(x), kernel)
    of_relu, of_kernel = through_depthwise(of_mixed @ pointwise.T)
    found = of_kernel, of_pointwise, of_scale, of_offset
    return jnp.where(x > 0, of_relu, 0), found


def _of_kernel(x, gradient):
    """The gradient of a product's kernel.

    A product needs one of its factors transposed, and XLA on a CPU computes that one
    again for it: not ``x``, which may be a convolution. Image by image it stays in the
    cache.
    """
    each = jnp.einsum("bhwo,bhwi->boi", gradient, x, preferred_element_type=jnp.float32)
    return jnp.sum(each, 0).T.astype(x.dtype)


def _normalization_backward(gradient, x, scale, batch_stats, of_batch, axis):
    """The gradients of what is normalized, and of scale and offset."""
    dtype = gradient.dtype
    normalized, deviation, _ = normalize(x, batch_stats, axis)
    of_scale = jnp.sum(gradient * normalized, (0, 1, 2), dtype=jnp.float32)
    of_offset = jnp.sum(gradient, (0, 1, 2), dtype=jnp.float32)
    if of_batch:  # The batch statistics depend on it as well.
        pixels = gradient.size // gradient.shape[-1]
        means = axis.mean((of_offset / pixels, of_scale / pixels))
        gradient = gradient - means[0].astype(dtype)
        gradient -= normalized * means[1].astype(dtype)
    of_x = gradient * (scale * deviation).astype(dtype)
    return of_x, of_scale.astype(dtype), of_offset.astype(dtype)


def _factor(kept, y):
    """Of each image."""
    return kept.astype(y.dtype)[:, None, None, None]
