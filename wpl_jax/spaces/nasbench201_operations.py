"""The operations of NAS-Bench-201 and its blocks between stages.

Images are ``float[channels, height, width, batch]``: with few channels last, an XLA CPU
program copies and adds few numbers at a time. Accelerators choose the order in memory
themselves. Kernels are matrices: their rows are ordered by place in the window, then by
channel.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.platforms import product_or_convolution
from wpl_jax.devices.axis import Axis
from wpl_jax.spaces import images
from wpl_jax.spaces.batch_normalization import Moments, normalize
from wpl_jax.spaces.depthwise import average_pool, shifts
from wpl_jax.spaces.images import UniformKernel

Params = dict[str, Any]

CHANNELS = 0  # the dimension of the channels


def channels_first(x: jax.Array) -> jax.Array:
    """From ``[batch, height, width, channels]`` to the order of this module."""
    return jnp.transpose(x, (3, 1, 2, 0))


channels_last = channels_first  # The same exchange of the first and the last.


def _nothing(kernels, given):
    channels = kernels["conv_1x1"].shape[-1]
    if given is not None:
        return given
    zero = jnp.zeros(channels)
    return {"conv_1x1": Moments(zero, zero), "conv_3x3": Moments(zero, zero)}


def _none(axis, x, kernels, given):
    del axis
    return jnp.zeros_like(x), _nothing(kernels, given)


def _skip(axis, x, kernels, given):
    del axis
    return x, _nothing(kernels, given)


def _pool(axis, x, kernels, given):
    del axis
    return average_pool(x), _nothing(kernels, given)


def _convolution(name, product, axis, x, kernels, given):
    y = product(jax.nn.relu(x), kernels[name])
    own = None if given is None else given[name]
    y, _, moments = normalize(y, own, axis, CHANNELS)
    moments = jax.lax.stop_gradient(moments)
    return y, _nothing(kernels, given) | {name: moments}


def product_1x1(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A product at each pixel.

    Args:
      x: ``float[inputs, height, width, batch]``.
      kernel: ``float[inputs, outputs]``.
    """
    # A product of matrices: in more dimensions XLA's CPU backend takes twice as long.
    y = jnp.einsum("in,io->on", x.reshape(len(x), -1), kernel)
    return y.reshape(-1, *x.shape[1:])


def product_3x3(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    """A 3x3 convolution, zeros beyond the image.

    Args:
      x: ``float[inputs, height, width, batch]``.
      kernel: ``float[9 inputs, outputs]``.
      stride: In both directions.
    """

    def product(x, kernel):
        seen = [s[:, ::stride, ::stride] for *_, s in shifts(x, 3, 0)]
        return product_1x1(jnp.concatenate(seen), kernel)

    def convolution(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel.reshape(3, 3, -1, kernel.shape[-1]),
            (stride, stride),
            [(1, 1), (1, 1)],
            dimension_numbers=("CHWN", "HWIO", "CHWN"),
        )

    return product_or_convolution(x, kernel, product=product, convolution=convolution)


# By the names of their stacks of kernels: functions of an image and a matrix.
PRODUCTS: dict[str, Callable[..., jax.Array]] = {
    "conv_1x1": product_1x1,
    "conv_3x3": product_3x3,
}

# The operations of a child, by name. Arguments: axis of devices, image, kernels of the
# edge, and moments to normalize with, or None. Results: the image, and the moments of
# both convolutions; those of a convolution that is not applied are 0.
ON_ONE_EDGE: dict[str, Callable[..., Any]] = {
    "none": _none,
    "skip_connect": _skip,
    **{f"nor_{n}": functools.partial(_convolution, n, p) for n, p in PRODUCTS.items()},
    "avg_pool_3x3": _pool,
}


def side_by_side(kernels: jax.Array) -> jax.Array:
    """Several kernels as one, ``float[inputs, kernels * outputs]``.

    Args:
      kernels: ``float[kernels, inputs, outputs]``.
    """
    return jnp.moveaxis(kernels, 0, 1).reshape(kernels.shape[1], -1)


def convolve(
    x: jax.Array, child: Params, given: Any, axis: Axis, stride: int = 1
) -> tuple[jax.Array, Moments]:
    """A 3x3 convolution and its normalization.

    Args:
      x: ``float[channels, height, width, batch]``.
      child: As :func:`affine_convolution` describes it.
      given: Moments to normalize with; None for those of the batch.
      axis: Devices that divide the batch.
      stride: In both directions.

    Returns:
      The image, and the moments that it was normalized with.
    """
    y = product_3x3(x, child["kernel"], stride)
    return images.normalized(y, child, given, axis, CHANNELS)


def convolve_channels_last(
    x: jax.Array, child: Params, given: Any, axis: Axis
) -> tuple[jax.Array, Moments]:
    """:func:`convolve` of ``float[batch, height, width, channels]``."""
    y, moments = convolve(channels_first(x), child, given, axis)
    return channels_last(y), moments


def reduce(
    x: jax.Array, child: Params, given: Any, axis: Axis
) -> tuple[jax.Array, dict[str, Moments]]:
    """The residual block that halves the image and doubles the channels.

    Arguments and results are like those of :func:`convolve`, with the moments of both
    convolutions by their names.
    """
    given = given or {}
    y, first = convolve(
        jax.nn.relu(x), child["first"], given.get("first"), axis, stride=2
    )
    y, second = convolve(jax.nn.relu(y), child["second"], given.get("second"), axis)
    channels, height, width, batch = x.shape
    halved = x.reshape(channels, height // 2, 2, width // 2, 2, batch).mean((2, 4))
    found = {"first": first, "second": second}
    return product_1x1(halved, child["shortcut"]["kernel"]) + y, found


def affine_convolution(inputs: int, outputs: int) -> Params:
    """The parameters of a convolution whose normalization has a scale and an offset.

    Args:
      inputs: Rows of the kernel: pixels of the window times channels.
      outputs: Channels.
    """
    kernel = UniformKernel((inputs, outputs), inputs)
    return {"kernel": kernel, **images.affine_parameters((outputs,), affine=True)}
