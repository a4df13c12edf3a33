"""The idx files of MNIST and of the data sets that copy it.

The format: two zero bytes, a byte for the type (8 is uint8), a byte for the
rank, one big-endian uint32 for each dimension, then the values, last dimension
fastest (http://yann.lecun.com/exdb/mnist/).
"""

import gzip
import itertools
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from wpl_jax.data.checks import as_split
from wpl_jax.data.errors import DataError
from wpl_jax.data.files import (
    PathLike,
    contents,
    read_bytes,
    require_folder,
    require_path,
)
from wpl_jax.data.source import Source, Split

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
        if (folder / name).exists():
            return folder / name
    raise DataError(
        folder / names[0],
        f"no such file; the folder holds {contents(folder, like=names[0])}",
        f"one of {', '.join(names)}",
        "put the file there, or rename it so, or give the folder that holds it",
    )


def _read_array(file: Path, *, rank: int) -> np.ndarray:
    """The array of one file, uint8 of the given rank."""
    data = _read_decompressed(file)
    _check_magic(file, data, rank)
    start = 4 + 4 * rank
    if len(data) < start:
        found = f"{len(data)} bytes: it is truncated"
        raise DataError(file, found, f"a header of {start} bytes", _AGAIN)
    shape = struct.unpack(f">{rank}I", data[4:start])
    length = start + math.prod(shape)
    if len(data) != length:
        kind = "truncated" if len(data) < length else "too long"
        found = f"{len(data)} bytes: it is {kind}"
        expected = f"{length} bytes for its shape {shape}"
        raise DataError(file, found, expected, _AGAIN)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_decompressed(file: Path) -> bytes:
    """The bytes of a file, decompressed if its name says so."""
    data = read_bytes(file, "an idx file")
    if file.suffix == ".gz":
        if not data.startswith(_GZIP):
            remedy = (
                "take the ending .gz off if it is an idx file, or download it again"
            )
            raise DataError(file, "a file that is not gzip", "a gzip file", remedy)
        try:
            return gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            found = f"a broken or truncated gzip file ({error})"
            raise DataError(file, found, "a whole gzip file", _AGAIN) from error
    if data.startswith(_GZIP):
        remedy = f"rename it to {file.name}.gz"
        raise DataError(file, "a gzip file", "an idx file, not compressed", remedy)
    return data


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
