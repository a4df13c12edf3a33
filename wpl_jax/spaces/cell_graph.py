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
states, and into one of gradients (:mod:`wpl_jax.spaces.cell_layout`). Remembered are
the states and the batch statistics of what was normalized; the inside of a convolution
is computed again.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces.batch_normalization import (
    Moments,
    normalization_backward,
    normalize,
)
from wpl_jax.spaces.cell_layout import (
    CellMoments,
    GradientPlaces,
    Mix,
    Weights,
    Wiring,
    all_cells,
    gradient_places,
    is_first,
    places_of_inputs,
    state_places,
)
from wpl_jax.spaces.depthwise import average_pool, max_pool
from wpl_jax.spaces.separable import (
    both,
    kernel_gradient,
    of_both,
    separable,
    separable_backward,
)

OPERATIONS = (
    "separable_3x3",
    "separable_5x5",
    "average_3x3",
    "max_3x3",
    "identity",
)
CONVOLUTIONS = 2  # The first of them have weights.


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
    places = state_places(cells, nodes)
    first, second = inputs
    states = jnp.zeros((np.max(places) + 1, *first.shape), first.dtype)
    states = states.at[0].set(first).at[1].set(second)

    def run(states, cell):
        def add_node(carry, node):
            states, mixed = carry
            (y, found), (other, found_there) = (
                _branch(states, branch, axis) for branch in both(node.branches)
            )
            y = y + other
            mixed = jax.lax.cond(
                node.unused,
                lambda mixed: mixed + jax.nn.relu(y) @ node.kernel,
                lambda mixed: mixed,
                mixed,
            )
            return (_put(states, y, node.place), mixed), of_both(found, found_there)

        (states, mixed), of_branches = jax.lax.scan(
            add_node, (states, jnp.zeros_like(first)), cell.nodes
        )
        y, _, of_output = normalize(mixed, cell.batch_stats, axis)
        y = y * cell.output.scale + cell.output.offset
        found = CellMoments(of_branches, of_output)
        return _put(states, y, cell.place), (mixed, found)

    each = all_cells(places, weights, wiring, kept, batch_stats)
    states, (mixed, found) = jax.lax.scan(run, states, each)
    outputs = states[places[0, -1]], states[places[-1, -1]]
    remembered = states, mixed, weights, wiring, kept, batch_stats is None, found
    return (outputs, found), remembered


def _put(states, state, place):
    """Writes one. ``at[place].set`` would read what was there, and guard the place."""
    return jax.lax.dynamic_update_index_in_dim(states, state, place, 0)


def _branch(states, branch, axis):
    """One branch's output, and its batch statistics."""
    channels = states.shape[-1]
    nothing = Moments(jnp.zeros((2, channels)), jnp.zeros((2, channels)))

    def convolve(kernels):
        return lambda x: separable(x, kernels, branch.weights, branch.batch_stats, axis)

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


def _backward_rule(axis, remembered, gradients):
    states, mixed, weights, wiring, kept, of_batch, batch_stats = remembered
    (of_first, of_last), _ = gradients
    cells, nodes, _ = wiring.inputs.shape
    places = gradient_places(cells, nodes)
    gradients = jnp.zeros((np.max(places) + 1, *of_first.shape), of_first.dtype)
    gradients = gradients.at[places[0, -1]].set(of_first)
    gradients = gradients.at[places[-1, -1]].add(of_last)

    def through_cell(gradients, each):
        cell, there, mixed = each
        of_mixed, of_scale, of_offset = normalization_backward(
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
                return of_node, kernel_gradient(jax.nn.relu(x), of_mixed)

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
                    for branch in both(node.branches)
                ),
                strict=True,
            )
            for i, of_input in enumerate(of_inputs):
                before = jnp.where(first[i], 0, gradients[inputs[i]])
                gradients = _put(gradients, before + of_input, inputs[i])
            return gradients, (of_kernel, of_both(*of_weights))

        gradients, (of_kernel, of_branches) = jax.lax.scan(
            through_node,
            gradients,
            (cell.nodes, there.nodes, there.inputs, there.first),
            reverse=True,
        )
        return gradients, Weights(of_branches, Mix(of_kernel, of_scale, of_offset))

    there = GradientPlaces(
        jnp.asarray(places[:, -1]),
        jnp.asarray(places[:, 2:-1]),
        places_of_inputs(places, wiring),
        is_first(wiring),
    )
    cell = all_cells(state_places(cells, nodes), weights, wiring, kept, batch_stats)
    gradients, of_weights = jax.lax.scan(
        through_cell, gradients, (cell, there, mixed), reverse=True
    )
    return (gradients[0], gradients[1]), of_weights, None, None, None


run_cells.defvjp(_forward_rule, _backward_rule)


def _branch_backward(states, branch, gradient, of_batch, axis):
    """The gradients of a branch's input and of its weights."""
    no_weights = jax.tree.map(jnp.zeros_like, branch.weights)

    def convolve(name):
        def run(x, gradient):
            kernels = getattr(branch.weights, name)
            of_input, (of_kernels, *rest) = separable_backward(
                gradient, x, kernels, branch.weights, branch.batch_stats, of_batch, axis
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


def _factor(kept, y):
    """Of each image."""
    return kept.astype(y.dtype)[:, None, None, None]
