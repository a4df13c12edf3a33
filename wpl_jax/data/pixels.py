"""The pixels of image files, by Pillow."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import require_file

_EXPECTED = "an image with 8 bits a channel"
# Pillow's names for what is in a file; others have 16 bits or floats.
_GREY = ("1", "L", "LA")
_PALETTE = ("P", "PA")
_COLOUR = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr")


def read_form(file: Path, channels: int | None) -> tuple[int, int, int]:
    """What is said of an image at the beginning of its file.

    Args:
      file: An image file of any kind that Pillow reads.
      channels: As of :func:`read_pixels`.

    Returns:
      Height, width and channels, 1 or 3, of what :func:`read_pixels` reads.

    Raises:
      DataError: The file is missing, empty, no image, or has other than 8 bits a
        channel.
    """
    with _opened(file) as image:
        return image.height, image.width, 1 if _is_grey(image, channels) else 3


def read_pixels(
    file: Path, size: tuple[int, int] | None, channels: int | None
) -> np.ndarray:
    """Reads one image.

    Args:
      file: An image file of any kind that Pillow reads.
      size: (height, width) to resize it to, bilinear; None to leave it as it is.
      channels: 1 for grey, 3 for RGB, None for what the file has; a palette
        counts as RGB.

    Returns:
      uint8[height, width] if grey, else uint8[height, width, 3]; 255 is brightest.

    Raises:
      DataError: The file is missing, empty, truncated, no image, or has other
        than 8 bits a channel.
    """
    with _opened(file) as image:
        # From a palette with transparency straight to RGB, Pillow warns.
        image_or_rgba = image.convert("RGBA") if image.mode in _PALETTE else image
        pixels = image_or_rgba.convert("L" if _is_grey(image, channels) else "RGB")
    if size is not None:
        from PIL import Image

        pixels = pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(pixels)


def _is_grey(image: Any, channels: int | None) -> bool:
    return image.mode in _GREY if channels is None else channels == 1


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """An image; whatever goes wrong with it is told of the file."""
    from PIL import Image

    require_file(file, _EXPECTED)
    try:
        with Image.open(file) as image:
            _check_mode(file, image.mode)
            yield image
    except DataError:  # which is a ValueError too
        raise
    # Pillow's decoders raise nearly anything at bytes that are not what they claim
    # to be: OSError, SyntaxError, TypeError, struct.error, ...
    except Exception as error:
        found = f"a file that is no image, broken or truncated ({error})"
        remedy = "save it anew, copy it again, or remove it"
        raise DataError(file, found, _EXPECTED, remedy) from error


def _check_mode(file: Path, mode: str) -> None:
    """The file has 8 bits a channel, or 1."""
    if mode not in _GREY + _PALETTE + _COLOUR:
        remedy = "convert it to 8 bits, so that 255 is the brightest value"
        raise DataError(file, f"pixels of Pillow's mode {mode}", _EXPECTED, remedy)
