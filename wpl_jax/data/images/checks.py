"""Arrays as they are found, checked and brought into one form."""

import itertools
from collections.abc import Iterable

import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.data.errors import DataError
from wpl_jax.data.images.layout import check_examples_first, check_layout
from wpl_jax.data.images.source import Source, Split

_AT_ONCE = 1024  # images


def as_split(
    images: np.ndarray,
    labels: np.ndarray,
    where: tuple[str, str],
    channels_last: bool = False,
) -> Split:
    """A split from the two arrays of a file.

    Args:
      images: uint8, or floats in [0, 1]; [n, height, width] or
        [n, height, width, channels].
      labels: Integers [n], not negative.
      where: Where the images and where the labels are from, for messages.
      channels_last: Whether the last of four axes is known to be the channels, even
        where its length looks like another one's.

    Returns:
      The split in its one form, see :class:`wpl_jax.data.Split`.

    Raises:
      DataError: One of them is not like that, or their counts differ.
    """
    check_examples_first(images, labels, where[0])
    pixels = as_images(images, where[0], channels_last)
    split = Split(pixels, as_labels(labels, where[1]))
    if len(split.images) != len(split.labels):
        raise DataError(
            where[0],
            f"{counted(len(split.images), 'image')}, and "
            f"{counted(len(split.labels), 'label')} in {where[1]}",
            "one label for each image",
            "check that both are from the same split, and complete",
        )
    return split


def as_images(
    images: np.ndarray, where: str, channels_last: bool = False
) -> np.ndarray:
    """Images as uint8[n, height, width, channels] in 0..255."""
    check_layout(images, where, channels_last)
    if np.issubdtype(images.dtype, np.floating):
        images = _from_unit_floats(images, where)
    if images.dtype != np.uint8:
        found, remedy = _other_values(images)
        expected = "uint8 in 0..255, or floats in [0, 1]"
        raise DataError(where, found, expected, remedy)
    return images if images.ndim == 4 else images[..., np.newaxis]


def _other_values(images: np.ndarray) -> tuple[str, str]:
    """What images of another dtype hold, and how they become uint8 without loss."""
    found = f"images of dtype {images.dtype}"
    if images.dtype == bool:
        return found, "save 0 and 255: images.astype(numpy.uint8) * numpy.uint8(255)"
    if not np.issubdtype(images.dtype, np.integer):
        return found, "save 8-bit values as uint8: images.astype(numpy.uint8)"
    low, high = int(images.min()), int(images.max())
    if low >= 0 and high <= 255:
        return found, "save 8-bit values as uint8: images.astype(numpy.uint8)"
    # astype alone would keep the lowest 8 bits, which are noise.
    scaled = f"((images - {low}.0) / {high - low} * 255).round().astype(numpy.uint8)"
    return (
        f"{found} from {low} to {high}",
        f"scale them to 0..255, all splits alike, e.g. {scaled}",
    )


def _from_unit_floats(images: np.ndarray, where: str) -> np.ndarray:
    """Floats in [0, 1] as the nearest of 0..255, uint8."""
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # so written that NaN fails too
        raise DataError(
            where,
            f"floats from {low:g} to {high:g}",
            "floats in [0, 1], or uint8 in 0..255",
            "undo the normalisation, or divide 0..255 by 255, before saving",
        )
    scaled = np.empty(images.shape, np.uint8)
    for first in range(0, len(images), _AT_ONCE):  # All at once takes much memory.
        some = images[first : first + _AT_ONCE].astype(np.float32)
        scaled[first : first + _AT_ONCE] = np.rint(some * 255)
    return scaled


def as_labels(labels: np.ndarray, where: str) -> np.ndarray:
    """Labels as int32[n], none of them negative."""
    expected = "integer labels 0..C-1, [n], one for each image"
    if labels.ndim != 1 or not labels.size:
        remedy = "flatten it; for one-hot rows save rows.argmax(axis=1)"
        raise DataError(where, f"an array of shape {labels.shape}", expected, remedy)
    if not np.issubdtype(labels.dtype, np.integer):
        found = f"labels of dtype {labels.dtype}, e.g. {labels[0]!r}"
        remedy = "number the classes from 0 and save the numbers as int32"
        raise DataError(where, found, expected, remedy)
    wrong = np.flatnonzero((labels < 0) | (labels > np.iinfo(np.int32).max))
    if wrong.size:
        found = f"label {labels[wrong[0]]} (example {wrong[0]})"
        remedy = "number the classes from 0, and leave out examples without a label"
        raise DataError(where, found, expected, remedy)
    return labels.astype(np.int32)


def check_source(source: Source) -> tuple[str, ...]:
    """Checks that the splits of a source fit together.

    Args:
      source: Splits in their one form.

    Returns:
      The name of each class; its digits where the source has no names.

    Raises:
      DataError: Images of different shape, a label without a name, a class without
        training examples, or a single class.
    """
    splits = {"train": source.train, "valid": source.valid, "test": source.test}
    present = {name: split for name, split in splits.items() if split is not None}
    for name, split in present.items():
        _check_shape(name, split, source)
        _check_names(name, split, source)
    _check_classes(present, source)
    count = int(source.train.labels.max()) + 1
    return source.class_names or tuple(str(label) for label in range(count))


def _check_shape(name: str, split: Split, source: Source) -> None:
    """The images of a split are shaped like those of train."""
    shape, reference = split.images.shape[1:], source.train.images.shape[1:]
    if shape != reference:
        raise DataError(
            source.name,
            f"{name} images of {shape} and train images of {reference}",
            "one (height, width, channels) in all splits",
            f"resize or convert the {name} images",
        )


def _check_names(name: str, split: Split, source: Source) -> None:
    """Every label has a class name, where there are names."""
    if source.class_names is None or split.labels.max() < len(source.class_names):
        return
    count = len(source.class_names)
    raise DataError(
        source.name,
        f"label {split.labels.max()} in {name}, and {counted(count, 'class name')}",
        f"labels 0..{count - 1}",
        "number the classes from 0, or name all of them",
    )


def _check_classes(splits: dict[str, Split], source: Source) -> None:
    """Every class up to the largest label, or name, has training examples."""
    trained = np.unique(source.train.labels)
    for name, split in splits.items():
        unseen = np.setdiff1d(split.labels, trained)
        if unseen.size:
            raise DataError(
                source.name,
                f"classes in {name} that are not in train: {_some(unseen, source)}",
                "every class to have training examples",
                f"add training examples of them, or take them out of {name}",
            )
    if len(trained) == 1 and len(source.class_names or "1") == 1:
        raise DataError(
            source.name,
            f"training examples of a single class, {_some(trained.tolist(), source)}",
            "two classes or more",
            "add examples of another class, and check that the labels are the right"
            " array",
        )
    # Not arange(count): one stray label of 2e9 would fill the memory.
    count = len(source.class_names or ()) or int(trained[-1]) + 1
    if len(trained) < count:
        known = set(trained.tolist())
        empty = (label for label in range(count) if label not in known)
        raise DataError(
            source.name,
            f"{count - len(trained)} of {count} classes without training examples:"
            f" {_some(empty, source)}",
            "labels 0..C-1, each with training examples",
            "number the classes from 0 without gaps, or add the missing examples",
        )


def _some(labels: Iterable[int], source: Source, limit: int = 5) -> str:
    """The first few of some labels, by name where there are names."""
    names = source.class_names
    shown = list(itertools.islice(labels, limit + 1))
    words = [names[label] if names else str(label) for label in shown[:limit]]
    return ", ".join(words) + (", ..." if len(shown) > limit else "")
