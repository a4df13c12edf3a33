"""Arrays by name in one file, in the format of safetensors.

Eight bytes with the length of a JSON object, that object, and the bytes of all arrays
(https://github.com/huggingface/safetensors). Nothing in such a file is executed.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from wpl_jax.errors import UserError, printable

_DTYPES: dict[str, Any] = {
    "F32": "<f4",
    "F64": "<f8",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "I32": "<i4",
    "I64": "<i8",
}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_ALIGNED = 8  # bytes, at which arrays begin
_LONGEST = 100_000_000  # bytes of the JSON object, the limit of the format


def to_safetensors(
    arrays: Mapping[str, np.ndarray], about: Mapping[str, str] | None = None
) -> bytes:
    """The content of a file.

    Args:
      arrays: By name; of floats or whole numbers.
      about: Texts by name, for ``__metadata__``.
    """
    header: dict[str, Any] = {"__metadata__": dict(about)} if about else {}
    end, parts = 0, []
    for name, array in arrays.items():
        array = np.ascontiguousarray(array).reshape(np.shape(array))
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [start, end],
        }
        parts.append(array.tobytes())
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


_MODEL = (
    "a model that wpl_jax saved",
    "Give the folder of a run, or the model.safetensors in it.",
)


def read_safetensors(
    path: Path, kind: tuple[str, str] = _MODEL
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by name, and its texts.

    Args:
      path: The file.
      kind: What it should be, and what to do if it is not, for messages.

    Raises:
      UserError: If it cannot be read, or is no file of this format.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(_LONGEST, len(content) - 8):
        _wrong(path, kind, "its beginning is not that of a safetensors file")
    try:
        header = json.loads(content[8 : 8 + length])
        about = header.pop("__metadata__", {})
        arrays = {
            name: _array(content, 8 + length, **one) for name, one in header.items()
        }
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        _wrong(path, kind, printable(str(error)))
    if not isinstance(about, dict):
        _wrong(path, kind, "its metadata is no object")
    return arrays, about


def _array(content, start, dtype, shape, data_offsets):
    first, end = data_offsets
    count = math.prod(shape)
    size = np.dtype(_DTYPES[dtype]).itemsize
    if not 0 <= first <= end <= len(content) - start or end - first != count * size:
        raise ValueError("an array lies outside of the file")
    found = np.frombuffer(content, _DTYPES[dtype], count, start + first)
    return found.reshape(shape)


def _wrong(path: Path, kind: tuple[str, str], why: str) -> NoReturn:
    expected, remedy = kind
    raise UserError(f"{path} is not {expected} ({why}). {remedy}")
