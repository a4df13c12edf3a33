"""The folder of one run: whose it is, and files that are whole or not there."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax import processes
from wpl_jax.errors import UserError

CONFIG_FILE = "config.json"


def to_json(value: Any) -> str:
    """One canonical text for a value, floats with all their digits."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Numbers as JSON has them: lists of floats, None for what is not finite."""
    array = np.asarray(value)
    if array.ndim:
        return [finite(each) for each in array]
    return array.item() if np.isfinite(array) else None


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that a crash leaves the old one or the new one.

    The first of several processes does, the others write nothing.

    Raises:
      UserError: If it cannot be written, for a full disk say; the old one is left.
    """
    if not processes.leads():
        return
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} could not be written ({error.strerror}). Make room, or mend its "
            "folder; then run the same command again, which continues."
        ) from error


@contextlib.contextmanager
def open_run(
    workdir: Path, config: dict[str, Any], *, existing: bool = False
) -> Iterator[Path]:
    """Claims a folder for a configuration, for as long as the context lasts.

    The first run writes its configuration there; later ones must bring the same,
    or results of two experiments would mix. Of several processes the first one
    claims it for all.

    Args:
      workdir: The folder; made if it does not exist.
      config: The configuration, JSON-like.
      existing: Whether there must have been a run.

    Yields:
      The folder.

    Raises:
      UserError: If the folder holds a run with another configuration, belongs to
        a process that is still running, or cannot be written; or holds none, where
        there must be one.
    """
    if not processes.leads():
        yield workdir
        return
    if existing and not (workdir / CONFIG_FILE).exists():
        raise UserError(
            f"There is no run in {workdir}. Run without --mode first, or give the "
            "--workdir of a run."
        )
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"The workdir {workdir} cannot be written ({error.strerror}). Give a "
            "folder that can, with --workdir."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another process is running in {workdir}. Wait for it, stop it, or "
                "give another --workdir."
            ) from error
        _claim(workdir, config)
        yield workdir


def _claim(workdir: Path, config: dict[str, Any]) -> None:
    path = workdir / CONFIG_FILE
    if not path.exists():
        write_atomically(path, to_json(config))
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not the JSON that a run writes ({error}). Restore it, or give "
            "another --workdir."
        ) from error
    differences = list(differing_fields(earlier, json.loads(to_json(config))))
    if differences:
        raise UserError(
            f"{workdir} holds a run with another configuration:\n"
            + "\n".join(
                f"  {name}: {old!r} there, {new!r} now"
                for name, old, new in differences
            )
            + "\nRun it with its own configuration, or give another --workdir."
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
