"""Event files of TensorBoard."""

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tensorboardX import summary
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from wpl_jax.errors import UserError
from wpl_jax.runs import run_files
from wpl_jax.runs.loggers.logger import Logged, Logger
from wpl_jax.runs.run_files import writing

FOLDER = "tensorboard"


class TensorBoard(Logger):
    """One event file, written when told to and by no other thread.

    Records are as TFRecord has them: length, its checksum, data, their checksum.
    """

    def __init__(self, logged: Logged):
        """Makes the file; TensorBoard drops what is older from the first step on."""
        folder = logged.require_folder() / FOLDER
        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9}.{socket.gethostname()}"
        self._path = run_files.make_folder(folder) / f"{name}.{now % 10**9:09d}"
        with writing(self._path):
            self._file = run_files.create(self._path)
        self._write(Event(wall_time=now / 1e9, file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(step=logged.first_step, session_log=start))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in values.items():
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
    for path in sorted((folder / FOLDER).glob("events.out.tfevents.*")):
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
