"""What is done to training images, as a function of a key."""

import dataclasses

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import check_bool, check_int
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.tasks.image_data import Data
from wpl_jax.tasks.network_call import standardized


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to training images.

    Attributes:
      crop: They are moved by up to so many pixels, both ways.
      flip: Whether half of them are mirrored, left to right.
      cutout: Size of a square that is blanked out.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "crop", 0)
        check_bool(self, "flip")
        check_int(self, "cutout", 0)


def augment(
    key: jax.Array,
    images: jax.Array,
    augmentation: Augmentation,
    data: Data,
    axis: Axis = NO_AXIS,
) -> jax.Array:
    """Moves, mirrors and cuts into images, each in its own way, and normalizes them.

    What comes in from beyond an image, and what is cut out, is of the mean color.

    Args:
      key: PRNG key.
      images: ``uint8[batch, height, width, channels]``.
      augmentation: What to do.
      data: For the mean and the deviation.
      axis: Devices of which each has its share of a batch.

    Returns:
      ``float32[batch, height, width, channels]``.
    """
    here, height, width, _ = images.shape
    batch = here * axis.size
    move, mirror, cut = jax.random.split(key, 3)
    crop, size = augmentation.crop, augmentation.cutout
    offset = axis.shard(
        jax.random.randint(move, (2, batch, 1), -crop, crop + 1), axis=1
    )
    rows = jnp.arange(height) + offset[0]
    columns = jnp.arange(width) + offset[1]
    if augmentation.flip:
        flipped = axis.shard(jax.random.bernoulli(mirror, shape=(batch, 1)))
        columns = jnp.where(flipped, width - 1 - columns, columns)
    inside = _within(rows, 0, height)[:, :, None] & _within(columns, 0, width)[:, None]
    moved = images[
        jnp.arange(here)[:, None, None],
        jnp.clip(rows, 0, height - 1)[:, :, None],
        jnp.clip(columns, 0, width - 1)[:, None],
    ]
    if size:
        # The center is in the image, the square may reach beyond it.
        bounds = jnp.array([[height], [width]])
        center = axis.shard(jax.random.randint(cut, (2, batch), 0, bounds), axis=1)
        top, left = center[..., None] - size // 2
        inside &= ~(
            _within(jnp.arange(height), top, top + size)[:, :, None]
            & _within(jnp.arange(width), left, left + size)[:, None]
        )
    found = standardized(moved, data.mean, data.deviation)
    return jnp.where(inside[..., None], found, 0)


def _within(x, low, high):
    return (x >= low) & (x < high)
