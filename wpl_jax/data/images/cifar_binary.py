"""CIFAR-10 and CIFAR-100 in their "binary version".

Each record is one byte of label (CIFAR-100: one coarse, one fine) and 3,072 of
pixels: red, green and blue in turn, each 32 x 32, row by row
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import (
    PathLike,
    contents,
    read_bytes,
    require_folder,
    require_path,
)
from wpl_jax.data.images.source import Source, Split

_CHANNELS, _SIDE = 3, 32
_PIXELS = _CHANNELS * _SIDE * _SIDE  # 3,072 bytes
_EXPECTED = "a folder of CIFAR-10 or CIFAR-100, binary version"
SOURCE = (
    "CIFAR-10 is in https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, of the "
    "format cifar_binary"
)


class _Variant(NamedTuple):
    """What differs between the two data sets."""

    train: tuple[str, ...]
    test: str
    names: str  # a text file, one class a line
    num_labels: int  # bytes before the pixels; the last one is the class
    num_classes: int


_VARIANTS = (
    _Variant(
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test="test_batch.bin",
        names="batches.meta.txt",
        num_labels=1,
        num_classes=10,
    ),
    _Variant(
        train=("train.bin",),
        test="test.bin",
        names="fine_label_names.txt",
        num_labels=2,
        num_classes=100,
    ),
)


def read_cifar_binary(path: PathLike | None = None) -> Source:
    """Reads CIFAR-10, or CIFAR-100 with its 100 fine classes.

    Args:
      path: The folder: ``cifar-10-batches-bin`` or ``cifar-100-binary``.

    Returns:
      The train and test splits, images of (32, 32, 3), and the class names if
      their file is there.

    Raises:
      DataError: A file is missing, truncated, or holds a label that is none.
    """
    folder = require_folder(require_path(path, _EXPECTED, SOURCE), _EXPECTED)
    variant = _find_variant(folder)
    batches = [_read_records(folder / name, variant) for name in variant.train]
    train = Split(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    test = _read_records(folder / variant.test, variant)
    return Source(train, None, test, _read_names(folder, variant), str(folder))


def _find_variant(folder: Path) -> _Variant:
    """The data set of which the folder has at least one file."""
    for variant in _VARIANTS:
        if any(os.path.lexists(folder / n) for n in (*variant.train, variant.test)):
            return variant
    files = " or ".join(f"{v.train[0]}, ..., {v.test}" for v in _VARIANTS)
    raise DataError(
        folder,
        f"none of its files, but {contents(folder)}",
        f"{_EXPECTED}: {files}",
        "unpack the archive named 'binary version' (the 'python version' has no .bin"
        " files) and give the folder in which the .bin files are",
    )


def _read_records(file: Path, variant: _Variant) -> Split:
    """The examples of one file."""
    size = variant.num_labels + _PIXELS
    data = read_bytes(file, f"records of {size} bytes")
    if len(data) % size:
        found = f"{len(data)} bytes, {len(data) % size} more than whole records"
        expected = f"a multiple of {size} bytes"
        remedy = "it is truncated or of another data set: unpack or download it again"
        raise DataError(file, found, expected, remedy)
    records = np.frombuffer(data, np.uint8).reshape(-1, size)
    labels = records[:, variant.num_labels - 1]
    wrong = np.flatnonzero(labels >= variant.num_classes)
    if wrong.size:
        found = f"label {labels[wrong[0]]} in record {wrong[0]} (counted from 0)"
        remedy = "check that it is the right file, and unpack or download it again"
        raise DataError(file, found, f"labels 0..{variant.num_classes - 1}", remedy)
    planes = records[:, variant.num_labels :].reshape(-1, _CHANNELS, _SIDE, _SIDE)
    images = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    return Split(images, labels.astype(np.int32))


def _read_names(folder: Path, variant: _Variant) -> tuple[str, ...]:
    """The class names, or digits for them where their file is not there."""
    file, expected = folder / variant.names, f"{variant.num_classes} class names"
    if not os.path.lexists(file):
        return tuple(str(label) for label in range(variant.num_classes))
    text = read_bytes(file, expected).decode("utf-8", errors="replace")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != variant.num_classes:
        remedy = "write one name a line, or delete the file"
        raise DataError(file, f"{len(names)} lines of text", expected, remedy)
    return names
