"""The pixels of image files, by Pillow."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import require_file, unreadable
from wpl_jax.data.host_memory import require_memory

_EXPECTED = "an image with 8 bits a channel"
# Pillow looks at a file's content, not at its name. Some of its other formats start
# programs (EPS starts Ghostscript) or are of several images.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
# Bytes of a pixel while it is decoded: with transparency, and converted to RGB.
_BYTES_OF_PIXEL = 4 + 3
_PIXELS_AT_ONCE = 2**27  # in all threads, about 1 GiB
_SMALL = 2**22  # pixels for which free memory is not looked up, which takes time
# Pillow's names for what is in a file; others have 16 bits or floats.
_GREY = ("1", "L", "LA")
_PALETTE = ("P", "PA")
_COLOUR = ("RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
# EXIF orientations, by Pillow's name for what makes an image upright. A camera that is
# held upright stores its sensor's rows as they are, and notes how it was held.
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
_ON_ITS_SIDE = (5, 6, 7, 8)


class _Share:
    """A share of something limited, which threads wait for and give back."""

    def __init__(self, total: int):
        self._left = self._total = total
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Waits for so much of it, or all of it if the amount is larger."""
        amount = min(amount, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= amount)
            self._left -= amount
        try:
            yield
        finally:
            with self._changed:
                self._left += amount
                self._changed.notify_all()


_decoding = _Share(_PIXELS_AT_ONCE)


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
        height, width = image.height, image.width
        if _orientation(image) in _ON_ITS_SIDE:
            height, width = width, height
        return height, width, 1 if _is_grey(image, channels) else 3


def read_pixels(
    file: Path, size: tuple[int, int] | None, channels: int | None
) -> np.ndarray:
    """Reads one image, upright as its EXIF data says.

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
    from PIL import Image

    with _opened(file) as image, _decoding.take(image.width * image.height):
        orientation = _orientation(image)
        # From a palette with transparency straight to RGB, Pillow warns.
        image_or_rgba = image.convert("RGBA") if image.mode in _PALETTE else image
        pixels = image_or_rgba.convert("L" if _is_grey(image, channels) else "RGB")
    if orientation in _UPRIGHT:
        pixels = pixels.transpose(Image.Transpose[_UPRIGHT[orientation]])
    if size is not None:
        pixels = pixels.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(pixels)


def _orientation(image: Any) -> int:
    """The EXIF orientation of an image that is not decoded yet, 1 if it has none.

    ``PIL.ImageOps.exif_transpose`` would do as well, but decodes the image, and
    :func:`read_form` reads only the beginning of each file.
    """
    from PIL import ExifTags, Image

    if image.format == "TIFF":
        return 1  # Pillow turns these itself, and says the size that they then have.
    try:
        # A PNG's own method decodes the image where there is no EXIF data.
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged metadata; the pixels may be good.
        return 1


def _is_grey(image: Any, channels: int | None) -> bool:
    return image.mode in _GREY if channels is None else channels == 1


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """An image; whatever goes wrong with it is told of the file."""
    from PIL import Image

    require_file(file, _EXPECTED)
    try:
        with Image.open(file, formats=_FORMATS) as image:
            _check_mode(file, image.mode)
            _check_size(file, image)
            yield image
    except DataError:  # which is a ValueError too
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(file, str(error)) from error
    except PermissionError as error:
        raise unreadable(file, error, _EXPECTED) from error
    # Pillow's decoders raise nearly anything at bytes that are not what they claim
    # to be: OSError, SyntaxError, TypeError, struct.error, ...
    except Exception as error:
        found = f"a file that is no image, broken or truncated ({error})"
        remedy = "save it anew, copy it again, or remove it"
        raise DataError(file, found, _EXPECTED, remedy) from error


def _check_size(file: Path, image: Any) -> None:
    """The pixels fit into memory. A few kilobytes can hold thousands of millions."""
    from PIL import Image

    count = image.width * image.height
    if Image.MAX_IMAGE_PIXELS is not None and count > Image.MAX_IMAGE_PIXELS:
        # Pillow only warns of up to twice as many.
        raise _too_large(file, f"{image.height} x {image.width} pixels")
    if count <= _SMALL:
        return
    what = f"an image of {image.height} x {image.width} pixels"
    remedy = "make it smaller, or take a machine with more memory"
    require_memory(count * _BYTES_OF_PIXEL, file, what, remedy)


def _too_large(file: Path, found: str) -> DataError:
    """The error for an image with more pixels than Pillow takes for one."""
    from PIL import Image

    expected = f"an image of at most {Image.MAX_IMAGE_PIXELS:,} pixels"
    remedy = "make it smaller; if it is of somebody else, do not trust it"
    return DataError(file, f"an image that is too large ({found})", expected, remedy)


def _check_mode(file: Path, mode: str) -> None:
    """The file has 8 bits a channel, or 1."""
    if mode not in _GREY + _PALETTE + _COLOUR:
        remedy = "convert it to 8 bits, so that 255 is the brightest value"
        raise DataError(file, f"pixels of Pillow's mode {mode}", _EXPECTED, remedy)
