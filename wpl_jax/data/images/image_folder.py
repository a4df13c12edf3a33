"""A folder of images: one folder a class, and around them one a split, or none."""

import concurrent.futures
import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.data.errors import DataError
from wpl_jax.data.files import (
    PathLike,
    contents,
    entries,
    require_folder,
    require_path,
)
from wpl_jax.data.host_memory import require_memory
from wpl_jax.data.images.cifar_binary import SOURCE
from wpl_jax.data.images.pixels import read_form, read_pixels
from wpl_jax.data.images.source import Source, Split

_LAYOUT = (
    "train/CLASS/IMAGE with, optional, valid/CLASS/IMAGE and test/CLASS/IMAGE, or "
    "CLASS/IMAGE"
)
_SPLITS = ("train", "valid", "test")
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".pgm", ".ppm", ".pnm"),
)
_AT_ONCE = 1000  # images that are waiting to be read


@dataclasses.dataclass(frozen=True, eq=False)
class ImageFiles:
    """Images in files of their own, which ``np.asarray`` reads.

    Attributes:
      files: Their paths, ``object[n]``.
      form: Height, width and channels of each.
      size: To which they are resized, None to leave them as they are.
    """

    files: np.ndarray
    form: tuple[int, int, int]
    size: tuple[int, int] | None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the array that they become."""
        return len(self.files), *self.form

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, places: Any) -> "ImageFiles":
        """Some of them, as numpy indexes an array with an array."""
        return dataclasses.replace(self, files=self.files[places])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads them, several at a time: uint8[n, height, width, channels]."""
        what = f"{counted(len(self), 'image')} of {self.form}"
        remedy = "give a smaller size, read some at a time, or take fewer"
        folder = self.files[0].parent.parent if len(self) else "images"
        require_memory(math.prod(self.shape), folder, what, remedy)
        images = np.empty(self.shape, np.uint8)

        def read(place: int) -> None:
            file = self.files[place]
            pixels = read_pixels(file, self.size, self.form[2])
            if pixels.shape[:2] != self.form[:2]:
                raise _other_size(
                    file, pixels.shape, self.form, "said at its beginning"
                )
            images[place] = pixels.reshape(self.form)

        _in_threads(read, range(len(images)))
        return images.astype(dtype or np.uint8, copy=False)


def read_image_folder(
    path: PathLike | None = None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Source:
    """Reads a folder of images.

    The layout is ``train/CLASS/IMAGE`` and, optional, ``valid/CLASS/IMAGE`` and
    ``test/CLASS/IMAGE``, with the same classes in each; or ``CLASS/IMAGE``, of which
    all are training examples. Classes are numbered in the order of their names as
    text. Images may be of any of the usual formats, with 8 bits a channel.
    Transparency is dropped. A photograph is turned upright, as its EXIF data says.

    Args:
      path: The folder that holds train/, or the classes.
      size: (height, width) in pixels, to which every image is resized, bilinear
        and without regard to its proportions; None if all have the same size.
      channels: 1 for grey or 3 for RGB; None for grey if all images are grey and
        RGB if any is not. With it and ``size`` no file is opened before it is needed;
        without valid/ or test/, those of train are, to be compared.

    Returns:
      The splits of the folder, their images still in the files.

    Raises:
      DataError: The layout is another, a file is no image, or the images are of
        several sizes and ``size`` is None. One that is broken further on is told
        of when it is read.
    """
    _check_options(size, channels)
    expected = f"a folder with {_LAYOUT}"
    root = require_folder(require_path(path, expected, SOURCE), expected)
    classes = {name: _class_files(folder) for name, folder in _splits(root).items()}
    _check_same_classes(root, classes)
    files = {
        split: list(itertools.chain.from_iterable(of_class.values()))
        for split, of_class in classes.items()
    }
    form = _common_form(files, size, channels)
    splits = {
        split: Split(
            ImageFiles(np.array(files[split], object), form, size), _labels(of_class)
        )
        for split, of_class in classes.items()
    }
    names = tuple(classes["train"])
    return Source(
        splits["train"],
        splits.get("valid"),
        splits.get("test"),
        names,
        str(root),
        resized=size is not None,
    )


def _check_options(size: tuple[int, int] | None, channels: int | None) -> None:
    """The size is two positive numbers, and the channels 1 or 3."""
    if size is not None:
        is_pair = isinstance(size, tuple | list) and len(size) == 2
        if not is_pair or not all(type(side) is int and side > 0 for side in size):
            expected = "(height, width), two positive ints"
            remedy = "set for instance size=(32, 32)"
            raise DataError("option size", repr(size), expected, remedy, "size")
    if channels not in (None, 1, 3):
        remedy = "set channels=1 for grey or channels=3 for RGB"
        expected = "1, 3 or None"
        raise DataError("option channels", repr(channels), expected, remedy, "channels")


def _splits(root: Path) -> dict[str, Path]:
    """The folders of train and, if they are there, valid and test."""
    for alias in ("val", "validation", "dev"):
        if (root / alias).is_dir():
            remedy = f"rename it to {root / 'valid'}"
            raise DataError(root / alias, "an unknown split", _LAYOUT, remedy)
    for name in _SPLITS:
        if os.path.islink(root / name):
            require_folder(root / name, "the folder of a split")
    inside = [path for path in entries(root) if path.is_dir()]
    there = {name: root / name for name in _SPLITS if root / name in inside}
    others = [path for path in inside if path.name not in _SPLITS]
    if others and not there and all(map(_has_images, others)):
        return {"train": root}  # Its folders are classes.
    for name in ("train", "test"):
        if name not in there and (others or name == "train"):
            raise DataError(
                root,
                f"no folder {name}/, but {contents(root, like=name)}",
                _LAYOUT,
                f"make the folder {root / name} and in it one folder for each class",
            )
    return there


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in ENDINGS for path in entries(folder))


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The images of each class of a split, classes and images in order."""
    inside = entries(folder)
    for path in inside:
        if os.path.islink(path) and not os.path.exists(path):
            require_folder(path, "the folder of a class")
    loose = [path for path in inside if path.suffix.lower() in ENDINGS]
    classes = {path.name: _image_files(path) for path in inside if path.is_dir()}
    if loose or not classes:
        found = f"the image {loose[0].name} outside a class" if loose else "no classes"
        remedy = "make a folder for each class, and put its images there"
        raise DataError(folder, found, "one folder for each class", remedy)
    return classes


def _image_files(folder: Path) -> list[Path]:
    """The images of one class. Another file is an error, not left out unseen."""
    files = entries(folder)
    if not files:
        remedy = "add images, or remove the class from every split"
        raise DataError(folder, "a class without images", "images", remedy)
    for file in files:
        if file.is_dir() or file.suffix.lower() not in ENDINGS:
            found = "a folder" if file.is_dir() else "no image, by its ending"
            expected = f"only images, ending in {', '.join(ENDINGS)}"
            remedy = "remove it, or convert it to one of these"
            raise DataError(file, found, expected, remedy)
    return files


def _check_same_classes(root: Path, splits: dict[str, dict[str, list[Path]]]) -> None:
    """All splits have the same classes."""
    for name, classes in splits.items():
        for odd in sorted(set(classes) ^ set(splits["train"])):
            has, lacks = (name, "train") if odd in classes else ("train", name)
            raise DataError(
                root / has / odd,
                f"a class that is in {has}/ but not in {lacks}/",
                "the same classes in every split",
                f"put images of it into {root / lacks / odd}, or remove it from {has}/",
            )


def _common_form(
    splits: dict[str, list[Path]], size: tuple[int, int] | None, channels: int | None
) -> tuple[int, int, int]:
    """Height and width that all images have, and the channels that hold them all."""
    if size and channels:
        return *size, channels
    files = [file for split in splits.values() for file in split]
    forms = _in_threads(lambda file: read_form(file, channels), files)
    height, width = size or forms[0][:2]
    for file, form in zip(files, forms, strict=True):
        if size is None and form[:2] != (height, width):
            raise _other_size(file, form, (height, width), f"as in {files[0]}")
    return height, width, max(form[2] for form in forms)


def _other_size(
    file: Path, found: tuple[int, ...], expected: tuple[int, ...], why: str
) -> DataError:
    return DataError(
        file,
        f"{found[0]} x {found[1]} pixels (height x width)",
        f"{expected[0]} x {expected[1]} {why}",
        "give size=(height, width), to which every image is then resized",
    )


def _in_threads(function: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    """Of all items, several at a time; what one raises is raised here."""
    found: list[Any] = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for first in range(0, len(items), _AT_ONCE):
            found += pool.map(function, items[first : first + _AT_ONCE])
    return found


def _labels(classes: dict[str, list[Path]]) -> np.ndarray:
    """The labels of a split's images, int32[n]."""
    counts = [len(files) for files in classes.values()]
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)
