"""A cell whose graph is data: nodes that apply chosen operations to chosen states.

Pham et al., "Efficient Neural Architecture Search" (2018), section 2.4. The states of
a cell are its two inputs and then its nodes; each node adds up two branches, and each
branch applies one of :data:`OPERATIONS` to one earlier state.

Which one is a number on the device. A conditional runs the chosen operation and no
other, in the forward as in the backward pass; both passes are a loop over the nodes,
so that one compiled body serves them all. The backward pass is written out, because
that of a differentiated conditional keeps room for what every operation would want
remembered, and that of a differentiated choice of a state adds up a gradient for
each state that was not chosen. It remembers the states and the moments of what was
normalized; what is between them in a convolution is computed again, which costs less
than to write it, and room for it where there is none, for every branch.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.parallel import ALONE, Axis
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
    """The graph of a cell; the second axis are the two branches of a node."""

    inputs: jax.Array  # int32[nodes, 2]; a state, at most node + 1
    operations: jax.Array  # int32[nodes, 2]; index into OPERATIONS


class Weights(NamedTuple):
    """Of separable convolutions, which go twice through depthwise and pointwise.

    Both sizes of the depthwise kernel are there, of which a branch uses one or none.
    """

    depthwise_3x3: jax.Array  # float[nodes, 2, 2, 3, 3, channels]
    depthwise_5x5: jax.Array  # float[nodes, 2, 2, 5, 5, channels]
    pointwise: jax.Array  # float[nodes, 2, 2, channels, channels]
    scale: jax.Array  # float[nodes, 2, 2, channels]; of the normalization
    offset: jax.Array  # float[nodes, 2, 2, channels]


class Moments(NamedTuple):
    """Of what is normalized, over a batch and its pixels."""

    mean: jax.Array  # float[..., channels]
    variance: jax.Array  # float[..., channels]


class _Parts(NamedTuple):
    """What belongs to the branches of all nodes, of one node, or to one branch."""

    wiring: Wiring
    weights: Weights
    kept: jax.Array
    moments: Moments | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def run_cell(
    first: jax.Array,
    second: jax.Array,
    weights: Weights,
    wiring: Wiring,
    kept: jax.Array,
    moments: Moments | None = None,
    axis: Axis = ALONE,
) -> tuple[jax.Array, Moments]:
    """Computes all states of a cell.

    Args:
      first: The older input, ``float[batch, height, width, channels]``.
      second: The newer input, of the same shape.
      weights: Of the branches' convolutions.
      wiring: The graph. Not differentiated.
      kept: Factor on what each branch makes of each image, ``float[nodes, 2,
        batch]``, but for the identity: 1, or for drop-path 0 or more than 1. Not
        differentiated.
      moments: To normalize with, ``float[nodes, 2, 2, channels]``; None for those of
        the batch.
      axis: Devices of which each has its share of a batch.

    Returns:
      The states ``float[nodes + 2, batch, height, width, channels]``, the inputs
      first, and the moments of the batch, or those that were given; zeros where a
      branch is no convolution. The moments carry no gradient.
    """
    return _forward(first, second, weights, wiring, kept, moments, axis)


def _forward(first, second, weights, wiring, kept, moments, axis):
    nodes = len(wiring.inputs)
    states = jnp.zeros((nodes + 2, *first.shape), first.dtype)
    states = states.at[0].set(first).at[1].set(second)

    def add_node(states, each):
        node, parts = each
        (y, found), (other, found_there) = (
            _branch(states, branch, axis) for branch in _branches(parts)
        )
        return states.at[node].set(y + other), _of_node(found, found_there)

    each = jnp.arange(2, nodes + 2), _Parts(wiring, weights, kept, moments)
    return jax.lax.scan(add_node, states, each)


def _branches(parts: _Parts) -> list[_Parts]:
    """The two of a node. Nothing joins them, so that they may run side by side."""
    return [jax.tree.map(lambda x, i=i: x[i], parts) for i in range(2)]


def _of_node(*branches):
    """What was found of its two branches, as one tree."""
    return jax.tree.map(lambda *both: jnp.stack(both), *branches)


def _branch(states, parts, axis):
    """One branch's output, and its moments."""
    wiring, weights, kept, moments = parts
    channels = states.shape[-1]
    nothing = Moments(jnp.zeros((2, channels)), jnp.zeros((2, channels)))

    def convolve(kernels):
        return lambda x: _separable(x, kernels, weights, moments, axis)

    def pool(reduce):
        return lambda x: (reduce(x), nothing)

    runs = [
        convolve(weights.depthwise_3x3),
        convolve(weights.depthwise_5x5),
        pool(average_pool),
        pool(max_pool),
    ]

    def dropping(run):
        def dropped(states):
            y, found = run(states[wiring.inputs])
            return y * _factor(kept, y), found

        return dropped

    def identity(states):
        return states[wiring.inputs], nothing

    branches = [*map(dropping, runs), identity]
    return jax.lax.switch(wiring.operations, branches, states)


def _separable(x, kernels, weights, moments, axis):
    """A separable convolution, twice."""

    def half(x, each):
        return _separable_half(x, each, axis)

    each = (kernels, weights.pointwise, weights.scale, weights.offset, moments)
    return jax.lax.scan(half, x, each)


def _separable_half(x, each, axis):
    kernel, pointwise, scale, offset, given = each
    mixed = depthwise(jax.nn.relu(x), kernel) @ pointwise
    normalized, _, found = normalize(mixed, given, axis)
    return normalized * scale + offset, found


def normalize(
    x: jax.Array, given: Moments | None, axis: Axis = ALONE
) -> tuple[jax.Array, jax.Array, Moments]:
    """Batch normalization (Ioffe and Szegedy, 2015), before scale and offset.

    Args:
      x: ``float[batch, height, width, channels]``.
      given: Moments to normalize with; None for those of the batch.
      axis: Devices of which each has its share of the batch.

    Returns:
      ``x`` normalized, 1 / standard deviation, and the moments.
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


def _forward_rule(first, second, weights, wiring, kept, moments, axis):
    states, found = _forward(first, second, weights, wiring, kept, moments, axis)
    remembered = states, weights, wiring, kept, moments is None, found
    return (states, found), remembered


def _backward_rule(axis, remembered, gradients):
    states, weights, wiring, kept, of_batch, moments = remembered
    gradients, _ = gradients

    def through_node(gradients, each):
        node, parts = each
        of_inputs, of_weights = zip(
            *(
                _branch_backward(states, branch, gradients[node], of_batch, axis)
                for branch in _branches(parts)
            ),
            strict=True,
        )
        for place, of_input in zip(parts.wiring.inputs, of_inputs, strict=True):
            gradients = gradients.at[place].add(of_input)
        return gradients, _of_node(*of_weights)

    each = jnp.arange(2, len(states)), _Parts(wiring, weights, kept, moments)
    gradients, of_weights = jax.lax.scan(through_node, gradients, each, reverse=True)
    return gradients[0], gradients[1], of_weights, None, None, None


run_cell.defvjp(_forward_rule, _backward_rule)


def _branch_backward(states, parts, gradient, of_batch, axis):
    """The gradients of a branch's input and of its weights."""
    wiring, weights, kept, moments = parts
    no_weights = jax.tree.map(jnp.zeros_like, weights)

    def convolve(name):
        def run(x, gradient):
            of_input, (of_kernels, *rest) = _separable_backward(
                gradient, x, getattr(weights, name), weights, moments, of_batch, axis
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
            states[wiring.inputs], gradient * _factor(kept, gradient)
        )

    def identity(states, gradient):
        del states
        return gradient, no_weights

    branches = [*map(dropping, runs), identity]
    return jax.lax.switch(wiring.operations, branches, states, gradient)


def _separable_backward(gradient, x, kernels, weights, moments, of_batch, axis):
    """The gradients of the input, and of kernels, pointwise, scale and offset."""
    halves = (kernels, weights.pointwise, weights.scale, weights.offset, moments)
    # The input of the second half is what the first has made of it.
    between, _ = _separable_half(x, jax.tree.map(lambda h: h[0], halves), axis)

    def half(gradient, each):
        x, (kernel, pointwise, scale, _, given) = each
        dtype = gradient.dtype
        filtered, backward = jax.vjp(depthwise, jax.nn.relu(x), kernel)
        normalized, deviation, _ = normalize(filtered @ pointwise, given, axis)
        of_scale = jnp.sum(gradient * normalized, (0, 1, 2), dtype=jnp.float32)
        of_offset = jnp.sum(gradient, (0, 1, 2), dtype=jnp.float32)
        if of_batch:  # The moments depend on the input as well.
            pixels = gradient.size // gradient.shape[-1]
            means = axis.mean((of_offset / pixels, of_scale / pixels))
            gradient = gradient - means[0].astype(dtype)
            gradient -= normalized * means[1].astype(dtype)
        of_mixed = gradient * (scale * deviation).astype(dtype)
        of_pointwise = jnp.tensordot(filtered, of_mixed, ((0, 1, 2),) * 2)
        of_relu, of_kernel = backward(of_mixed @ pointwise.T)
        found = (
            of_kernel,
            of_pointwise,
            of_scale.astype(dtype),
            of_offset.astype(dtype),
        )
        return jnp.where(x > 0, of_relu, 0), found

    each = jnp.stack([x, between]), halves
    return jax.lax.scan(half, gradient, each, reverse=True)


def _factor(kept, y):
    """Of each image."""
    return kept.astype(y.dtype)[:, None, None, None]
