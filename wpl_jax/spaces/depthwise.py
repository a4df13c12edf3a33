"""Convolution and pooling of each channel by itself, as sums of shifted images.

XLA's CPU backend takes some twenty times longer for a grouped convolution than for
the same as a sum of products of shifted images (``benchmarks/micro_cell.py``), and the
gradient of such a sum is slow again; the backward passes are therefore written out.
Images are ``float[batch, height, width, channels]``, padded so that they keep their
size. Each function is traced once for all branches that call it: ``jax.jit`` keeps the
trace, and XLA inlines the call.
"""

import functools
import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from wpl_jax.common.divisors import largest_divisor
from wpl_jax.common.platforms import in_cache_or_at_once

POOL = 3  # Rows and columns that are pooled.


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
@functools.partial(jax.jit, static_argnums=(2, 3))
def depthwise(
    images: jax.Array, kernel: jax.Array, stride: int = 1, dilation: int = 1
) -> jax.Array:
    """Convolves each channel with a kernel of its own, padded with zeros.

    Args:
      images: ``float[batch, height, width, channels]``.
      kernel: ``float[size, size, channels]``, of odd size.
      stride: In both directions; a divisor of height and width.
      dilation: Distance between two pixels of the window.

    Returns:
      ``float[batch, height / stride, width / stride, channels]``.
    """
    size = len(kernel)
    total = jnp.zeros((), images.dtype)
    for i, j, shifted in shifts(images, size, 0, stride, dilation):
        total += shifted * kernel[i, j]
    return total


def _depthwise_forward(images, kernel, stride, dilation):
    return depthwise(images, kernel, stride, dilation), (images, kernel)


def _depthwise_backward(stride, dilation, saved, gradient):
    images, kernel = saved
    options = {"size": len(kernel), "stride": stride, "dilation": dilation}
    of_kernel = in_cache_or_at_once(
        images,
        gradient,
        in_cache=functools.partial(_kernel_gradient_by_images, **options),
        at_once=functools.partial(_kernel_gradient, **options),
    )
    if stride > 1:  # The outputs that were left out have a gradient of 0.
        between = (0, stride - 1, stride - 1)
        config = [(0, 0, 0), between, between, (0, 0, 0)]
        gradient = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), config)
    of_images = depthwise(gradient, kernel[::-1, ::-1], 1, dilation)
    return of_images, of_kernel.astype(kernel.dtype)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)

_STATIC = ("size", "stride", "dilation")


@functools.partial(jax.jit, static_argnames=_STATIC)
def _kernel_gradient(images, gradient, size, stride=1, dilation=1):
    """A sum over all images for each entry of the kernel."""
    sums = [
        jnp.sum(shifted * gradient, (0, 1, 2), dtype=jnp.float32)
        for _, _, shifted in shifts(images, size, 0, stride, dilation)
    ]
    return jnp.stack(sums).reshape(size, size, -1)


_ROWS = 16  # that one iteration adds up, at most


@functools.partial(jax.jit, static_argnames=_STATIC)
def _kernel_gradient_by_images(images, gradient, size, stride=1, dilation=1):
    """The same some rows at a time, which add up in the cache.

    A reduction over all but the channels goes at a twentieth of the speed of the
    products that it adds (XLA on a CPU, jax 0.10.2).
    """
    batch, height, width, channels = gradient.shape
    rows = largest_divisor(height, _ROWS)
    together = largest_divisor(batch, _ROWS // rows)
    padded, blocks = _pad(images, size, 0, dilation), height // rows
    # Rows of the image and of the gradient that one iteration reads.
    seen = (rows - 1) * stride + 1

    def of_row(row):  # of the kernel
        def add(sums, index):
            first, top = index // blocks * together, index % blocks * rows
            x, g = (
                jax.lax.dynamic_slice(
                    array,
                    (first, start, 0, 0),
                    (together, number, array.shape[2], channels),
                ).astype(jnp.float32)
                for array, start, number in (
                    (padded, top * stride + row * dilation, seen),
                    (gradient, top, rows),
                )
            )
            places = list(itertools.product(range(together), range(rows)))
            products = []
            for j in range(size):
                columns = _from(j * dilation, width, stride)
                products.append(
                    sum(x[n, r * stride, columns] * g[n, r] for n, r in places)
                )
            return [s + p for s, p in zip(sums, products, strict=True)], None

        zeros = [jnp.zeros((width, channels))] * size
        steps = jnp.arange(batch // together * blocks)
        sums, _ = jax.lax.scan(add, zeros, steps)
        return jnp.stack([jnp.sum(each, 0) for each in sums])

    return jax.lax.map(of_row, jnp.arange(size))


@jax.custom_vjp
@jax.jit
def max_pool(images: jax.Array) -> jax.Array:
    """The largest of each pixel's 3x3 neighbours, stride 1."""
    return _largest(images)[0]


def _max_pool_forward(images):
    # Where the largest was is found again: less to remember.
    return max_pool(images), images


@jax.jit
def _max_pool_backward(images, gradient):
    where = _pad(_largest(images)[1], POOL, -1)
    padded = _pad(gradient, POOL, 0)
    height, width = images.shape[1:3]
    total = jnp.zeros_like(gradient)
    for number, (i, j) in enumerate(_offsets(POOL)):
        # What a pixel gave to the window that lies the other way.
        i, j = POOL - 1 - i, POOL - 1 - j
        window = (slice(None), slice(i, i + height), slice(j, j + width))
        total += jnp.where(where[window] == number, padded[window], 0)
    return (total,)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def _largest(images):
    """The maximum around each pixel, and the number of the first offset that has it."""
    _, _, best = next(neighbours := shifts(images, POOL, value=-jnp.inf))
    where = jnp.zeros(best.shape, jnp.int8)
    for number, (_, _, shifted) in enumerate(neighbours, 1):
        where = jnp.where(shifted > best, jnp.int8(number), where)
        best = jnp.maximum(best, shifted)
    return best, where


@jax.custom_vjp
@jax.jit
def average_pool(images: jax.Array) -> jax.Array:
    """The mean of each pixel's 3x3 neighbours that lie in the image, stride 1."""
    return _sum_around(images) / _neighbours(images)


def _average_pool_forward(images):
    return average_pool(images), None


@jax.jit
def _average_pool_backward(_, gradient):
    return (_sum_around(gradient / _neighbours(gradient)),)


average_pool.defvjp(_average_pool_forward, _average_pool_backward)


def _sum_around(images):
    return sum(shifted for _, _, shifted in shifts(images, POOL, value=0))


def _neighbours(images):
    return _sum_around(jnp.ones((1, *images.shape[1:3], 1), images.dtype))


def shifts(
    images, size: int, value, stride: int = 1, dilation: int = 1
) -> Iterator[tuple[int, int, jax.Array]]:
    """The images as seen from each position of a window around each pixel.

    Args:
      images: ``float[batch, height, width, channels]``.
      size: Rows and columns of the window, an odd number.
      value: Of what lies beyond the image.
      stride: Of the pixels that the window is around, a divisor of height and width.
      dilation: Distance between two pixels of the window.

    Yields:
      Row and column in the window, and the images moved so.
    """
    height, width = (pixels // stride for pixels in images.shape[1:3])
    padded = _pad(images, size, value, dilation)
    for i, j in _offsets(size):
        rows = _from(i * dilation, height, stride)
        yield i, j, padded[:, rows, _from(j * dilation, width, stride)]


def _from(first: int, number: int, stride: int) -> slice:
    return slice(first, first + (number - 1) * stride + 1, stride)


def _offsets(size: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(size) for j in range(size)]


def _pad(images, size: int, value, dilation: int = 1):
    margin = (size // 2 * dilation,) * 2
    return jnp.pad(images, ((0, 0), margin, margin, (0, 0)), constant_values=value)
