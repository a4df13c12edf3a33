"""Files that a run keeps: written whole or not at all, read with one clear message.

Nothing is written through a symbolic link, which may lead out of the run's folder.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from wpl_jax.devices import processes
from wpl_jax.errors import UserError, for_caller, option, shorten
from wpl_jax.runs.damage import is_passing

_LINK = "it is a symbolic link, and a run writes through none"


def to_json(value: Any) -> str:
    """One canonical text for a value, floats with all their digits."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Numbers as JSON has them: lists of floats, None for what is not finite."""
    array = np.asarray(value)
    if array.ndim:
        return [finite(each) for each in array]
    return array.item() if np.isfinite(array) else None


# Writing.


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that a crash leaves the old one or the new one.

    Only the primary process writes; on other processes nothing happens. Several
    programs may write the same file at once: it is whole, and of the last one.

    Args:
      path: The file. If it is a symbolic link, the link is replaced.
      content: All of it; text is encoded as UTF-8, and what is no
        text, as a path of other bytes, in escapes.

    Raises:
      UserError: If it cannot be written, for a full disk say; the old one is left.
    """
    if not processes.is_primary():
        return
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")
    with writing(path):
        temporary, file = _create_temporary(path.parent)
        try:
            with file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


# Names of the files that `_create_temporary` makes; no other program uses such names.
_TEMPORARY = re.compile(r"\.wpl_jax-[0-9]+-[0-9a-f]{16}\.tmp")


def _create_temporary(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file of a name of its own, locked until it is closed.

    The lock ends with the process: a file that is not locked is left of a process that
    was killed (:func:`delete_leftovers`).
    """
    while True:
        path = folder / f".wpl_jax-{os.getpid()}-{secrets.token_hex(8)}.tmp"
        file = create(path)
        with contextlib.suppress(OSError):  # Some file systems have no locks.
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.path.lexists(path):
            return path, file
        file.close()  # It was deleted before it was locked.


def _sync_folder(folder: Path) -> None:
    """Makes a file's new name outlast a loss of power, where the system can.

    Some file systems cannot, and a folder that may be written need not be readable.
    """
    cannot = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in cannot:
            raise


def delete_leftovers(workdir: Path) -> None:
    """Deletes what killed processes left of files that they were writing.

    Files that a process is writing now are locked, and stay.

    Args:
      workdir: The folder, with all below it.
    """
    for folder, _, names in os.walk(workdir):
        for name in filter(_TEMPORARY.fullmatch, names):
            path = Path(folder, name)
            with contextlib.suppress(OSError):  # It is being written, or gone.
                # NFS locks only a file that is open to be written.
                flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(path, flags), "rb+", buffering=0) as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


def create(path: Path) -> BinaryIO:
    """A new file, never one that is there already under this name.

    Raises:
      OSError: If there is one, or it cannot be made.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns errors of the system into one message about a file.

    Raises:
      UserError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} could not be written ({reason(error)}). Make room, or mend its "
            f"folder; then repeat the same {for_caller('command', 'call')}, which "
            "continues."
        ) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns errors of the system that pass into one message about a file.

    Raises:
      UserError: In place of an OSError that does not tell that the file is damaged.
    """
    try:
        yield
    except OSError as error:
        if not is_passing(error):
            raise
        raise not_read(path, reason(error)) from error


def not_read(path: Path, what: str, instead: str = "") -> UserError:
    """The UserError about a file, or a folder, that could not be read this time.

    Args:
      path: The file.
      what: What happened.
      instead: What else the user may do.
    """
    return UserError(
        f"{path} could not be read this time ({what}). It may be intact, and nothing "
        "was changed. Mend the cause, then repeat the same "
        f"{for_caller('command', 'call')}.{instead}"
    )


def check_can_be_written(path: Path) -> None:
    """Checks, before what takes long, that a file can be written at its end.

    Args:
      path: The file, which may be there.

    Raises:
      UserError: If it is a folder, or its folder is not there or cannot be written.
    """
    folder = path.parent
    found = ""
    if path.is_dir():
        found = "it is a folder, expected the path of a file"
    elif not folder.is_dir():
        found = f"there is no folder {folder}"
    elif not os.access(folder, os.W_OK | os.X_OK):
        found = f"the folder {folder} cannot be written"
    if found:
        raise UserError(f"{path} cannot be written: {found}. Give another path.")


def open_to_append(path: Path) -> BinaryIO:
    """A file that is written at its end; made if it does not exist.

    Raises:
      UserError: If it cannot be written, or is a symbolic link.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    with writing(path):
        return os.fdopen(os.open(path, flags, 0o666), "ab")


def open_lock(path: Path) -> BinaryIO:
    """A file to be locked; what is in it stays.

    Raises:
      OSError: If it cannot be opened, or is a symbolic link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)


def make_folder(path: Path, name: str = "workdir") -> Path:
    """A folder of a run, made if it does not exist.

    Args:
      path: The folder.
      name: Of the option that names it or a folder above it, for the message.

    Raises:
      UserError: If something else has its name, or it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        found = path.is_symlink() and _LINK
    except OSError as error:
        found = reason(error)
    if found:
        raise UserError(
            f"The folder {path} cannot be made ({found}). Remove or rename what is "
            f"there, or give another {option(name)}."
        )
    return path


def linked_folder(workdir: Path) -> Path | None:
    """A symbolic link to a folder somewhere below, None where there is none."""
    for folder, names, _ in os.walk(workdir):
        for name in names:
            if os.path.islink(os.path.join(folder, name)):
                return Path(folder, name)
    return None


def reason(error: OSError) -> str:
    """What the system says, in words that fit a file of a run."""
    return _LINK if error.errno == errno.ELOOP else error.strerror or str(error)


# Reading.


class Kind(NamedTuple):
    """What a field of a JSON file must be."""

    said: str  # as messages say one
    several: str  # and several
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    # A whole number of a JSON file may lie beyond the floats.
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_whole(value: Any) -> bool:
    return type(value) is int


NUMBER = Kind("a number", "numbers", _is_number)
NUMBER_OR_NULL = Kind(
    "a number or null", "numbers or nulls", lambda v: v is None or _is_number(v)
)
TEXT = Kind("a text", "texts", lambda v: isinstance(v, str))
TRUTH = Kind("true or false", "of true or false", lambda v: isinstance(v, bool))
OBJECT = Kind("an object", "objects", lambda v: isinstance(v, dict))


def list_of(kind: Kind, length: int | None = None) -> Kind:
    """A list of one kind, of this length or of any above 0."""

    def holds(value: Any) -> bool:
        if not isinstance(value, list) or not value:
            return False
        return length in (None, len(value)) and all(map(kind.holds, value))

    many = kind.several if length is None else f"{length} {kind.several}"
    return Kind(f"a list of {many}", f"lists of {many}", holds)


def equal_to(value: Any) -> Kind:
    """One value."""
    return Kind(f"{value!r}", f"times {value!r}", lambda v: v == value)


def below(bounds: tuple[int, ...]) -> Kind:
    """A list of whole numbers from 0, each below its bound: an architecture."""

    def holds(value: Any) -> bool:
        return (
            isinstance(value, list)
            and len(value) == len(bounds)
            and all(map(_is_whole, value))
            and all(0 <= v < n for v, n in zip(value, bounds, strict=True))
        )

    of = f"of {len(bounds)} decisions, each within its choices"
    return Kind(f"an architecture {of}", f"architectures {of}", holds)


def read_text(path: Path, remedy: str) -> str:
    """The text of a file.

    Args:
      path: The file.
      remedy: What to do if it is damaged, for the message.

    Raises:
      UserError: If there is no such file, it is not UTF-8, or it could not be read.
    """
    try:
        with reading(path):
            if path.exists() and not path.is_file():
                damaged(path, "it is a folder or a device, expected a file", remedy)
            return path.read_bytes().decode()
    except OSError as error:
        damaged(path, reason(error), remedy)
    except UnicodeDecodeError as error:
        damaged(path, f"byte {error.start} is not UTF-8", remedy)


def read_json(path: Path, fields: Mapping[str, Kind], remedy: str) -> dict[str, Any]:
    """Reads a file that a run wrote, and checks it.

    Args:
      path: The file.
      fields: Those that it must have.
      remedy: What to do if it is damaged, for the message.

    Returns:
      The object in it.

    Raises:
      UserError: Naming file and field, if it is not what a run writes.
    """
    found = parse(read_text(path, remedy), path, remedy)
    check_fields(found, fields, path, remedy)
    return found


def parse(text: str, path: Path, remedy: str, where: str = "") -> Any:
    """The value of a JSON text.

    Raises:
      UserError: If it is not JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        damaged(path, f"{where}not JSON: {error}", remedy)
    except RecursionError:
        damaged(path, f"{where}nested too deeply", remedy)


def check_fields(
    found: Any, fields: Mapping[str, Kind], path: Path, remedy: str, where: str = ""
) -> None:
    """Checks an object that was read from a file.

    Raises:
      UserError: Naming file and field, if one is missing or is not of its kind.
    """
    if not isinstance(found, dict):
        damaged(path, f"{where}found {shorten(found)}, expected an object", remedy)
    for name, kind in fields.items():
        if name not in found:
            damaged(path, f"{where}the field {name!r} is missing", remedy)
        if not kind.holds(found[name]):
            what = f"{where}the field {name!r} is {shorten(found[name])}"
            damaged(path, f"{what}, expected {kind.said}", remedy)


def damaged(path: Path, what: str, remedy: str) -> NoReturn:
    """Raises the UserError about a file that is not what a run wrote."""
    raise UserError(f"{path} is damaged: {what}. {remedy}")
