"""Paths, checked before anything is read from them."""

import difflib
import os
import stat
from pathlib import Path

from wpl_jax.data.errors import DataError
from wpl_jax.data.host_memory import require_memory

PathLike = str | os.PathLike[str]

_MOST_NAMES = 6  # of a folder, in a message


def require_path(path: PathLike | None, expected: str, source: str = "") -> Path:
    """The path, with ``~`` expanded.

    Args:
      path: As the caller gave it.
      expected: What it should lead to, for the message.
      source: Where such data can be had, for the message of a missing path.

    Returns:
      The path; nothing is known yet about what is there.

    Raises:
      DataError: No path was given, not a path, or one in an unknown home folder.
    """
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        whole = f"the path of {expected}"
        remedy = f"{source and f'{source}; '}give it as `path`"
        raise DataError("path", repr(path), whole, remedy, "path")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        found = "the home folder of a user that this system does not know"
        remedy = "write the folder's full path instead of ~"
        raise DataError(path, found, f"the path of {expected}", remedy) from error


def require_file(path: Path, expected: str) -> Path:
    """The path of a file that is there and not empty.

    Args:
      path: The file.
      expected: What it should be, e.g. "an npz file".

    Returns:
      ``path``.

    Raises:
      DataError: Nothing is there, or what is no file (a folder, pipe or device), or
        an empty file.
    """
    found = _status(path, expected)
    if stat.S_ISDIR(found.st_mode):
        raise DataError(
            path, f"a folder ({contents(path)})", expected, "give the file's own path"
        )
    if not stat.S_ISREG(found.st_mode):
        # They may have no end, or wait for one who writes for ever.
        remedy = "write its content to a file, and give that file's path"
        raise DataError(path, _kind(found.st_mode), expected, remedy)
    if found.st_size == 0:
        raise DataError(
            path, "an empty file (0 bytes)", expected, "copy or download it again"
        )
    return path


def require_folder(path: Path, expected: str) -> Path:
    """The path of a folder that is there and not empty.

    Args:
      path: The folder.
      expected: What it should be, e.g. "a folder of idx files".

    Returns:
      ``path``.

    Raises:
      DataError: Nothing is there, or a file, or an empty folder.
    """
    found = _status(path, expected)
    if not stat.S_ISDIR(found.st_mode):
        remedy = f"give the folder that holds the files, perhaps {path.parent}"
        raise DataError(path, _kind(found.st_mode), expected, remedy)
    if not entries(path):
        raise DataError(path, "an empty folder", expected, "put the files into it")
    return path


def _status(path: Path, expected: str) -> os.stat_result:
    """What the system knows of a file or folder; links are followed."""
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        if not os.path.islink(path):
            raise missing(path, expected) from error
        found = f"a symbolic link to {os.readlink(path)}, where nothing is"
        remedy = "make the link anew, or copy the file or folder here"
        raise DataError(path, found, expected, remedy) from error
    except OSError as error:
        raise unreadable(path, error, expected) from error


def _kind(mode: int) -> str:
    """What is at a path, in words."""
    kinds = {
        stat.S_IFREG: "a file",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something that is no file")


def read_bytes(path: Path, expected: str) -> bytes:
    """The whole content of a file.

    Args:
      path: The file.
      expected: What it should be.

    Returns:
      Its bytes, at least one.

    Raises:
      DataError: As :func:`require_file`, or the file cannot be read, or is larger than
        the memory that is free.
    """
    file = require_file(path, expected)
    try:
        remedy = "take less data, or a machine with more memory"
        require_memory(file.stat().st_size, file, "a file", remedy)
        return file.read_bytes()
    except OSError as error:
        raise unreadable(path, error, expected) from error


def unreadable(path: Path, error: Exception, expected: str) -> DataError:
    """The error for a file or folder that the system refuses to read."""
    remedy = "check its path and permissions, or copy or download it again"
    # The system's words; all of the error would repeat the path.
    why = getattr(error, "strerror", None) or error
    return DataError(path, f"a file that cannot be read ({why})", expected, remedy)


def missing(path: Path, expected: str) -> DataError:
    """The error for a path at which nothing is, with what is nearby."""
    folder = path.parent
    while not os.path.isdir(folder) and folder != folder.parent:
        folder = folder.parent
    remedy = f"check the path; {folder} holds {contents(folder, like=path.name)}"
    if not path.is_absolute():
        remedy += f", and the working folder is {Path.cwd()}"
    return DataError(path, "nothing (no such file or folder)", expected, remedy)


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name, without what systems leave behind.

    Args:
      folder: An existing folder.

    Returns:
      Paths, without hidden ones and without those of file managers and archivers.

    Raises:
      DataError: The folder cannot be read.
    """
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name)
    except OSError as error:
        raise unreadable(folder, error, "a folder that can be listed") from error
    litter = {"Thumbs.db", "desktop.ini", "__MACOSX"}
    return [p for p in paths if not p.name.startswith(".") and p.name not in litter]


def contents(folder: Path, like: str = "") -> str:
    """A few of the names in a folder, for a message; those ``like`` one first."""
    names = [p.name + ("/" if os.path.isdir(p) else "") for p in entries(folder)]
    close = difflib.get_close_matches(like, names, n=_MOST_NAMES) if like else []
    shown = (close + [name for name in names if name not in close])[:_MOST_NAMES]
    rest = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(shown) + rest if names else "nothing"
