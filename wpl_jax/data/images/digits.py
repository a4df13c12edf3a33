"""Handwritten digits of 8 x 8 pixels, which come with scikit-learn."""

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import PathLike
from wpl_jax.data.images.source import Source, Split


def read_digits(path: PathLike | None = None) -> Source:
    """Reads the digits: 1,797 grey images of ten classes, no download.

    Their test split is held out, as they come with none.

    Args:
      path: None; the images are inside scikit-learn.

    Returns:
      Images of (8, 8, 1), rescaled from 0..16 to 0..255.

    Raises:
      DataError: A path was given, or scikit-learn is not installed.
    """
    if path is not None:
        expected = "no path: the digits come with scikit-learn"
        remedy = "leave it out, or change the format"
        raise DataError("path", str(path), expected, remedy, "path")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "digits",
            "no scikit-learn",
            "the package that they come with",
            "pip install 'wpl-jax[digits]'",
        ) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int32)
    return Source(Split(images, labels), None, None, None, "scikit-learn digits")
