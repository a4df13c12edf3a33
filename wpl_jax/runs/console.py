"""Standard output and error of a program that goes on when nobody reads them."""

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

from wpl_jax.errors import printable

_GONE = (errno.EPIPE, errno.EIO)  # the other end of a pipe, a terminal


class _Lasting:
    """A text stream whose errors do not end the program.

    Once its reader has gone, as under ``| head -1``, what is written is dropped.
    """

    def __init__(self, stream: Any, escape: bool):
        self._stream, self._escape = stream, escape

    def write(self, text: str) -> int:
        self._try(self._stream.write, shown(text) if self._escape else text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, do: Callable[..., Any], *args: Any) -> None:
        try:
            do(*args)
        except OSError as error:  # A full disk, say: the files of a run say so.
            if error.errno in _GONE:
                with open(os.devnull, "w") as nowhere:
                    os.dup2(nowhere.fileno(), self._stream.fileno())


def shown(text: str) -> str:
    """A text as :func:`wpl_jax.errors.printable` writes it, in as many lines.

    Names of files, and what is in files, may hold codes that clear a terminal or change
    the order of letters.
    """
    return "".join(c if c in "\n\t" else printable(c) for c in text)


def lasting(stream: Any, escape: bool = True) -> Any:
    """The stream, but that errors of the system do not end the program.

    What cannot be encoded, as a path that is not UTF-8, is written in escapes.

    Args:
      stream: Of text.
      escape: Whether codes that control a terminal are written in escapes as well.
    """
    with contextlib.suppress(AttributeError):  # Not one of files.
        stream.reconfigure(errors="backslashreplace")
    return _Lasting(stream, escape)
