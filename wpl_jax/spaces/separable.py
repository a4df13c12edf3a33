"""Separable convolutions: ReLU, depthwise, pointwise, normalization; all of it twice.

The backward pass is written out. It computes the inside of a convolution again, which
costs less than to write it, and room for it where there is none, for every branch of a
cell (:mod:`wpl_jax.spaces.cell_graph`). Halves are jitted functions: all branches share
their trace.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import Axis
from wpl_jax.spaces.batch_normalization import (
    Moments,
    normalization_backward,
    normalize,
)
from wpl_jax.spaces.depthwise import depthwise


class Separable(NamedTuple):
    """Weights of convolutions, which go twice through depthwise and pointwise.

    Both sizes of the depthwise kernel are there, of which a branch uses one or none.
    """

    depthwise_3x3: jax.Array  # float[cells, nodes, 2, 2, 3, 3, channels]
    depthwise_5x5: jax.Array  # float[cells, nodes, 2, 2, 5, 5, channels]
    pointwise: jax.Array  # float[cells, nodes, 2, 2, channels, channels]
    scale: jax.Array  # float[cells, nodes, 2, 2, channels]; of the normalization
    offset: jax.Array  # float[cells, nodes, 2, 2, channels]


def both(pair: Any) -> list[Any]:
    """Two branches of a node, or halves of a branch, of a tree of both.

    Branches are not joined by anything, so that they may run side by side; halves in
    a loop would have to write down what one pass leaves to the next.
    """
    return [jax.tree.map(lambda x, i=i: x[i], pair) for i in range(2)]


def of_both(*each):
    """What was found of both, as one tree."""
    return jax.tree.map(lambda *both: jnp.stack(both), *each)


def separable(
    x: jax.Array,
    kernels: jax.Array,
    weights: Separable,
    batch_stats: Moments | None,
    axis: Axis,
) -> tuple[jax.Array, Moments]:
    """A separable convolution, twice.

    Args:
      x: ``float[batch, height, width, channels]``.
      kernels: Depthwise, ``float[2, size, size, channels]``.
      weights: All others, of one branch.
      batch_stats: To normalize with, ``float[2, channels]``; None for those of the
        batch.
      axis: Devices of which each has its share of the batch.

    Returns:
      Images of the same shape, and the batch statistics.
    """

    def half(x, each):
        y, found, _ = _separable_half(x, each, axis)
        return y, found

    return jax.lax.scan(half, x, _halves(kernels, weights, batch_stats))


def _halves(kernels, weights, batch_stats):
    _, _, pointwise, scale, offset = weights
    return kernels, pointwise, scale, offset, batch_stats


@functools.partial(jax.jit, static_argnames="axis")
def _separable_half(x, each, axis):
    """Its output, the batch statistics, and what the backward pass needs."""
    kernel, pointwise, scale, offset, given = each
    filtered = depthwise(jax.nn.relu(x), kernel)
    mixed = filtered @ pointwise
    normalized, _, found = normalize(mixed, given, axis)
    return normalized * scale + offset, found, (filtered, mixed)


def separable_backward(gradient, x, kernels, weights, batch_stats, of_batch, axis):
    """The gradients of the input, and of kernels, pointwise, scale and offset.

    Args:
      gradient: Of what :func:`separable` returned.
      x: As of :func:`separable`.
      kernels: The same.
      weights: The same.
      batch_stats: Those that it returned.
      of_batch: Whether they are those of the batch, and so depend on ``x``.
      axis: As of :func:`separable`.
    """
    first, second = both(_halves(kernels, weights, batch_stats))
    between, _, inside_first = _separable_half(x, first, axis)
    _, _, inside_second = _separable_half(between, second, axis)
    gradient, of_second = _half_backward(
        gradient, between, second, inside_second, of_batch, axis
    )
    gradient, of_first = _half_backward(
        gradient, x, first, inside_first, of_batch, axis
    )
    return gradient, of_both(of_first, of_second)


@functools.partial(jax.jit, static_argnames=("of_batch", "axis"))
def _half_backward(gradient, x, each, inside, of_batch, axis):
    """The same of one half, given what is inside of it."""
    kernel, pointwise, scale, _, given = each
    filtered, mixed = inside
    of_mixed, of_scale, of_offset = normalization_backward(
        gradient, mixed, scale, given, of_batch, axis
    )
    of_pointwise = kernel_gradient(filtered, of_mixed)
    _, through_depthwise = jax.vjp(depthwise, jax.nn.relu(x), kernel)
    of_relu, of_kernel = through_depthwise(of_mixed @ pointwise.T)
    found = of_kernel, of_pointwise, of_scale, of_offset
    return jnp.where(x > 0, of_relu, 0), found


def kernel_gradient(x, gradient):
    """The gradient of the kernel of a pointwise product, ``x @ kernel``.

    A product needs one of its factors transposed, and XLA on a CPU computes that one
    again for it: not ``x``, which may be a convolution. Image by image it stays in the
    cache.
    """
    each = jnp.einsum("bhwo,bhwi->boi", gradient, x, preferred_element_type=jnp.float32)
    return jnp.sum(each, 0).T.astype(x.dtype)
