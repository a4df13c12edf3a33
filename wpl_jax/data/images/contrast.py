"""Whether there is anything to be seen in images."""

import numpy as np

from wpl_jax.data.errors import DataError

_LEAST = 1.0  # of the deviation of pixels in 0..255
_AT_ONCE = 1024  # images


def check_contrast(images: np.ndarray, where: str) -> None:
    """Checks that training images are not all of one colour.

    Args:
      images: uint8[n, height, width, channels].
      where: Where they are from, for messages.

    Raises:
      DataError: The standard deviation of every channel is below 1, of 0..255.
    """
    channels = images.shape[-1]
    counts = np.zeros((channels, 256), np.int64)
    for first in range(0, len(images), _AT_ONCE):
        some = np.asarray(images[first : first + _AT_ONCE])
        for channel in range(channels):
            counts[channel] += np.bincount(some[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    size = counts.sum(1)
    means = counts @ values / size
    deviations = np.sqrt(np.maximum(counts @ values**2 / size - means**2, 0))
    present = np.flatnonzero(counts.sum(0))
    pixels = f"pixels from {present[0]} to {present[-1]}"
    require_contrast(deviations.max(), pixels, where)


def require_contrast(deviation: float, pixels: str, where: str) -> None:
    """Checks a standard deviation that is known.

    Args:
      deviation: The largest of a channel of the training images, of 0..255.
      pixels: What is known of them, for messages.
      where: Where they are from, for messages.

    Raises:
      DataError: It is below 1.
    """
    if deviation < _LEAST:
        found = (
            f"training images of one colour: {pixels}, with a standard deviation of"
            f" {deviation:.2g} (of 0..255)"
        )
        remedy = (
            "scale them to 0..255 (images of 0 and 1 by 255) and save them anew, or"
            " give other images"
        )
        raise DataError(where, found, "images that differ from each other", remedy)
