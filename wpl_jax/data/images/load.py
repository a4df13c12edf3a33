"""Images for classification: one type, one function, many formats."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wpl_jax.data.arguments import (
    check_options,
    choose,
    require_array,
    require_int,
    require_names,
    require_pair,
)
from wpl_jax.data.files import PathLike
from wpl_jax.data.images.checks import as_split, check_source
from wpl_jax.data.images.contrast import check_contrast
from wpl_jax.data.images.formats import FORMATS
from wpl_jax.data.images.holdout import check_share, hold_out
from wpl_jax.data.images.source import Source, Split
from wpl_jax.data.repeats import count_repeated, hash_rows
from wpl_jax.errors import printable


@dataclasses.dataclass(frozen=True, eq=False)
class ImageDataset:
    """Images in three splits that share no example.

    Attributes:
      train: Examples to learn the weights from; every class occurs.
      valid: Examples to choose architectures by.
      test: Examples to report on, once.
      class_names: The name of class i at position i.
      source: Where the data is from, for messages and reports.
      repeated: For "valid" and "test" the number of images whose pixels an earlier
        split has as well; None while they wait in files.
      resized: Whether images of all sizes were resized to one.
    """

    train: Split
    valid: Split
    test: Split
    class_names: tuple[str, ...]
    source: str
    repeated: Mapping[str, int] | None = None
    resized: bool = False

    @property
    def num_classes(self) -> int:
        """The number of classes C; labels are in 0..C-1."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    def read(self) -> "ImageDataset":
        """The data set, with all images in memory.

        Raises:
          DataError: An image is broken, all training images are of one colour, or
            all images of a split are in an earlier one.
        """

        def in_memory(split: Split) -> Split:
            return split._replace(images=np.asarray(split.images))

        train, valid, test = map(in_memory, (self.train, self.valid, self.test))
        repeated = self.repeated
        if repeated is None:
            check_contrast(train.images, self.source)
            splits = {"train": train, "valid": valid, "test": test}
            repeated = _count_repeated(splits, self.source)
        return dataclasses.replace(
            self, train=train, valid=valid, test=test, repeated=repeated
        )


def load_images(
    format: str, path: PathLike | None = None, **options: Any
) -> ImageDataset:
    """Loads a data set of images into memory.

    Args:
      format: As in :func:`open_images`.
      path: The same.
      **options: Also the same: ``valid`` and ``test``, what is held out for them where
        the source has no such split; ``seed``; and the format's own.

    Returns:
      The data set.

    Raises:
      DataError: As :func:`open_images` does, or an image is broken.

    Examples:
      >>> data = load_images("digits", valid=200)
      >>> data.image_shape, data.num_classes
      ((8, 8, 1), 10)
      >>> len(data.train.labels), len(data.valid.labels), len(data.test.labels)
      (1238, 200, 359)
    """
    return open_images(format, path, **options).read()


def open_images(
    format: str,
    path: PathLike | None = None,
    *,
    valid: int | float = 0.1,
    test: int | float = 0.2,
    train: int | float | None = None,
    seed: int = 0,
    **options: Any,
) -> ImageDataset:
    """Opens a data set; images that are files of their own wait until asked for.

    ``np.asarray(split.images[numbers])`` reads some, and may find broken ones. Of
    other formats all is read, and so are images of which some are held out.

    A source's own splits are taken as they are. What it lacks is held out of its
    training examples, first the test share and then the validation share of what
    is left: random, but the same for the same seed, and each class in proportion.
    Copies of an image stay together in train.

    Args:
      format: A key of ``FORMATS``: "cifar_binary", "digits", "folder", "idx",
        "npz" or "tfds".
      path: The file or folder; for "tfds" the data set's name; for "digits" none.
      valid: Training examples held out for validation, as a number or a fraction
        of them. Not used where the source has a validation split.
      test: The same for testing. Not used where the source has a test split.
      train: How many of the training examples that are left are used, as a number or a
        fraction of them, each class in proportion; None for all.
      seed: Seed of the random hold-outs, a non-negative int.
      **options: The format's own, see its reader, e.g.
        :func:`wpl_jax.data.images.image_folder.read_image_folder`.

    Returns:
      The data set.

    Raises:
      DataError: The source cannot be read or does not hold together, or an
        argument is wrong. The message says where, what and how to mend it.
    """
    valid, test = check_share(valid, "valid"), check_share(test, "test")
    train = None if train is None else check_share(train, "train")
    seed = require_int(seed, "seed", 0)
    reader = choose(FORMATS, format, "format", about=str(path) if path else "")
    check_options(format, reader, options)
    return _complete(reader(path, **options), valid, test, seed, train)


def images_of_arrays(
    train: tuple[ArrayLike, ArrayLike],
    valid: tuple[ArrayLike, ArrayLike] | int | float = 0.1,
    test: tuple[ArrayLike, ArrayLike] | int | float = 0.2,
    *,
    class_names: Sequence[str] | None = None,
    channels_last: bool = False,
    seed: int = 0,
) -> ImageDataset:
    """A data set of images that are in memory.

    Args:
      train: Images, ``uint8[n, height, width, channels]``, and labels, ``int[n]``.
      valid: The same, or how many training images are held out for validation, as a
        number or a fraction of them.
      test: The same for testing.
      class_names: Of label i at position i; None for the labels' digits.
      channels_last: Whether the last axis is the channels although its length looks
        like a height or width, as that of images of [9, 16, 12] does.
      seed: Of the random hold-outs.

    Raises:
      DataError: If an array is not what it should be.
    """
    names = None if class_names is None else require_names(class_names)
    seed = require_int(seed, "seed", 0)
    splits: dict[str, Split | None] = {}
    shares: dict[str, int | float] = {"valid": 0.1, "test": 0.2}
    for name, found in (("train", train), ("valid", valid), ("test", test)):
        if name == "train" or isinstance(found, tuple | list):
            where = f"images of {name}", f"labels of {name}"
            pair = require_pair(found, name, "(images, labels)")
            images, labels = map(require_array, pair, where)
            splits[name] = as_split(images, labels, where, channels_last)
        else:
            splits[name], shares[name] = None, check_share(found, name)
    source = Source(**splits, class_names=names, name="arrays")  # type: ignore[arg-type]
    return _complete(source, shares["valid"], shares["test"], seed)


def _complete(
    source: Source,
    valid: int | float,
    test: int | float,
    seed: int,
    share_of_train: int | float | None = None,
) -> ImageDataset:
    """The data set of a source, with what it lacks held out of its train split."""
    class_names = check_source(source)
    train, valid_split, test_split = source.train, source.valid, source.test
    if isinstance(train.images, np.ndarray):
        check_contrast(train.images, source.name)
    if test_split is None:
        train, test_split = hold_out(
            train, test, seed=seed, argument="test", source=source.name
        )
    if valid_split is None:
        train, valid_split = hold_out(
            train, valid, seed=seed, argument="valid", source=source.name
        )
    if share_of_train is not None:
        _, train = hold_out(
            train,
            share_of_train,
            seed=seed,
            argument="train",
            source=source.name,
            otherwise="train=None for all of them",
        )
    splits = {"train": train, "valid": valid_split, "test": test_split}
    repeated = None
    if all(isinstance(split.images, np.ndarray) for split in splits.values()):
        repeated = _count_repeated(splits, source.name)
    return ImageDataset(
        train,
        valid_split,
        test_split,
        class_names,
        printable(source.name),
        repeated,
        source.resized,
    )


def _count_repeated(splits: dict[str, Split], where: str) -> dict[str, int]:
    """How many images each split shares with those before it."""
    hashes = {name: hash_rows(split.images) for name, split in splits.items()}
    return count_repeated(hashes, where)
