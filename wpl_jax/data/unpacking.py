"""Arrays out of compressed files: no more is unpacked than their headers say.

A few kilobytes can unpack into more memory than a machine has. A header says how large
an array is; what follows is read up to that size, into memory that is free.
"""

import math
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from wpl_jax.data.host_memory import require_memory

_AT_ONCE = 2**20  # bytes that are unpacked at once
# One byte of deflate (gzip and zip) holds at most 1,032 bytes (zlib's documentation).
MOST_PER_BYTE = 1032
_SMALLER = "take fewer or smaller examples, or a machine with more memory"


class WrongSizeError(ValueError):
    """An array that does not fill its file, or does not fit into it."""


def unpack(stream: BinaryIO, size: int, where: object, what: str) -> np.ndarray:
    """Reads so many bytes.

    Args:
      stream: What they are read from.
      size: How many there should be, as a header says.
      where: The file, for messages.
      what: What they are, for messages.

    Returns:
      uint8[size]; uint8[n] with n < size where the stream ends before.

    Raises:
      DataError: They do not fit into memory.
      WrongSizeError: More bytes follow.
    """
    require_memory(size, where, what, _SMALLER)
    data = np.empty(size, np.uint8)
    count = 0
    while count < size:
        piece = stream.read(min(_AT_ONCE, size - count))
        if not piece:
            return data[:count]
        data[count : count + len(piece)] = np.frombuffer(piece, np.uint8)
        count += len(piece)
    if stream.read(1):  # Only here gzip compares its checksum.
        raise WrongSizeError(f"more than {size} bytes")
    return data


def unpack_npy(stream: BinaryIO, size: int, where: object) -> np.ndarray:
    """Reads an array in numpy's own format.

    Args:
      stream: What it is read from, seekable.
      size: How many bytes the stream holds, header included, as an archive says.
      where: The file, for messages.

    Returns:
      The array.

    Raises:
      DataError: It does not fit into memory.
      WrongSizeError: Its header says another size than the archive.
      ValueError: The header is none, or the array is of Python objects.
    """
    version = npy.read_magic(stream)
    read_header = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f"version {version} of numpy's format")
    shape, _, dtype = read_header(stream)
    if not dtype.hasobject:  # Those are refused by numpy below.
        needed = stream.tell() + math.prod(shape) * dtype.itemsize
        if needed != size:
            raise WrongSizeError(
                f"{size:,} bytes, and its header says {needed:,}: shape {shape} of "
                f"{dtype}"
            )
        require_memory(needed, where, f"an array of shape {shape}", _SMALLER)
    stream.seek(0)
    array: np.ndarray = npy.read_array(stream, allow_pickle=False)
    return array
