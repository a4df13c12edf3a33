"""Tells damaged files from files that could not be read this time.

A damaged file stays damaged, and a run goes on without it. Too many open files, a lack
of memory, and a server that does not respond pass. A run then must stop and leave every
file as it is: it is probably intact.
"""

import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

# A file that is missing, or something else in its place.
_OF_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
# How errors of tensorstore begin, which raises ValueError for all of them. Those of
# damage begin with DATA_LOSS, FAILED_PRECONDITION, NOT_FOUND or OUT_OF_RANGE.
_PASSING = re.compile(
    "ABORTED|CANCELLED|DEADLINE_EXCEEDED|PERMISSION_DENIED|RESOURCE_EXHAUSTED"
    "|UNAUTHENTICATED|UNAVAILABLE|UNKNOWN"
)
_CODE = re.compile("os_error_code='([0-9]+)'")  # and what the system's errors have
_PIECE = 1 << 20  # bytes that are read at once


def is_passing(error: BaseException) -> bool:
    """Whether an error of reading does not tell that what was read is damaged.

    Args:
      error: As the system, Python, Orbax or tensorstore raises it. The errors that
        caused it count as well.
    """
    return any(map(_is_passing, _with_causes(error)))


def _is_passing(error: BaseException) -> bool:
    text = str(error)
    if isinstance(error, OSError):
        is_missing = isinstance(error, FileNotFoundError)  # Orbax's have no number.
        return not is_missing and error.errno not in _OF_DAMAGE
    if isinstance(error, MemoryError):
        return True
    if "can't start new thread" in text:
        return True
    if code := _CODE.search(text):
        return int(code[1]) not in _OF_DAMAGE
    return _PASSING.match(text) is not None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        hidden = None if error.__suppress_context__ else error.__context__
        error = error.__cause__ or hidden


def unreadable_below(folder: Path) -> OSError | None:
    """What keeps files below a folder from being read, damage apart.

    Libraries report a file as missing where they may not look for it.

    Args:
      folder: All regular files in it are read.

    Returns:
      The first passing error; None if there is none.
    """
    try:
        for path in _files(folder):
            try:
                _read(path)
            except OSError as error:
                if is_passing(error):
                    return error
    except OSError as error:
        return error if is_passing(error) else None
    return None


def _files(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        for name in names:
            yield Path(parent, name)


def _read(path: Path) -> None:
    if stat.S_ISREG(path.stat().st_mode):
        with open(path, "rb", buffering=0) as file:
            while file.read(_PIECE):
                pass
