"""Metrics of a run, in files."""

import contextlib
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from wpl_jax.errors import UserError
from wpl_jax.runs import run_files
from wpl_jax.runs.run_files import write_atomically, writing

METRICS_FILE = "metrics.jsonl"


class Metrics:
    """Writes records to ``metrics.jsonl`` and their numbers to TensorBoard.

    The file holds no times and is cut back on resuming to the step the checkpoint
    stands at: an interrupted run leaves the same bytes as an undisturbed one.
    """

    def __init__(self, workdir: Path, resume_at: int):
        """Opens the files; records of ``step >= resume_at`` are dropped.

        Raises:
          UserError: If a record before ``resume_at`` is missing or damaged, or the
            files cannot be written.
        """
        self._path = run_files.make_folder(workdir) / METRICS_FILE
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
        self._board = _Board(self._path.with_name("tensorboard"), resume_at)
        try:
            self._file = run_files.open_to_append(self._path)
        except UserError:
            self._board.close()
            raise

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Appends one record; every float or int in it becomes a curve.

        Raises:
          UserError: If it cannot be written.
        """
        line = json.dumps({"step": step, **record}, sort_keys=True).encode() + b"\n"
        self._checksum = zlib.crc32(line, self._checksum)
        with writing(self._path):
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
        for name, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._board.add(name, value, step)

    def checksum(self) -> int:
        """A checksum of all records, as they were written."""
        return self._checksum

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def whole_records(path: Path) -> list[bytes]:
    """The lines of a file of metrics, as far as they are whole and none is missing.

    Args:
      path: The file; where there is none, there are no records.

    Raises:
      UserError: If something that is no file has its name.
    """
    if not path.exists():
        return []
    if not path.is_file():
        run_files.damaged(path, "it is no file", "Remove it, or restore the file.")
    kept: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
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


class _Board:
    """One event file of TensorBoard, written when told to and by no other thread.

    Records are as TFRecord has them: length, its checksum, data, their checksum.
    """

    def __init__(self, folder: Path, resume_at: int):
        """Makes the file; TensorBoard drops what is older from that step on."""
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}"
        self._path = run_files.make_folder(folder) / f"{name}.{now % 10**9:09d}"
        with writing(self._path):
            self._file = run_files.create(self._path)
        self._write(Event(wall_time=now / 1e9, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=resume_at, session_log=start))

    def add(self, name: str, value: float, step: int) -> None:
        """Adds a point to a curve."""
        point = summary.scalar(name, value)
        self._write(Event(wall_time=time.time(), step=step, summary=point))

    def _write(self, event: Event) -> None:
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        with writing(self._path):
            for part in (length, data):
                self._file.write(part + struct.pack("<I", masked_crc32c(part)))
            self._file.flush()

    def close(self) -> None:
        """Notes the time, and closes the file."""
        stop = SessionLog(status=SessionLog.STOP)
        with contextlib.suppress(UserError):  # What is recorded is on the disk.
            self._write(Event(wall_time=time.time(), session_log=stop))
        self._file.close()


def wall_seconds(folder: Path) -> float | None:
    """How long processes were at work in a folder, by its TensorBoard files.

    It counts the time from the opening of the files to their closing, compilation
    included. Of a process that was killed, it counts the time to the last record.

    Args:
      folder: That of the metrics.

    Returns:
      Seconds, of all processes together; None without such files.
    """
    total, found = 0.0, False
    for path in sorted((folder / "tensorboard").glob("events.out.tfevents.*")):
        times = [event.wall_time for event in _events(path) if event.wall_time]
        if times:
            total, found = total + max(times) - min(times), True
    return total if found else None


def _events(path: Path) -> Iterator[Event]:
    """The events of a file, as far as they are whole."""
    content, place = path.read_bytes(), 0
    while place + 12 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        data = content[place + 12 : place + 12 + length]
        place += length + 16  # with the checksums of the length and of the data
        if content[place - 4 : place] != struct.pack("<I", masked_crc32c(data)):
            return
        yield Event.FromString(data)
