"""Convolution as a matrix product of patches and kernel.

A per-example weight gradient is not a convolution that XLA is good at: under
``vmap`` it becomes one with as many feature groups as examples. With the patches
written out it is a batched matrix product. On XLA's CPU backend moreover the
gradient of a convolution inside a loop is about thirty times slower than outside,
and matrix products are not (measured on jax 0.10.2).
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


def as_product(equation: Any) -> Callable[..., list[jax.Array]] | None:
    """A convolution's equation as a function by a matrix product, or None.

    Returns:
      A function of images and kernel, in a list, as the equation's own would be.
    """
    if equation.primitive.name != "conv_general_dilated":
        return None
    convolution = Convolution(equation.params)
    if not convolution.is_product():
        return None
    return lambda images, kernel: [convolution(images, kernel)]


class Convolution(NamedTuple):
    """A convolution as patches times kernel, from the parameters of its equation."""

    params: dict[str, Any]

    def is_product(self) -> bool:
        """Whether every output is the product of a whole patch and the kernel."""
        return (
            self.params["feature_group_count"] == 1
            and self.params["batch_group_count"] == 1
            and set(self.params["lhs_dilation"]) <= {1}
        )

    def __call__(self, images: jax.Array, kernel: jax.Array) -> jax.Array:
        """The convolution."""
        patches = self.patches(images, kernel.shape)
        # [batch, *space, outputs], to the layout that the equation asks for.
        y = jnp.matmul(
            patches,
            self.kernel_matrix(kernel),
            precision=self.params["precision"],
            preferred_element_type=self.params["preferred_element_type"],
        )
        order = self.result_axes()
        return jnp.transpose(y, [order.index(axis) for axis in range(len(order))])

    def result_axes(self) -> tuple[int, ...]:
        """The axes of a result as batch, space and outputs."""
        spec = self.params["dimension_numbers"].out_spec
        return (spec[0], *spec[2:], spec[1])

    def patches(self, images: jax.Array, kernel_shape: tuple[int, ...]) -> jax.Array:
        """The patches, ``[batch, *space, offsets * channels]``."""
        spec = self.params["dimension_numbers"]
        order = (spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1])
        x = jnp.transpose(images, order)
        edges = [(low, high, 0) for low, high in self.params["padding"]]
        x = jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *edges, (0, 0, 0)])
        strides, dilation = self.params["window_strides"], self.params["rhs_dilation"]
        sizes = [kernel_shape[axis] for axis in spec.rhs_spec[2:]]
        spans = [
            (length - (size - 1) * step - 1) // stride * stride + 1
            for length, size, step, stride in zip(
                x.shape[1:-1], sizes, dilation, strides, strict=True
            )
        ]
        shifted = []
        for offset in itertools.product(*map(range, sizes)):
            start = [o * step for o, step in zip(offset, dilation, strict=True)]
            end = [s + span for s, span in zip(start, spans, strict=True)]
            shifted.append(
                jax.lax.slice(
                    x,
                    (0, *start, 0),
                    (x.shape[0], *end, x.shape[-1]),
                    (1, *strides, 1),
                )
            )
        return jnp.concatenate(shifted, axis=-1)

    def kernel_matrix(self, kernel: jax.Array) -> jax.Array:
        """The kernel as ``[offsets * channels, outputs]``, to match the patches."""
        spec = self.params["dimension_numbers"].rhs_spec
        kernel = jnp.transpose(kernel, (*spec[2:], spec[1], spec[0]))
        return kernel.reshape(-1, kernel.shape[-1])
