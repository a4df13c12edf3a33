"""Models of any size: shapes, and weights and examples from numpy.

The same numbers go into the models in JAX and in PyTorch. Nothing of either is imported
here, as each may be missing.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CLASSES = 10
HEADS = 4
EPSILON = 1e-5


class UnsupportedError(Exception):
    """A library has no such diagonal for a model; says why."""


Shapes = dict[str, tuple[int, ...]]


class Model(NamedTuple):
    """A model without its weights.

    Attributes:
      name: Its name.
      shapes: From its width to the shapes of its weights.
      inputs: Shape of the input of one example.
      multiple: What the width is a multiple of.
      examples: How many a benchmark has.
    """

    name: str
    shapes: Callable[[int], Shapes]
    inputs: tuple[int, ...]
    multiple: int
    examples: int


def width_for(model: Model, count: int) -> int:
    """The width whose number of weights is nearest to ``count``, from below."""
    width = model.multiple
    while _count(model.shapes(width + model.multiple)) <= count:
        width += model.multiple
    return width


def make_weights(model: Model, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of a model with about ``count`` of them, float32."""
    rng = np.random.default_rng(seed)
    return {
        name: _initial(rng, name, shape)
        for name, shape in model.shapes(width_for(model, count)).items()
    }


def make_examples(model: Model, n: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Inputs ``float32[n, ...]`` and labels ``int32[n]``."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, *model.inputs), np.float32)
    return x, rng.integers(CLASSES, size=n).astype(np.int32)


def _count(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def _initial(rng, name: str, shape: tuple[int, ...]) -> np.ndarray:
    noise = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:  # biases, and scales around 1
        return 0.1 * noise + np.float32(name.startswith("scale"))
    return noise * np.float32(math.prod(shape[:-1]) ** -0.5)


# Dense layers. Each weight meets one row of each example.


def _mlp_shapes(width: int) -> Shapes:
    sizes = (784, width, width, width, CLASSES)
    shapes: Shapes = {}
    for i in range(4):
        shapes |= {f"w{i}": sizes[i : i + 2], f"b{i}": sizes[i + 1 : i + 2]}
    return shapes


# Convolutions. A kernel meets as many rows of an example as the image has places.


def _kernels(width: int) -> Shapes:
    channels = (3, width, 2 * width, 4 * width)
    return {f"w{i}": (3, 3, *channels[i : i + 2]) for i in range(3)}


def _head(width: int) -> Shapes:
    return {"w3": (4 * width, CLASSES), "b3": (CLASSES,)}


def _convnet_shapes(width: int) -> Shapes:
    biases = {f"b{i}": (2**i * width,) for i in range(3)}
    return _kernels(width) | biases | _head(width)


def _normalized_shapes(width: int) -> Shapes:
    of_scale = {f"scale{i}": (2**i * width,) for i in range(3)}
    of_offset = {f"offset{i}": (2**i * width,) for i in range(3)}
    return _kernels(width) | of_scale | of_offset | _head(width)


def statistics(channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of a layer's running statistics."""
    place = np.linspace(0, 1, channels, dtype=np.float32)
    return 0.2 * place - 0.1, 0.5 + place


# A transformer block: 32 rows of an example meet each weight.


def _transformer_shapes(width: int) -> Shapes:
    square = dict.fromkeys(("query", "key", "value", "mix"), (width, width))
    norms = {f"{name}{i}": (width,) for i in range(2) for name in ("scale", "offset")}
    wide = {"wide": (width, 4 * width), "narrow": (4 * width, width)}
    ends = {"embed": (64, width), "out": (width, CLASSES)}
    return square | norms | wide | ends


# A recurrent unit: 16 time steps of an example meet each weight.


def _gru_shapes(width: int) -> Shapes:
    return {
        "x": (64, 3 * width),
        "h": (width, 3 * width),
        "b": (3 * width,),
        "out": (width, CLASSES),
    }


_IMAGE = (32, 32, 3)
MODELS = {
    model.name: model
    for model in (
        Model("MLP", _mlp_shapes, (784,), 2, 64),
        Model("convnet", _convnet_shapes, _IMAGE, 1, 16),
        Model("batch normalization", _normalized_shapes, _IMAGE, 1, 16),
        Model("weight standardization", _convnet_shapes, _IMAGE, 1, 16),
        Model("transformer block", _transformer_shapes, (32, 64), HEADS, 64),
        Model("GRU", _gru_shapes, (16, 64), 4, 64),
    )
}
