"""A found network as blocks that can be written out as Flax source.

A space returns a :class:`Network` from :meth:`wpl_jax.supernet.Space.network`.
:mod:`wpl_jax.models.source` writes it as a Flax NNX or as a Flax Linen module. What is
in here are names of layers and Python expressions, and no Flax.

Expressions may use the arguments of their block as ``$name``. Three marks in the body
of ``__call__`` become different text in NNX and in Linen: ``@flax`` is the module with
the pooling functions, ``@norm`` the second argument of a call of a batch normalization,
and ``@train`` that of a call of another block.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

Expression = str | int


class Conv(NamedTuple):
    """A convolution without a bias, its input padded by half of the window.

    ``dilation`` is the distance between two pixels of the window.
    """

    inputs: Expression
    outputs: Expression
    size: Expression
    stride: Expression = 1
    groups: Expression = 1
    dilation: int = 1


class BatchNorm(NamedTuple):
    """Batch normalization (``wpl_jax.spaces.batch_normalization``)."""

    channels: Expression
    affine: Expression = True


class Dense(NamedTuple):
    """A linear function of the last axis."""

    inputs: Expression
    outputs: Expression
    bias: bool = True


class Parameter(NamedTuple):
    """An array that the block uses by itself, as ``self.name[...]``."""

    shape: str  # a tuple, such as "(2 * $hidden, $hidden)"
    zeros: bool = False  # its start; else that of all kernels


class Use(NamedTuple):
    """Another block, with the expressions of its arguments."""

    block: str
    arguments: tuple[Expression, ...] = ()


class Several(NamedTuple):
    """A list of layers, one after the other: each, and how often."""

    items: tuple[tuple[Any, int], ...]


Layer = Conv | BatchNorm | Dense | Parameter | Use | Several


class Block(NamedTuple):
    """A module: its layers, and what it computes.

    Attributes:
      name: Of the class.
      about: Its docstring, a sentence.
      layers: By the names of attributes.
      inputs: Arguments of ``__call__``.
      body: Lines of ``__call__``.
      arguments: Of the constructor, and their defaults; ``""`` for none.
    """

    name: str
    about: str
    layers: Mapping[str, Layer]
    inputs: str
    body: str
    arguments: Mapping[str, str] = {}


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A network with its weights.

    Attributes:
      blocks: Modules, each after those that it uses. The last one is the whole network,
        without arguments; it takes what the predictor prepares, normalized images or
        numbers of words, and returns scores of the classes or words.
      kernel_init: How kernels start in a training from scratch: an expression of
        ``jax.nn.initializers``, written ``init``.
      functions: Source of functions that the bodies call, such as :data:`AVERAGE_POOL`.
      weights: By dotted paths, such as ``"stage_0.1.conv.kernel"``, in the layout of
        Flax. A batch normalization has ``mean`` and ``var``, and perhaps ``scale`` and
        ``bias``.
    """

    blocks: tuple[Block, ...]
    kernel_init: str
    functions: tuple[str, ...]
    weights: dict[str, np.ndarray]


# With keywords, as the converter to ONNX takes them.
AVERAGE_POOL = """def average_pool(x):
    return @flax.avg_pool(
        x,
        window_shape=(3, 3),
        strides=(1, 1),
        padding="SAME",
        count_include_pad=False,
    )
"""
MAX_POOL = """def max_pool(x):
    return @flax.max_pool(x, window_shape=(3, 3), strides=(1, 1), padding="SAME")
"""

_PARTIAL = """def part(x):  # Operations work on some of the channels.
    return x[..., : x.shape[-1] // {parts}]

def rest(x):  # The others pass,
    return x[..., x.shape[-1] // {parts} :]

def join(y, rest):  # and all are shuffled.
    y = jnp.concatenate([y, rest], -1)
    return y.reshape(*y.shape[:-1], {parts}, -1).swapaxes(-1, -2).reshape(y.shape)
"""


def partial_channels(parts: int) -> list[str]:
    """Lines with functions for operations on a part of the channels.

    They are those of ``spaces/partial_channels.py``: ``part(x)``, ``rest(x)``
    and ``join(y, rest)``.

    Args:
      parts: Operations work on one channel of so many.
    """
    return _PARTIAL.format(parts=parts).splitlines()


def halved(affine: bool, before: str, odd: str) -> Block:
    """The block ``Halved(inputs, outputs)``, which halves the image.

    Args:
      affine: Whether its normalization has a scale and an offset.
      before: The first line of its body.
      odd: What the second half of the filters sees, an expression.
    """
    layers: dict[str, Layer] = {
        "even": Conv("$inputs", "$outputs // 2", 1),
        "odd": Conv("$inputs", "$outputs // 2", 1),
        "norm": BatchNorm("$outputs", affine),
    }
    body = f"""{before}
halves = self.even(x[:, ::2, ::2]), self.odd({odd})
return self.norm(jnp.concatenate(halves, -1)@norm)"""
    about = "Half of the image: some filters see every other pixel, some the others."
    arguments = {"inputs": "", "outputs": ""}
    return Block("Halved", about, layers, "x", body, arguments)


def conv_weights(name: str, kernel: Any) -> dict[str, np.ndarray]:
    """A convolution, ``float[rows, columns, inputs, outputs]``; a matrix is of 1x1."""
    kernel = np.asarray(kernel)
    if kernel.ndim == 2:
        kernel = kernel[None, None]
    return {f"{name}.kernel": kernel}


def halved_weights(name: str, kernel: Any) -> dict[str, np.ndarray]:
    """The convolutions of :func:`halved`.

    Args:
      name: Of the block.
      kernel: Of both, ``float[inputs, outputs]``.
    """
    even, odd = np.split(np.asarray(kernel), 2, axis=1)
    return conv_weights(f"{name}.even", even) | conv_weights(f"{name}.odd", odd)


def dense_weights(name: str, child: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A linear layer with ``kernel[inputs, outputs]`` and perhaps a ``bias``."""
    return {f"{name}.{key}": np.asarray(value) for key, value in child.items()}


def norm_weights(
    name: str, moments: Any, child: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """A batch normalization.

    Args:
      name: Of the layer.
      moments: Its mean and variance.
      child: Perhaps with ``scale`` and ``offset``.
    """
    found = {f"{name}.mean": moments.mean, f"{name}.var": moments.variance}
    if child and "scale" in child:
        found |= {f"{name}.scale": child["scale"], f"{name}.bias": child["offset"]}
    return {key: np.asarray(value) for key, value in found.items()}


def conv_norm_weights(
    conv: str, norm: str, child: Mapping[str, Any], moments: Any
) -> dict[str, np.ndarray]:
    """A convolution of 3x3 pixels and the batch normalization after it.

    Args:
      conv: Name of the convolution.
      norm: Name of the normalization.
      child: With ``kernel``, ``float[9 * inputs, outputs]``, a product of patches; and
        perhaps ``scale`` and ``offset`` of the normalization.
      moments: Mean and variance of the normalization.
    """
    kernel = np.asarray(child["kernel"])
    kernel = kernel.reshape(3, 3, -1, kernel.shape[-1])
    return conv_weights(conv, kernel) | norm_weights(norm, moments, child)
