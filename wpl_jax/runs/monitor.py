"""Metrics of a run, in files."""

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wpl_jax.errors import UserError
from wpl_jax.runs import run_files
from wpl_jax.runs.loggers import TENSORBOARD, Logged, Loggers, NamedLogger
from wpl_jax.runs.run_files import reading, write_atomically, writing

METRICS_FILE = "metrics.jsonl"


class Metrics:
    """Writes records to ``metrics.jsonl``, and their numbers to loggers.

    The file holds no times and is cut back on resuming to the step the checkpoint
    stands at: an interrupted run leaves the same bytes as an undisturbed one.
    """

    def __init__(
        self,
        workdir: Path,
        resume_at: int,
        title: str = "",
        loggers: Sequence[NamedLogger] = (),
    ):
        """Opens the files; records of ``step >= resume_at`` are dropped.

        Args:
          workdir: Folder of the records.
          resume_at: Number of the first record that will be written.
          title: What the job is called in what is printed.
          loggers: Beside TensorBoard.

        Raises:
          UserError: If a record before ``resume_at`` is missing or damaged, or the
            files cannot be written.
        """
        self._path = run_files.make_folder(workdir) / METRICS_FILE
        self._title, self._named = title, (TENSORBOARD, *loggers)
        self._open(resume_at)

    def go_back(self, step: int) -> None:
        """Drops the records of that step and of later ones."""
        self.close()
        self._open(step)

    def _open(self, resume_at: int) -> None:
        kept = whole_records(self._path)
        if len(kept) < resume_at:
            run_files.damaged(
                self._path,
                missing(kept, resume_at),
                "Restore it from a copy, or delete its folder to start anew.",
            )
        before = b"".join(kept[:resume_at])
        self._checksum = zlib.crc32(before)
        write_atomically(self._path, before)
        logged = Logged(self._title, resume_at, self._path.parent)
        self._loggers = Loggers(self._named, logged)
        try:
            self._file = run_files.open_to_append(self._path)
        except UserError:
            self._loggers.close()
            raise

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Appends one record; loggers get every float and int in it.

        Raises:
          UserError: If it cannot be written.
        """
        line = json.dumps({"step": step, **record}, sort_keys=True).encode() + b"\n"
        self._checksum = zlib.crc32(line, self._checksum)
        with writing(self._path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        self._loggers.log(step, record)

    def checksum(self) -> int:
        """A checksum of all records, as they were written."""
        return self._checksum

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._loggers.close()


def whole_records(path: Path) -> list[bytes]:
    """The lines of a file of metrics, as far as they are whole and none is missing.

    Args:
      path: The file; where there is none, there are no records.

    Raises:
      UserError: If something that is no file has its name, or it could not be read.
    """
    if not path.exists():
        return []
    if not path.is_file():
        run_files.damaged(path, "it is no file", "Remove it, or restore the file.")
    kept: list[bytes] = []
    with reading(path):
        content = path.read_bytes()
    for line in content.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            break  # A line that a crash cut off, or that was damaged.
        is_next = isinstance(record, dict) and record.get("step") == len(kept)
        if not line.endswith(b"\n") or not is_next:
            break
        kept.append(line)
    return kept


def missing(kept: list[bytes], needed: int) -> str:
    """What is wrong with a file of which only some records are whole."""
    return f"line {len(kept) + 1} is not the record of step {len(kept)}, and the " + (
        f"first {needed} records are needed"
    )
