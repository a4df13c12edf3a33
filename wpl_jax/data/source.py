"""What a reader of one format hands over."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Images with their classes."""

    images: np.ndarray  # shape=(n, height, width, channels), dtype=np.uint8
    labels: np.ndarray  # shape=(n,), dtype=np.int32; in [0, num_classes)


class Source(NamedTuple):
    """The splits that a source comes with, and only those.

    What it lacks is held out of ``train`` by :func:`wpl_jax.data.load_images`,
    in the same way for every format.
    """

    train: Split
    valid: Split | None
    test: Split | None
    class_names: tuple[str, ...] | None  # None: the labels' digits
    name: str  # where it was read from, for messages and reports


# Called with the path (or None) and the format's own options as keywords.
Reader = Callable[..., Source]
