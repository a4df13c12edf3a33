"""The folder of one run: whose it is, and of which configuration and data."""

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wpl_jax.devices import processes
from wpl_jax.errors import UserError, shorten
from wpl_jax.runs import run_files
from wpl_jax.runs.checkpoint import check_path
from wpl_jax.runs.run_files import OBJECT, TEXT, to_json, write_atomically

CONFIG_FILE = "config.json"
DATA_FILE = "data.json"


@contextlib.contextmanager
def open_run(
    workdir: Path, config: dict[str, Any], *, existing: bool = False
) -> Iterator[Path]:
    """Claims a folder for a configuration, for as long as the context lasts.

    The first run writes its configuration there; later ones must bring the same, or
    results of two experiments would mix. Of several processes the first one claims it
    for all.

    Args:
      workdir: The folder; made if it does not exist.
      config: The configuration, JSON-like.
      existing: Whether there must have been a run.

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
            f"There is no run in {workdir}. Run without --mode first, or give the "
            "--workdir of a run."
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = run_files.open_lock(workdir / ".lock")
    except OSError as error:
        raise UserError(
            f"The workdir {workdir} cannot be written ({error.filename}: "
            f"{run_files.reason(error)}). Give a folder that can, with --workdir."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is running in {workdir}. Wait for it, stop it, or "
                "give another --workdir."
            ) from error
        link = run_files.linked_folder(workdir)
        if link is not None:
            raise UserError(
                f"{link} is a symbolic link to a folder; a run writes through none. "
                "Put the folder itself there, or give one on the other disk as "
                "--workdir."
            )
        _claim(workdir, config)
        yield workdir


def _claim(workdir: Path, config: dict[str, Any]) -> None:
    path = workdir / CONFIG_FILE
    if not path.exists():
        write_atomically(path, to_json(config))
        return
    remedy = "Restore it from a copy, or give another --workdir."
    earlier = run_files.read_json(path, {}, remedy)
    differences = list(differing_fields(earlier, json.loads(to_json(config))))
    if differences:
        raise UserError(
            f"{workdir} holds a run with another configuration:\n"
            + "\n".join(
                f"  {name}: {shorten(old)} there, {shorten(new)} now"
                for name, old, new in differences
            )
            + "\nRun it with its own configuration, or give another --workdir."
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
    path = workdir / DATA_FILE
    remedy = (
        "Restore it from a copy, or delete it if you are sure that the data is that of "
        "the run."
    )
    noted: dict[str, str] = {}
    if path.exists():
        noted = run_files.read_json(path, {"fingerprints": OBJECT}, remedy)[
            "fingerprints"
        ]
        run_files.check_fields(noted, dict.fromkeys(noted, TEXT), path, remedy)
    for name, found in data.items():
        if noted.get(name, found) != found:
            raise UserError(
                f"{workdir} holds a run with other data: the fingerprint of the data "
                f"of {name} was {shorten(noted[name])}, and is {found!r} now. The "
                "configuration is the same, so the content of its files has changed. "
                "Restore it, or give another --workdir."
            )
    if data.keys() - noted.keys():
        write_atomically(path, to_json({"fingerprints": {**noted, **data}}))


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
