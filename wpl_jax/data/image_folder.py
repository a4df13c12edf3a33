"""A folder of images: one folder a split, in it one folder a class."""

from pathlib import Path

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import (
    PathLike,
    contents,
    entries,
    require_folder,
    require_path,
)
from wpl_jax.data.pixels import read_pixels
from wpl_jax.data.source import Source, Split

_LAYOUT = "train/CLASS/IMAGE, test/CLASS/IMAGE and, optional, valid/CLASS/IMAGE"
_ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".pgm", ".ppm", ".pnm"),
)

_Example = tuple[Path, np.ndarray]  # uint8[height, width] or uint8[height, width, 3]


def read_image_folder(
    path: PathLike | None = None,
    *,
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Source:
    """Reads a folder of images.

    The layout is ``train/CLASS/IMAGE``, ``test/CLASS/IMAGE`` and, optional,
    ``valid/CLASS/IMAGE``, with the same classes in each. Classes are numbered in
    the order of their names as text. Images may be of any of the usual formats,
    with 8 bits a channel. Transparency is dropped, and a rotation noted in a
    photograph's metadata is not applied.

    Args:
      path: The folder that holds train/ and test/.
      size: (height, width) in pixels, to which every image is resized, bilinear
        and without regard to its proportions; None if all have the same size.
      channels: 1 for grey or 3 for RGB; None for grey if all images are grey and
        RGB if any is not.

    Returns:
      The splits of the folder.

    Raises:
      DataError: The layout is another, an image cannot be read, or the images are
        of several sizes and ``size`` is None.
    """
    _check_options(size, channels)
    expected = f"a folder with {_LAYOUT}"
    root = require_folder(require_path(path, expected), expected)
    classes = {name: _class_files(folder) for name, folder in _splits(root).items()}
    _check_same_classes(root, classes)
    examples = {
        split: [
            (file, read_pixels(file, size, channels))
            for files in of_class.values()
            for file in files
        ]
        for split, of_class in classes.items()
    }
    shape = _common_shape(examples)
    splits = {
        split: Split(_stack(examples[split], shape), _labels(of_class))
        for split, of_class in classes.items()
    }
    names = tuple(classes["train"])
    return Source(
        splits["train"], splits.get("valid"), splits["test"], names, str(root)
    )


def _check_options(size: tuple[int, int] | None, channels: int | None) -> None:
    """The size is two positive numbers, and the channels 1 or 3."""
    if size is not None:
        is_pair = isinstance(size, tuple | list) and len(size) == 2
        if not is_pair or not all(type(side) is int and side > 0 for side in size):
            expected = "(height, width), two positive ints"
            remedy = "set for instance size=(32, 32)"
            raise DataError("option size", repr(size), expected, remedy)
    if channels not in (None, 1, 3):
        remedy = "set channels=1 for grey or channels=3 for RGB"
        raise DataError("option channels", repr(channels), "1, 3 or None", remedy)


def _splits(root: Path) -> dict[str, Path]:
    """The folders of train, test and, if it is there, valid."""
    for alias in ("val", "validation", "dev"):
        if (root / alias).is_dir():
            remedy = f"rename it to {root / 'valid'}"
            raise DataError(root / alias, "an unknown split", _LAYOUT, remedy)
    for name in ("train", "test"):
        if not (root / name).is_dir():
            found = f"no folder {name}/, but {contents(root, like=name)}"
            remedy = (
                f"make the folder {root / name} and in it one folder for each class"
            )
            if not (root / "train").is_dir():
                remedy += "; if what is here are the classes, divide them into both"
            raise DataError(root, found, _LAYOUT, remedy)
    names = ("train", "valid", "test")
    return {name: root / name for name in names if (root / name).is_dir()}


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The images of each class of a split, classes and images in order."""
    inside = entries(folder)
    loose = [path for path in inside if path.suffix.lower() in _ENDINGS]
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
        if file.is_dir() or file.suffix.lower() not in _ENDINGS:
            found = "a folder" if file.is_dir() else "no image, by its ending"
            expected = f"only images, ending in {', '.join(_ENDINGS)}"
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


def _common_shape(splits: dict[str, list[_Example]]) -> tuple[int, int, int]:
    """Height and width that all images have, and the channels that hold them all."""
    examples = [example for split in splits.values() for example in split]
    first_file, first = examples[0]
    for file, pixels in examples:
        if pixels.shape[:2] != first.shape[:2]:
            raise DataError(
                file,
                f"{pixels.shape[0]} x {pixels.shape[1]} pixels (height x width)",
                f"{first.shape[0]} x {first.shape[1]} as in {first_file}",
                "give size=(height, width), to which every image is then resized",
            )
    channels = 3 if any(pixels.ndim == 3 for _, pixels in examples) else 1
    return first.shape[0], first.shape[1], channels


def _stack(examples: list[_Example], shape: tuple[int, int, int]) -> np.ndarray:
    """The images as uint8[n, *shape]; among RGB ones, a grey one has R = G = B."""
    images = np.empty((len(examples), *shape), np.uint8)
    for image, (_, pixels) in zip(images, examples, strict=True):
        image[...] = pixels if pixels.ndim == 3 else pixels[..., np.newaxis]
    return images


def _labels(classes: dict[str, list[Path]]) -> np.ndarray:
    """The labels of a split's images, int32[n]."""
    counts = [len(files) for files in classes.values()]
    return np.repeat(np.arange(len(counts), dtype=np.int32), counts)
