"""Arrays in one npz file, as numpy.savez writes them."""

import lzma
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import PathLike, require_file, require_path, unreadable
from wpl_jax.data.images.checks import as_split
from wpl_jax.data.images.source import Source, Split
from wpl_jax.data.unpacking import unpack_npy

_ZIP = b"PK\x03\x04"  # how every zip file begins that is not empty
_EXPECTED = "an npz file, as numpy.savez writes it"
_SOURCE = (
    "MNIST is https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
)
_KERAS = {  # the keys of that file
    "train_images": "x_train",
    "train_labels": "y_train",
    "test_images": "x_test",
    "test_labels": "y_test",
}
# What zipfile and numpy raise at bytes that are not what they claim to be; the
# RuntimeError is that of encrypted members and of unknown compression.
_BROKEN = (
    *(OSError, ValueError, EOFError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def read_npz(
    path: PathLike | None = None,
    *,
    train_images: str | None = None,
    train_labels: str | None = None,
    valid_images: str | None = None,
    valid_labels: str | None = None,
    test_images: str | None = None,
    test_labels: str | None = None,
    class_names: str | None = None,
    channels_last: bool = False,
) -> Source:
    """Reads images and labels from an npz file.

    Images are uint8 or floats in [0, 1], [n, height, width] or
    [n, height, width, channels]; labels are integers 0..C-1, [n]; class names are
    strings, [C]. Pickled objects are never loaded.

    Args:
      path: The file.
      train_images: Key of the training images; None for "train_images", or "x_train"
        where the file has that instead, as those of Keras do.
      train_labels: Key of their labels; None for "train_labels" or "y_train".
      valid_images: Key of the validation images; None for "valid_images", where
        the file has it.
      valid_labels: Key of their labels, likewise.
      test_images: Key of the test images; None for "test_images" or "x_test".
      test_labels: Key of their labels; None for "test_labels" or "y_test".
      class_names: Key of the class names; None for "class_names", where the file
        has it.
      channels_last: Whether the last of four axes is the channels although its length
        looks like a height or width, as that of images of [9, 16, 12] does.

    Returns:
      The splits and class names of the file.

    Raises:
      DataError: The file or an array in it is not like that.
    """
    file = require_file(require_path(path, _EXPECTED, _SOURCE), _EXPECTED)
    if not isinstance(channels_last, bool):
        raise DataError(
            "option channels_last",
            repr(channels_last),
            "True or False",
            "set channels_last=True where the channels are the last axis",
        )

    def split(
        archive: NpzFile, name: str, images: str | None, labels: str | None
    ) -> Split:
        images = images or _usual(archive, f"{name}_images")
        labels = labels or _usual(archive, f"{name}_labels")
        return _split(archive, file, name, (images, labels), channels_last)

    with _open(file) as stream, _load(stream, file) as archive:
        has_valid = (
            valid_images is not None
            or valid_labels is not None
            or "valid_images" in archive
            or "valid_labels" in archive
        )
        valid = None
        if has_valid:
            valid = split(archive, "valid", valid_images, valid_labels)
        return Source(
            train=split(archive, "train", train_images, train_labels),
            valid=valid,
            test=split(archive, "test", test_images, test_labels),
            class_names=_class_names(archive, file, class_names),
            name=str(file),
        )


def _open(file: Path) -> BinaryIO:
    """The file, open. Opened by numpy it would stay so after some errors."""
    try:
        return file.open("rb")
    except OSError as error:
        raise unreadable(file, error, _EXPECTED) from error


def _load(stream: BinaryIO, file: Path) -> NpzFile:
    """The archive in a file, none of its arrays read yet."""
    try:
        start = stream.read(len(_ZIP))
        # numpy looks at the start of the file, zipfile at its end.
        if start == _ZIP and zipfile.is_zipfile(stream):
            stream.seek(0)
            archive: NpzFile = np.load(stream, allow_pickle=False)
            return archive
    except _BROKEN as error:
        raise unreadable(file, error, _EXPECTED) from error
    if start == _ZIP:
        found = "the beginning of a zip file without its end: it is truncated"
        remedy = "copy or download it again"
    else:
        found = f"a file that is not a zip file, beginning with {start!r}"
        remedy = "write it with numpy.savez(file, train_images=..., ...)"
    raise DataError(file, found, _EXPECTED, remedy)


def _usual(archive: NpzFile, option: str) -> str:
    """The key of an option that is not given."""
    of_keras = _KERAS.get(option)
    if of_keras and of_keras in archive and option not in archive:
        return of_keras
    return option


def _split(
    archive: NpzFile,
    file: Path,
    split: str,
    keys: tuple[str, str],
    channels_last: bool,
) -> Split:
    """One split, from its keys of images and labels."""
    images = _array(archive, file, keys[0], f"{split}_images")
    labels = _array(archive, file, keys[1], f"{split}_labels")
    where = f"{file}[{keys[0]}]", f"{file}[{keys[1]}]"
    return as_split(images, labels, where, channels_last)


def _array(archive: NpzFile, file: Path, key: str, option: str) -> np.ndarray:
    """One array of the archive; the option is that which names its key."""
    where = f"{file}[{key}]"
    if key not in archive:
        found = f"no such key, but {', '.join(archive.files) or 'an empty archive'}"
        remedy = f"save it under that key, or say which it is with {option}='KEY'"
        raise DataError(where, found, f"an array of {option}", remedy)
    try:
        array = _unpack(archive, key, where)
    except DataError:  # which is a ValueError too
        raise
    except _BROKEN as error:
        found = f"an array that cannot be read ({error})"
        remedy = "copy or download the file again; save plain arrays, not objects"
        raise DataError(where, found, "numbers or strings", remedy) from error
    if array is None:
        found = "bytes that are not an array in numpy's format"
        raise DataError(where, found, _EXPECTED, "write the file with numpy.savez")
    return array


def _unpack(archive: NpzFile, key: str, where: str) -> np.ndarray | None:
    """One array of the archive, None if it is something else."""
    members = cast(zipfile.ZipFile, archive.zip)
    is_name = key in members.namelist()  # Keys are names without their ending.
    member = members.getinfo(key if is_name else f"{key}.npy")
    with members.open(member) as stream:
        if stream.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            return None
        stream.seek(0)
        return unpack_npy(cast(BinaryIO, stream), member.file_size, where)


def _class_names(
    archive: NpzFile, file: Path, key: str | None
) -> tuple[str, ...] | None:
    """The class names, if the archive has them or the caller names their key."""
    if key is None and "class_names" not in archive:
        return None
    key = key or "class_names"
    names = _array(archive, file, key, "class_names")
    if names.ndim != 1 or names.dtype.kind != "U" or not names.size:
        found = f"an array of {names.dtype} and shape {names.shape}"
        remedy = "save numpy.array(['first class', 'second class', ...])"
        raise DataError(f"{file}[{key}]", found, "one string for each class", remedy)
    return tuple(names.tolist())
