"""Standard output and error of a program that goes on when nobody reads them."""

import contextlib
import errno
import os
from collections.abc import Callable
from typing import Any

_GONE = (errno.EPIPE, errno.EIO)  # the other end of a pipe, a terminal


class _Lasting:
    """A text stream whose errors do not end the program.

    Once its reader has gone, as under ``| head -1``, what is written is dropped.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
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


def lasting(stream: Any) -> Any:
    """The stream, but that errors of the system do not end the program.

    What cannot be encoded, as a path that is not UTF-8, is written in escapes.
    """
    with contextlib.suppress(AttributeError):  # Not one of files.
        stream.reconfigure(errors="backslashreplace")
    return _Lasting(stream)
