"""Batch normalization (Ioffe and Szegedy, 2015) over devices that share a batch."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NO_AXIS, Axis

EPSILON = 1e-5  # added to a variance


class Moments(NamedTuple):
    """Of what is normalized, over a batch and its pixels."""

    mean: jax.Array  # float[..., channels]
    variance: jax.Array  # float[..., channels]


def normalize(
    x: jax.Array, given: Moments | None, axis: Axis = NO_AXIS, channels: int = -1
) -> tuple[jax.Array, jax.Array, Moments]:
    """Batch normalization, before scale and offset.

    Args:
      x: Images with four dimensions, such as ``float[batch, height, width, channels]``.
      given: Moments to normalize with; None for those of the batch.
      axis: Devices of which each has its share of the batch.
      channels: The dimension of the channels.

    Returns:
      ``x`` normalized, 1 / standard deviation, and the batch statistics.
    """
    found = _moments_of(x, axis, channels) if given is None else given
    deviation = jax.lax.rsqrt(found.variance + EPSILON)
    x = x - along(found.mean.astype(x.dtype), x, channels)
    x = x * along(deviation.astype(x.dtype), x, channels)
    return x, deviation, found


def along(values: jax.Array, x: jax.Array, channels: int) -> jax.Array:
    """Values of the channels in a shape that broadcasts against images.

    Args:
      values: ``float[channels]``.
      x: Images.
      channels: Their dimension of the channels.
    """
    return jnp.expand_dims(values, _others(x, channels))


def _others(x, channels: int) -> tuple[int, ...]:
    """All dimensions but the channels: the batch and its pixels."""
    return tuple(i for i in range(x.ndim) if i != channels % x.ndim)


def _moments_of(x, axis, channels):
    """Of images, over the batch and its pixels."""
    others = _others(x, channels)
    mean = axis.mean(jnp.mean(x, others, dtype=jnp.float32))
    centered = x - along(mean.astype(x.dtype), x, channels)
    variance = jnp.mean(centered**2, others, dtype=jnp.float32)
    return Moments(mean, axis.mean(variance))


def pooled(each: Moments) -> Moments:
    """Moments over several batches of equal size, from those of each batch.

    Args:
      each: Moments with a leading axis of batches.
    """
    mean, variance = each
    return Moments(jnp.mean(mean, 0), jnp.mean(variance, 0) + jnp.var(mean, 0))


def pooled_tree(found: Any) -> Any:
    """:func:`pooled` for all moments of a tree; of other leaves the mean."""
    return jax.tree.map(
        lambda m: pooled(m) if isinstance(m, Moments) else jnp.mean(m, 0),
        found,
        is_leaf=lambda m: isinstance(m, Moments),
    )


def normalization_backward(
    gradient, x, scale, batch_stats, of_batch, axis, channels=-1
):
    """The gradients of what is normalized, and of scale and offset.

    Args:
      gradient: That of ``normalize(x) * scale + offset``.
      x: Images, such as ``float[batch, height, width, channels]``.
      scale: ``float[channels]``.
      batch_stats: Moments that ``x`` was normalized with.
      of_batch: Whether they are those of the batch, and so depend on ``x``.
      axis: Devices of which each has its share of the batch.
      channels: The dimension of the channels.
    """
    dtype, others = gradient.dtype, _others(x, channels)
    normalized, deviation, _ = normalize(x, batch_stats, axis, channels)
    of_scale = jnp.sum(gradient * normalized, others, dtype=jnp.float32)
    of_offset = jnp.sum(gradient, others, dtype=jnp.float32)
    if of_batch:  # The batch statistics depend on it as well.
        pixels = gradient.size // gradient.shape[channels]
        means = axis.mean((of_offset / pixels, of_scale / pixels))
        gradient = gradient - along(means[0].astype(dtype), x, channels)
        gradient -= normalized * along(means[1].astype(dtype), x, channels)
    of_x = gradient * along((scale * deviation).astype(dtype), x, channels)
    return of_x, of_scale.astype(dtype), of_offset.astype(dtype)


def normalize_once(
    x: jax.Array, given: Moments | None, axis: Axis = NO_AXIS
) -> tuple[jax.Array, Moments]:
    """Like :func:`normalize`, with a backward pass that is written out.

    Where XLA's CPU backend would compute ``x`` again in each reduction of the gradient,
    this one reads it.

    Returns:
      ``x`` normalized, and the batch statistics, which carry no gradient.
    """
    if given is not None:
        y, _, found = normalize(x, given, axis)
        return y, found
    y, found = _by_batch(x, axis)
    return y, jax.lax.stop_gradient(found)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _by_batch(x, axis):
    y, _, found = normalize(x, None, axis)
    return y, found


def _by_batch_forward(x, axis):
    y, found = _by_batch(x, axis)
    return (y, found), (x, found)


def _by_batch_backward(axis, saved, gradients):
    x, found = saved
    one = jnp.ones(x.shape[-1], jnp.float32)
    return normalization_backward(gradients[0], x, one, found, True, axis)[:1]


_by_batch.defvjp(_by_batch_forward, _by_batch_backward)
