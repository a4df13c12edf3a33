"""What a reader of one format hands over."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# uint8[n, height, width, channels]: an array, or what ``np.asarray`` makes one of, when
# its pixels are needed. It has a shape, and is indexed along its first axis.
Pixels = Any


class Split(NamedTuple):
    """Images with their classes."""

    images: Pixels
    labels: np.ndarray  # shape=(n,), dtype=np.int32; in [0, num_classes)


class Source(NamedTuple):
    """The splits that a source comes with, and only those.

    What it lacks is held out of ``train`` by :func:`wpl_jax.data.open_images`,
    in the same way for every format.
    """

    train: Split
    valid: Split | None
    test: Split | None
    class_names: tuple[str, ...] | None  # None: the labels' digits
    name: str  # where it was read from, for messages and reports
    resized: bool = False  # whether images of all sizes were resized to one


# Called with the path (or None) and the format's own options as keywords.
Reader = Callable[..., Source]
