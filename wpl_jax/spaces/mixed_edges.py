"""Weighted sums of operations, for all edges from one node at once.

The mixed operation of DARTS (Liu, Simonyan, Yang, ICLR 2019, equation 2). The backward
pass is written out. On a CPU, XLA would recompute the gradient of such a sum in each
reduction of a batch normalization. The gradient in the shared parameters alone would
then take twice as long as together with that in the weights
(``benchmarks/nasbench201.py``).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces.batch_normalization import (
    Moments,
    along,
    normalization_backward,
    normalize,
)


class Terms(NamedTuple):
    """The terms of the weighted sum: lists with an entry for each operation.

    Attributes:
      convolved: Outputs of convolutions, such as ``float[batch, height, width, edges *
        channels]``, the channels of an edge side by side. Batch normalization is
        applied to them first.
      of_convolved: Weights of the former, ``float[edges]``.
      images: Outputs of other operations, such as ``float[batch, height, width,
        channels]``, the same for all edges.
      of_images: Weights of the former, ``float[edges]``.
    """

    convolved: list[jax.Array]
    of_convolved: list[jax.Array]
    images: list[jax.Array]
    of_images: list[jax.Array]


def mix(
    terms: Terms,
    given: list[Moments] | None,
    axis: Axis = NO_AXIS,
    channels: int = -1,
) -> tuple[jax.Array, list[Moments]]:
    """The weighted sum of each edge.

    Args:
      terms: The terms of the sum.
      given: Moments that normalize ``convolved``, ``float[edges * channels]``; None for
        those of the batch.
      axis: Devices that divide the batch.
      channels: The dimension of the channels.

    Returns:
      As ``convolved``, and the moments, which carry no gradient.
    """
    if given is not None:
        return _sum(terms, given, axis, channels)
    total, moments = _sum_by_batch(terms, axis, channels)
    return total, jax.lax.stop_gradient(moments)


def _sum(terms, given, axis, channels):
    total: Any = 0.0
    found, edges = [], len(terms.of_convolved[0])
    for place, (x, weights) in enumerate(
        zip(terms.convolved, terms.of_convolved, strict=True)
    ):
        y, _, moments = normalize(x, given[place] if given else None, axis, channels)
        total += y * along(_of_channels(weights, y, channels), y, channels)
        found.append(moments)
    for x, weights in zip(terms.images, terms.of_images, strict=True):
        tiled = jnp.concatenate([x] * edges, channels)
        total += tiled * along(_of_channels(weights, tiled, channels), x, channels)
    return total, found


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _sum_by_batch(terms, axis, channels):
    return _sum(terms, None, axis, channels)


def _forward(terms, axis, channels):
    total, moments = _sum(terms, None, axis, channels)
    return (total, moments), (terms, moments)


def _backward(axis, channels, saved: Any, gradients: Any):
    (terms, moments), (gradient, _) = saved, gradients
    edges = len(terms.of_convolved[0])
    of_edges = jnp.split(gradient, edges, channels)
    slopes = Terms([], [], [], [])
    for x, weights, own in zip(
        terms.convolved, terms.of_convolved, moments, strict=True
    ):
        of_x, of_scale, _ = normalization_backward(
            *(gradient, x, _of_channels(weights, x, channels)),
            *(own, True, axis, channels),
        )
        slopes.convolved.append(of_x)
        of_weights = jnp.sum(of_scale.reshape(edges, -1), -1)
        slopes.of_convolved.append(of_weights.astype(weights.dtype))
    for x, weights in zip(terms.images, terms.of_images, strict=True):
        slopes.images.append(sum(w * g for w, g in zip(weights, of_edges, strict=True)))
        products = [jnp.sum(x * g, dtype=jnp.float32) for g in of_edges]
        slopes.of_images.append(jnp.stack(products).astype(weights.dtype))
    return (slopes,)


_sum_by_batch.defvjp(_forward, _backward)


def _of_channels(weights, x, channels):
    """The weight of each edge, repeated for all of its channels in ``x``."""
    return jnp.repeat(weights, x.shape[channels] // len(weights)).astype(x.dtype)
