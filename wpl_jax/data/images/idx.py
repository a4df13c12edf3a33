"""The idx files of MNIST and of the data sets that copy it.

The format: two zero bytes, a byte for the type (8 is uint8), a byte for the
rank, one big-endian uint32 for each dimension, then the values, last dimension
fastest (http://yann.lecun.com/exdb/mnist/).
"""

import contextlib
import gzip
import itertools
import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import (
    PathLike,
    contents,
    require_file,
    require_folder,
    require_path,
    unreadable,
)
from wpl_jax.data.images.checks import as_split
from wpl_jax.data.images.source import Source, Split
from wpl_jax.data.unpacking import MOST_PER_BYTE, WrongSizeError, unpack

_EXPECTED = "a folder with the four idx files of MNIST, or of a set like it"
_GZIP = b"\x1f\x8b"  # how every gzip file begins
_AGAIN = "copy or download it again"


def read_idx(path: PathLike | None = None) -> Source:
    """Reads a folder of idx files: MNIST, Fashion-MNIST, KMNIST and the like.

    The files are ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the
    same with ``t10k`` for testing; a dot may stand before ``idx``, and each may be
    compressed with the ending ``.gz``.

    Args:
      path: The folder.

    Returns:
      The train and test splits, with one channel.

    Raises:
      DataError: A file is missing, truncated, too long or no idx file, or the
        files do not belong together.
    """
    folder = require_folder(require_path(path, _EXPECTED), _EXPECTED)
    train, test = _read_split(folder, "train"), _read_split(folder, "t10k")
    return Source(train, None, test, None, str(folder))


def _read_split(folder: Path, stem: str) -> Split:
    """The split of one pair of files."""
    images = _find(folder, f"{stem}-images", rank=3)
    labels = _find(folder, f"{stem}-labels", rank=1)
    return as_split(
        _read_array(images, rank=3),
        _read_array(labels, rank=1),
        (str(images), str(labels)),
    )


def _find(folder: Path, stem: str, *, rank: int) -> Path:
    """The file of one array, under whichever of its names it has."""
    names = [
        f"{stem}{mark}idx{rank}-ubyte{end}"
        for mark, end in itertools.product("-.", ("", ".gz"))
    ]
    for name in names:
        if os.path.lexists(folder / name):
            return folder / name
    raise DataError(
        folder / names[0],
        f"no such file; the folder holds {contents(folder, like=names[0])}",
        f"one of {', '.join(names)}",
        "put the file there, or rename it so, or give the folder that holds it",
    )


def _read_array(file: Path, *, rank: int) -> np.ndarray:
    """The array of one file, uint8 of the given rank."""
    require_file(file, "an idx file")
    try:
        with _decompressed(file) as stream:
            return _read_stream(stream, file, rank)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        found = f"a broken or truncated gzip file ({error})"
        raise DataError(file, found, "a whole gzip file", _AGAIN) from error
    except OSError as error:
        raise unreadable(file, error, "an idx file") from error


def _read_stream(stream: BinaryIO, file: Path, rank: int) -> np.ndarray:
    """The array of an open file: its header, and no more than that says."""
    start = 4 + 4 * rank
    header = stream.read(start)
    _check_magic(file, header, rank)
    if len(header) < start:
        found = f"{len(header)} bytes: it is truncated"
        raise DataError(file, found, f"a header of {start} bytes", _AGAIN)
    shape = struct.unpack(f">{rank}I", header[4:])
    size = math.prod(shape)
    expected = f"{start + size} bytes for its shape {shape}"
    packed = os.path.getsize(file)
    most = packed * MOST_PER_BYTE if file.suffix == ".gz" else packed - start
    if size > most:
        found = f"{packed} bytes: it is truncated"
        raise DataError(file, found, expected, _AGAIN)
    try:
        data = unpack(stream, size, file, f"an array of shape {shape}")
    except WrongSizeError as error:
        found = f"more than {start + size} bytes: it is too long"
        raise DataError(file, found, expected, _AGAIN) from error
    if len(data) < size:
        found = f"{start + len(data)} bytes: it is truncated"
        raise DataError(file, found, expected, _AGAIN)
    return data.reshape(shape)


@contextlib.contextmanager
def _decompressed(file: Path) -> Iterator[BinaryIO]:
    """A file, open, decompressed as it is read if its name says so."""
    compressed = file.suffix == ".gz"
    with file.open("rb") as stream:
        begins = stream.read(len(_GZIP)) == _GZIP
        stream.seek(0)
        if compressed and not begins:
            remedy = (
                "take the ending .gz off if it is an idx file, or download it again"
            )
            raise DataError(file, "a file that is not gzip", "a gzip file", remedy)
        if begins and not compressed:
            remedy = f"rename it to {file.name}.gz"
            expected = "an idx file, not compressed"
            raise DataError(file, "a gzip file", expected, remedy)
        if not compressed:
            yield stream
            return
        with gzip.GzipFile(fileobj=stream) as unpacked:
            yield cast(BinaryIO, unpacked)


def _check_magic(file: Path, data: bytes, rank: int) -> None:
    """The first four bytes announce uint8 and the rank."""
    magic = bytes((0, 0, 8, rank))
    if data[:4] != magic:
        kinds = {bytes((0, 0, 8, 1)): "labels", bytes((0, 0, 8, 3)): "images"}
        kind = kinds.get(data[:4], "no idx file of MNIST's kind")
        raise DataError(
            file,
            f"the magic number 0x{data[:4].hex()} ({kind})",
            f"0x{magic.hex()} ({kinds[magic]})",
            "check that files were not exchanged, or download it again",
        )
