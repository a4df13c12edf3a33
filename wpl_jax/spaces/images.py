"""What spaces of networks for images share: interface, parameters, stem and head."""

import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import Axis
from wpl_jax.spaces.batch_normalization import Moments, along, normalize
from wpl_jax.spaces.depthwise import shifts
from wpl_jax.supernet import Space


class Outputs(NamedTuple):
    """What a child makes of images."""

    logits: jax.Array  # float[batch, classes]
    auxiliary: jax.Array | None  # float[batch, classes]; of the auxiliary head
    batch_stats: Any  # what was normalized with: a tree of Moments


class Noise(NamedTuple):
    """What training adds to a child."""

    key: jax.Array
    dropout: float = 0.0  # of the classifier's input
    drop_path: jax.Array | float = 0.0  # of the branches of the last cell


class ImageSpace(Space, Protocol):
    """A space of networks that classify images.

    Its ``apply(child, architecture, images, noise=None, batch_stats=None,
    axis=NO_AXIS)`` takes ``float[batch, height, width, channels]`` and returns
    :class:`Outputs`. ``noise`` is for training, ``batch_stats`` are to normalize with,
    as an earlier call returned them.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""


class Kernel(NamedTuple):
    """A parameter that starts at random, as He et al. (2015) draw it."""

    shape: tuple[int, ...]
    fan_in: int  # numbers that one output sums over

    def init(self, key: jax.Array) -> jax.Array:
        """Draws it."""
        return jax.random.normal(key, self.shape) * math.sqrt(2 / self.fan_in)


class UniformKernel(Kernel):
    """A parameter that starts uniformly within ``1 / sqrt(fan_in)``, as in PyTorch."""

    def init(self, key: jax.Array) -> jax.Array:
        """Draws it."""
        bound = 1 / math.sqrt(self.fan_in)
        return jax.random.uniform(key, self.shape, minval=-bound, maxval=bound)


class Constant(NamedTuple):
    """A parameter that starts at one value."""

    shape: tuple[int, ...]
    value: float

    def init(self, key: jax.Array) -> jax.Array:
        """Fills it; the key is not used."""
        del key
        return jnp.full(self.shape, self.value, float)


def is_parameter(x: Any) -> bool:
    """Whether a node of a tree is a parameter, and no dictionary of them."""
    return isinstance(x, (Kernel, Constant))


def init(key: jax.Array, parameters: Any) -> Any:
    """Draws a tree of parameters.

    Args:
      key: PRNG key.
      parameters: A tree of :class:`Kernel` and :class:`Constant`.

    Returns:
      The same tree of ``float32`` arrays.
    """
    leaves, tree = jax.tree.flatten(parameters, is_leaf=is_parameter)
    keys = jax.random.split(key, len(leaves))
    drawn = [leaf.init(k) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def affine_parameters(shape: tuple[int, ...], affine: bool) -> dict[str, Constant]:
    """Scale and offset of a normalization, which starts as none; {} without them."""
    return {"scale": Constant(shape, 1), "offset": Constant(shape, 0)} if affine else {}


def product_parameters(inputs: int, outputs: int, affine: bool) -> dict[str, Any]:
    """A matrix, and the normalization of its products."""
    kernel = Kernel((inputs, outputs), inputs)
    return {"kernel": kernel, **affine_parameters((outputs,), affine)}


def linear_parameters(inputs: int, outputs: int) -> dict[str, Any]:
    """A matrix, and a bias."""
    kernel = Kernel((inputs, outputs), inputs)
    return {"kernel": kernel, "bias": Constant((outputs,), 0)}


def normalized(
    x: jax.Array,
    child: dict[str, jax.Array],
    given: Moments | None,
    axis: Axis,
    channels: int = -1,
) -> tuple[jax.Array, Moments]:
    """Batch normalization, with scale and offset if the child has them.

    Args:
      x: Images, such as ``float[batch, height, width, channels]``.
      child: Parameters, ``scale`` and ``offset`` may be among them.
      given: Moments to normalize with; None for those of the batch.
      axis: Devices of which each has its share of the batch.
      channels: The dimension of the channels.

    Returns:
      ``x`` normalized, and the moments, which carry no gradient.
    """
    x, _, found = normalize(x, given, axis, channels)
    if "scale" in child:
        scale, offset = (along(child[n], x, channels) for n in ("scale", "offset"))
        x = x * scale + offset
    return x, jax.lax.stop_gradient(found)


def normalized_product(x, child, given, axis):
    """``x @ child["kernel"]``, normalized; see :func:`normalized`."""
    return normalized(x @ child["kernel"], child, given, axis)


def halved_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A factorized reduction: half of the filters see every other pixel, half others.

    The others lie between, one row and one column further; beyond the image they are
    zero.

    Args:
      x: ``float[batch, height, width, channels]``.
      kernel: ``float[channels, filters]``.

    Returns:
      ``float[batch, ceil(height / 2), ceil(width / 2), filters]``.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    half = kernel.shape[1] // 2
    return jnp.concatenate(
        [x[:, ::2, ::2] @ kernel[:, :half], padded[:, 1::2, 1::2] @ kernel[:, half:]],
        -1,
    )


def stem_parameters(image_channels: int, channels: int, affine: bool) -> dict[str, Any]:
    """Those of :func:`stem`."""
    return product_parameters(9 * image_channels, channels, affine)


def stem(images, child, given, axis):
    """A 3x3 convolution, normalized; see :func:`normalized`.

    Its patches, each pixel with its neighbours, are ``float[batch, height, width,
    9 channels]``.
    """
    patches = jnp.concatenate([shifted for *_, shifted in shifts(images, 3, 0)], -1)
    return normalized_product(patches, child, given, axis)


def linear(x: jax.Array, child: dict[str, jax.Array]) -> jax.Array:
    """``x @ kernel + bias``."""
    return x @ child["kernel"] + child["bias"]


def classify(
    x: jax.Array, child: dict[str, jax.Array], noise: Noise | None, axis: Axis
) -> jax.Array:
    """ReLU, the mean over pixels, dropout and a linear classifier.

    Args:
      x: ``float[batch, height, width, channels]``.
      child: ``kernel[channels, classes]`` and ``bias[classes]``.
      noise: Of which the dropout; None for none.
      axis: Devices of which each has its share of the batch.

    Returns:
      ``float[batch, classes]``.
    """
    return classify_features(jnp.mean(jax.nn.relu(x), (1, 2)), child, noise, axis)


def classify_features(
    features: jax.Array, child: dict[str, jax.Array], noise: Noise | None, axis: Axis
) -> jax.Array:
    """Dropout and a linear classifier.

    Args:
      features: ``float[batch, channels]``.
      child: ``kernel[channels, classes]`` and ``bias[classes]``.
      noise: Of which the dropout; None for none.
      axis: Devices of which each has its share of the batch.

    Returns:
      ``float[batch, classes]``.
    """
    if noise is not None and noise.dropout:
        shape = len(features) * axis.size, features.shape[1]
        kept = axis.shard(jax.random.bernoulli(noise.key, 1 - noise.dropout, shape))
        features = jnp.where(kept, features / (1 - noise.dropout), 0)
    return linear(features, child)
