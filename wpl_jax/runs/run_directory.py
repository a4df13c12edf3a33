"""The folder of one run: whose it is, and of which configuration and data."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wpl_jax.devices import processes
from wpl_jax.errors import UserError, for_caller, option, shorten
from wpl_jax.runs import run_files
from wpl_jax.runs.checkpoint import check_path
from wpl_jax.runs.run_files import OBJECT, TEXT, to_json, write_atomically

CONFIG_FILE = "config.json"
CHECKPOINTS = "checkpoints"  # the folder of a search or training
DATA_FILE = "data.json"
_LOCK = ".lock"  # held while a process runs in a folder
_TURN = ".turn"  # held while a process writes what all of a run write


@contextlib.contextmanager
def open_run(
    workdir: Path,
    config: dict[str, Any],
    *,
    existing: bool = False,
    alone: bool = True,
) -> Iterator[Path]:
    """Claims a folder for a configuration, for as long as the context lasts.

    The first run writes its configuration there; later ones must bring the same, or
    results of two experiments would mix. Of several processes the first one claims it
    for all.

    Args:
      workdir: The folder; made if it does not exist.
      config: The configuration, JSON-like.
      existing: Whether there must have been a run.
      alone: Whether no other process may have the folder open. Without it, processes
        with ``alone=False`` have it open together. They claim the folders below that
        they write (:func:`claim`), and write common files :func:`in_turn`.

    Yields:
      The folder.

    Raises:
      UserError: If the folder holds a run with another configuration, belongs to a
        process that is still running, cannot be written, or has a path from which
        checkpoints cannot be read; or holds no run, where there must be one.
    """
    if not processes.is_primary():
        yield workdir
        return
    check_path(workdir.absolute())
    if existing and not (workdir / CONFIG_FILE).exists():
        raise UserError(
            f"There is no run in {workdir}. Run without {option('mode')} first, or "
            "give the folder of a run."
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_be_written(workdir, error) from error
    busy = (
        f"Another process is running in {workdir}. Wait for it, stop it, or give "
        f"another {option('workdir')}."
    )
    with _locked(workdir / _LOCK, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, busy):
        link = run_files.linked_folder(workdir)
        if link is not None:
            raise UserError(
                f"{link} is a symbolic link to a folder; a run writes through none. "
                "Put the folder itself there, or give one on the other disk as "
                f"{option('workdir')}."
            )
        run_files.delete_leftovers(workdir)
        with in_turn(workdir):
            _claim(workdir, config)
        yield workdir


@contextlib.contextmanager
def claim(folder: Path) -> Iterator[None]:
    """Claims a folder below that of a run, among processes that share the run.

    Only the primary process does.

    Args:
      folder: Made if it does not exist.

    Raises:
      UserError: If another process has claimed it, or it cannot be written.
    """
    if not processes.is_primary():
        yield
        return
    busy = (
        f"Another process is at work in {folder}. Shares that run at the same time in "
        f"one {option('workdir')} need the same N in {option('share')}=I/N, and "
        "different I."
    )
    with _locked(run_files.make_folder(folder) / _LOCK, fcntl.LOCK_EX, busy):
        yield


@contextlib.contextmanager
def in_turn(workdir: Path) -> Iterator[None]:
    """Waits until no other process writes the files that all of a run write.

    Only the primary process does. A process that is inside must not enter again.

    Args:
      workdir: Folder of the run.
    """
    if not processes.is_primary():
        yield
        return
    with _locked(workdir / _TURN, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _locked(path: Path, kind: int, busy: str = "") -> Iterator[None]:
    """Holds a lock, which ends with the process at the latest.

    Args:
      path: Of the lock's file.
      kind: ``fcntl.LOCK_EX``, or ``LOCK_SH`` for a lock that several may hold.
      busy: The error if another process has it; "" to wait for it.

    Raises:
      UserError: With ``busy``, or if the file cannot be written or locked.
    """
    try:
        lock = run_files.open_lock(path)
    except OSError as error:
        raise _cannot_be_written(path.parent, error) from error
    with lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB if busy else kind)
        except BlockingIOError as error:
            raise UserError(busy) from error
        except OSError as error:
            raise UserError(
                f"{path} cannot be locked ({run_files.reason(error)}). The file system "
                f"must support flock; give a {option('workdir')} on another one."
            ) from error
        yield


def _cannot_be_written(workdir: Path, error: OSError) -> UserError:
    return UserError(
        f"The workdir {workdir} cannot be written ({error.filename}: "
        f"{run_files.reason(error)}). Give one that can, with {option('workdir')}."
    )


def _claim(workdir: Path, config: dict[str, Any]) -> None:
    if not (workdir / CONFIG_FILE).exists():
        write_atomically(workdir / CONFIG_FILE, to_json(config))
        return
    now = json.loads(to_json(config))
    differences = _listed(read_config(workdir), now, "there", "now")
    if differences:
        what = for_caller("configuration", "search or training")
        how = for_caller("Run it with its own configuration", "Repeat its call")
        raise UserError(
            f"{workdir} holds a run with another {what}:\n{differences}\n{how}, or "
            f"give another {option('workdir')}."
        )


def claim_data(workdir: Path, data: Mapping[str, str]) -> None:
    """Checks that data is that of the run, and notes what comes for the first time.

    Only the primary process does.

    Args:
      workdir: A folder that is open.
      data: Fingerprints (:mod:`wpl_jax.runs.fingerprint`), by what uses the data.

    Raises:
      UserError: If there was other data before.
    """
    if not processes.is_primary():
        return
    with in_turn(workdir):
        noted = read_data(workdir)
        for name, found in data.items():
            if noted.get(name, found) != found:
                changed = for_caller(
                    "The configuration is the same, so the content of its files has "
                    "changed",
                    "The call is the same, so its dataset has changed",
                )
                raise UserError(
                    f"{workdir} holds a run with other data: the fingerprint of the "
                    f"data of {name} was {shorten(noted[name])}, and is {found!r} now. "
                    f"{changed}. Restore it, or give another {option('workdir')}."
                )
        if data.keys() - noted.keys():
            fingerprints = to_json({"fingerprints": {**noted, **data}})
            write_atomically(workdir / DATA_FILE, fingerprints)


def read_data(workdir: Path) -> dict[str, str]:
    """The fingerprints that a run has noted of its data; empty if there are none.

    Raises:
      UserError: If the file is not what :func:`claim_data` writes.
    """
    path = workdir / DATA_FILE
    remedy = (
        "Restore it from a copy, or delete it if you are sure that the data is that of "
        "the run."
    )
    if not path.exists():
        return {}
    noted = run_files.read_json(path, {"fingerprints": OBJECT}, remedy)["fingerprints"]
    run_files.check_fields(noted, dict.fromkeys(noted, TEXT), path, remedy)
    return noted


def check_same_run(folders: Sequence[Path]) -> None:
    """Checks that folders hold runs of one configuration, with the same data.

    Args:
      folders: Of runs; the first one has a configuration.

    Raises:
      UserError: If another one holds no run, or two hold different ones.
    """
    first = folders[0]
    noted: dict[str, tuple[str, Path]] = {}
    for folder in folders:
        if not (folder / CONFIG_FILE).is_file():
            raise UserError(f"There is no run in {folder}. Give the folder of one.")
        of_both = read_config(first), read_config(folder)
        if differences := _listed(*of_both, f"in {first}", f"in {folder}"):
            raise UserError(
                f"{folder} holds a run with another configuration than {first}:\n"
                f"{differences}\nOnly folders with the same configuration can be "
                "joined. wpl-jax-compare compares different ones."
            )
        for name, found in read_data(folder).items():
            earlier, where = noted.setdefault(name, (found, folder))
            if earlier != found:
                raise UserError(
                    f"{where} and {folder} hold runs with different data: the "
                    f"fingerprint of the data of {name} is {shorten(earlier)} in the "
                    f"first and {shorten(found)} in the second. Run the searches of "
                    "one of them again, with the data of the other."
                )


def read_config(workdir: Path) -> dict[str, Any]:
    """The configuration of a run.

    Raises:
      UserError: If it cannot be read.
    """
    remedy = f"Restore it from a copy, or give another {option('workdir')}."
    return run_files.read_json(workdir / CONFIG_FILE, {}, remedy)


def _listed(old: Any, new: Any, of_old: str, of_new: str) -> str:
    """The leaves that differ, a line each."""
    return "\n".join(
        f"  {name}: {shorten(one)} {of_old}, {shorten(other)} {of_new}"
        for name, one, other in differing_fields(old, new)
    )


def differing_fields(
    old: Any, new: Any, name: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yields the dotted names and both values of the leaves that differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            below = f"{name}.{key}" if name else key
            yield from differing_fields(
                old.get(key, "(absent)"), new.get(key, "(absent)"), below
            )
    elif old != new:
        yield name, old, new
