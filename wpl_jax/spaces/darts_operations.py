"""The operations of the DARTS spaces, on one edge or on several from the same state.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019), and its
code. Edges lie side by side: the channels of the first edge, then those of the second.
A convolution is then one sum of shifted images and one product for all of them, and a
child is the case of one edge.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import Axis
from wpl_jax.spaces.batch_normalization import Moments, normalize_once
from wpl_jax.spaces.depthwise import average_pool, depthwise, max_pool
from wpl_jax.spaces.images import UniformKernel, affine_parameters

Params = dict[str, Any]


class Convolution(NamedTuple):
    """ReLU, depthwise, pointwise and normalization, once or twice.

    Where there is a stride, the first depthwise convolution has it.
    """

    size: int  # rows and columns of the depthwise kernel
    dilation: int = 1
    repeats: int = 1

    def parameters(self, rows: int, channels: int, affine: bool) -> Params:
        """The parameters of several, to be drawn by ``images.init``.

        Args:
          rows: Number of convolutions.
          channels: Of the image.
          affine: Whether normalization has a scale and an offset.
        """
        many = (rows, self.repeats)
        return {
            "depthwise": UniformKernel(
                (*many, self.size, self.size, channels), self.size**2
            ),
            "pointwise": UniformKernel((*many, channels, channels), channels),
            **affine_parameters((*many, channels), affine),
        }

    def apply(
        self,
        x: jax.Array,
        weights: Params,
        stride: int,
        given: Moments | None,
        axis: Axis,
    ) -> tuple[jax.Array, list[Moments]]:
        """The convolutions of all edges, without the last normalization.

        Args:
          x: ``float[batch, height, width, edges * channels]``.
          weights: As :meth:`parameters` describes them, with a row for each edge.
          stride: In both directions.
          given: Moments to normalize with, ``float[repeats, edges * channels]``; None
            for those of the batch.
          axis: Devices that divide the batch.

        Returns:
          The images, and the moments of all normalizations but the last.
        """
        found = []
        for number in range(self.repeats):
            own = {name: w[:, number] for name, w in weights.items()}
            x = depthwise(
                jax.nn.relu(x),
                side_by_side(own["depthwise"]),
                1 if number else stride,
                self.dilation,
            )
            x = product_of_each(x, own["pointwise"])
            if number < self.repeats - 1:
                x, moments = normalize_once(x, nth(given, number), axis)
                x = scaled(x, own)
                found.append(moments)
        return x, found


# By name; sep_conv_7x7 is in published cells, and no choice of the space.
CONVOLUTIONS = {
    "sep_conv_3x3": Convolution(3, repeats=2),
    "sep_conv_5x5": Convolution(5, repeats=2),
    "sep_conv_7x7": Convolution(7, repeats=2),
    "dil_conv_3x3": Convolution(3, dilation=2),
    "dil_conv_5x5": Convolution(5, dilation=2),
}
POOLS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": average_pool,
}
NONE, SKIP = "none", "skip_connect"
# The choices of the space, in the order of the code of DARTS.
OPERATIONS = (
    NONE,
    *POOLS,
    SKIP,
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
MOST_REPEATS = 2


def skip_parameters(rows: int, channels: int, affine: bool) -> Params:
    """Those of several skip connections that halve the image."""
    return {
        "kernel": UniformKernel((rows, channels, channels), channels),
        **affine_parameters((rows, 1, channels), affine),
    }


def halving_skip(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """Skip connections that halve the image, of several edges, not yet normalized.

    A factorized reduction: one half of the outputs sees every other pixel, the other
    half those one row and one column further.

    Args:
      x: ``float[batch, height, width, channels]``, after ReLU.
      kernels: ``float[edges, channels, channels]``.

    Returns:
      ``float[batch, height / 2, width / 2, edges * channels]``.
    """
    half = kernels.shape[-1] // 2
    halves = [
        x[:, start::2, start::2] @ side_by_side(of_half)
        for start, of_half in enumerate((kernels[..., :half], kernels[..., half:]))
    ]
    by_edge = [y.reshape(*y.shape[:-1], len(kernels), half) for y in halves]
    return jnp.concatenate(by_edge, -1).reshape(*halves[0].shape[:-1], -1)


def apply_operation(
    name: str,
    x: jax.Array,
    weights: dict[str, Params],
    stride: int,
    given: Moments | None,
    axis: Axis,
    normalize_pools: bool,
) -> tuple[jax.Array, Moments]:
    """One operation on one edge.

    Args:
      name: Of the operation.
      x: ``float[batch, height, width, channels]``.
      weights: Of the operations that have some, by name, with a row for the edge.
      stride: 1 or 2.
      given: Moments to normalize with, ``float[2, channels]``; None for those of the
        batch.
      axis: Devices that divide the batch.
      normalize_pools: Whether a normalization follows pooling.

    Returns:
      The image, and the moments like ``given``, 0 for those that there are not.
    """
    found: list[Moments] = []
    own: Params = {}
    normalized = True
    if name == NONE:
        y, normalized = jnp.zeros_like(x[:, ::stride, ::stride]), False
    elif name in POOLS:
        y, normalized = POOLS[name](x)[:, ::stride, ::stride], normalize_pools
    elif name == SKIP and stride == 1:
        y, normalized = x, False
    elif name == SKIP:
        own = weights[name]
        y = halving_skip(jax.nn.relu(x), own["kernel"][None])
    else:
        own = weights[name]
        rows = jax.tree.map(lambda w: w[None], own)
        y, found = CONVOLUTIONS[name].apply(x, rows, stride, given, axis)
    if normalized:
        last = len(found)
        y, moments = normalize_once(y, nth(given, last), axis)
        if "scale" in own:
            y = y * own["scale"][last] + own["offset"][last]
        found.append(moments)
    zero = jnp.zeros(x.shape[-1], jnp.float32)
    found += [Moments(zero, zero)] * (MOST_REPEATS - len(found))
    return y, jax.tree.map(lambda *m: jnp.stack(m), *found)


def side_by_side(kernels: jax.Array) -> jax.Array:
    """Kernels of several edges as one, ``float[..., edges * channels]``.

    Args:
      kernels: ``float[edges, ..., channels]``.
    """
    moved = jnp.moveaxis(kernels, 0, -2)
    return moved.reshape(*moved.shape[:-2], -1)


_WIDEST = 128  # product with zeros for the other edges, which costs what it needs not


def product_of_each(x: jax.Array, kernels: jax.Array) -> jax.Array:
    """The channels of each edge times its kernel.

    Args:
      x: ``float[batch, height, width, edges * channels]``.
      kernels: ``float[edges, channels, outputs]``.

    Returns:
      ``float[batch, height, width, edges * outputs]``.
    """
    edges, channels, outputs = kernels.shape
    if edges == 1:
        return x @ kernels[0]
    if edges * channels > _WIDEST:
        each = jnp.split(x, edges, -1)
        parts = [y @ kernel for y, kernel in zip(each, kernels, strict=True)]
        return jnp.concatenate(parts, -1)
    # One product of a block-diagonal matrix: those of few channels are too small.
    blocks = kernels[:, :, None] * jnp.eye(edges, dtype=kernels.dtype)[:, None, :, None]
    return x @ blocks.reshape(edges * channels, edges * outputs)


def scaled(x: jax.Array, weights: Params) -> jax.Array:
    """Applies scale and offset of all edges, if there are some.

    Args:
      x: ``float[batch, height, width, edges * channels]``.
      weights: ``scale`` and ``offset``, ``float[edges, channels]``, may be among them.
    """
    if "scale" not in weights:
        return x
    return x * weights["scale"].reshape(-1) + weights["offset"].reshape(-1)


def nth(moments: Moments | None, number: int) -> Moments | None:
    """Those of one normalization, None if there are none."""
    return None if moments is None else Moments(*(m[number] for m in moments))
