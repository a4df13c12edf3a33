"""Long jobs as a sequence of calls, from wherever an earlier process stopped."""

import contextlib
import itertools
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from wpl_jax.devices import processes
from wpl_jax.runs.checkpoint import Checkpoints
from wpl_jax.runs.checkpoint_reader import CheckpointReader
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.monitor import METRICS_FILE, Metrics, missing, whole_records
from wpl_jax.runs.profiling import Tracer
from wpl_jax.runs.progress import Progress
from wpl_jax.runs.run_directory import CHECKPOINTS

_CHANGED = "a record has changed since it was written"


class Resumable(contextlib.AbstractContextManager):
    """A job of ``total`` calls, each of which turns a state into the next one.

    Between two calls the state is all there is, so that a checkpoint is all that
    going on takes. To be used as

        with Resumable(...) as job:
            for number in job.calls():
                job.state = advance(job.state, number)

    Attributes:
      state: A tree of arrays; to be replaced in every call.
      note: What the progress line says.
      took: How many of the calls the last one was; one, where it says nothing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        total: int,
        like: Any,
        start: Callable[[], Any],
        record_of: Callable[[int], int],
        title: str,
        unit: str,
        requests: Requests,
        checkpoint_seconds: float,
        landmark: Callable[[int], bool] = lambda done: False,
        place: Callable[[Any], Any] = lambda state: state,
    ):
        """Restores the newest state of the folder, or starts anew.

        Args:
          folder: Where checkpoints, metrics and TensorBoard files go; made if need be.
          total: Number of calls.
          like: The state's shapes and dtypes.
          start: The state before the first call.
          record_of: Of a number of calls, the first record of the metrics that is
            still to be written after them.
          title: What progress lines begin with.
          unit: What the calls are called.
          requests: To end between two calls, and to trace some.
          checkpoint_seconds: Time between checkpoints, at least.
          landmark: After which numbers of calls the state is saved in any case, to
            go back to.
          place: Puts a state that was read where the calls want it.

        Raises:
          UserError: If no checkpoint can be read, or records that come before each of
            them are missing; if one may be intact and could not be read this time.
        """
        self.note, self.took = "", 1
        self._total, self._unit, self._stop = total, unit, requests.stop
        self._seconds, self._landmark = checkpoint_seconds, landmark
        self._record_of, self._went_back = record_of, False
        self._like, self._place = like, place
        self._title, self._path = title, folder / METRICS_FILE
        with contextlib.ExitStack() as stack:

            def closing(make, *args, **options):
                thing = _of_primary(make, *args, **options)
                return stack.enter_context(contextlib.closing(thing))

            self._checkpoints = closing(
                Checkpoints, folder / CHECKPOINTS, landmark=landmark
            )
            resumed = self._everywhere(self._checkpoints.restore)
            if resumed is not None:
                self._done, self.state = resumed
                say = f"resuming after {self._done} of {total} {unit}."
                print(f"{title}: {say}", flush=True)
            else:
                self._done, self.state = 0, start()
                self._checkpoints.save(0, self.state)
                self._checkpoints.verify(0, like)
            self._note_saved()
            self._metrics = closing(
                Metrics, folder, record_of(self._done), title, requests.loggers
            )
            self._progress = closing(Progress, total, self._done, title)
            self._tracer = closing(Tracer, folder, requests.trace)
            self._closing = stack.pop_all()

    def __exit__(self, *exc: object) -> None:
        self._closing.close()

    def calls(self) -> Iterator[int]:
        """Yields the numbers of the calls that are left to be made.

        Raises:
          SystemExit: Once all is saved, if it was asked to stop.
        """
        while self._done < self._total and not self._stop.asked():
            self.took = 1
            self._tracer.begin()
            yield self._done
            self._tracer.end(self._landmark(self._done + self.took))
            if self._went_back:
                self._went_back = False
                continue
            self._done += self.took
            self._progress.advance(self.note, self.took)
            late = time.monotonic() - self._saved_at >= self._seconds
            if late or self._landmark(self._done):
                self._save()
        if self._done > self._saved:
            self._save()
        if self._done < self._total:
            logging.warning(
                "Stopped by a signal after %d of %d %s; all saved.",
                *(self._done, self._total, self._unit),
            )
            sys.exit(self._stop.exit_code())

    def record(self, number: int, values: Mapping[str, Any]) -> None:
        """Writes one line of the metrics."""
        self._metrics.write(number, values)

    def go_back(self) -> None:
        """Within a call: takes the state of the newest landmark, and goes on there."""
        found = self._everywhere(self._checkpoints.go_back)
        if found is None:
            raise ValueError("There is no landmark to go back to.")
        self._done, self.state = found
        self._note_saved()
        self._went_back = True
        self._metrics.go_back(self._record_of(self._done))
        self._progress.go_back(self._done)

    def _everywhere(self, read: Callable[..., Any]) -> tuple[int, Any] | None:
        """The state that the primary process reads, on every process."""
        found = _on_all(read(self._like, usable=self._lacks), self._like)
        return found and (found[0], self._place(found[1]))

    def _lacks(self, done: int, checksum: int | None) -> str:
        """What the metrics lack for going on after so many calls; "" for nothing."""
        kept, needed = whole_records(self._path), self._record_of(done)
        if len(kept) < needed:
            return f"{self._path}: {missing(kept, needed)}"
        if checksum not in (None, zlib.crc32(b"".join(kept[:needed]))):
            return f"{self._path}: {_CHANGED}"
        return ""

    def _save(self) -> None:
        checksum = self._metrics.checksum()
        self._checkpoints.save(self._done, self.state, beside=checksum)
        self._note_saved()

    def _note_saved(self) -> None:
        self._saved, self._saved_at = self._done, time.monotonic()
        count = f"{self._done} of {self._total} {self._unit}"
        self._stop.saved = f"{self._title}: {count}"


def newest(folder: Path, like: Any) -> tuple[int, Any] | None:
    """What a job has saved last: how many calls it had made, and its state.

    Args:
      folder: Of the job.
      like: The state's form, arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      Both as the primary process reads them, on every process; None if there is
      nothing. The folder stays as it is.

    Raises:
      UserError: If all checkpoints are damaged, or one could not be read this time.
    """
    found, path = None, folder / CHECKPOINTS
    if processes.is_primary() and path.is_dir():
        with contextlib.closing(CheckpointReader(path)) as reader:
            found = reader.restore(like)
    return _on_all(found, like)


def changed_records(folder: Path, records: Sequence[bytes]) -> str:
    """What shows that records of a finished job are not those that it wrote.

    Args:
      folder: Of the job.
      records: All of its metrics, one line each.

    Returns:
      What was found; "" where they have the checksum that the newest checkpoint
      keeps, or no checkpoint is left.
    """
    if not (folder / CHECKPOINTS).is_dir():
        return ""
    with contextlib.closing(CheckpointReader(folder / CHECKPOINTS)) as reader:
        expected = reader.beside()
    # Of all records where the checkpoint is the last; of the first ones before it.
    checksums = itertools.accumulate(
        records, lambda total, line: zlib.crc32(line, total), initial=0
    )
    return "" if expected is None or expected in checksums else _CHANGED


def _on_all(found: tuple[int, Any] | None, like: Any) -> tuple[int, Any] | None:
    """What the primary process has found, on every process."""
    done = processes.broadcast(-1 if found is None else found[0])
    if done < 0:
        return None
    return done, processes.from_primary(None if found is None else found[1], like)


def _of_primary(make: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """An object that uses files, or on other processes than the primary a stub."""
    return make(*args, **options) if processes.is_primary() else _NoFiles()


class _NoFiles:
    """Methods that do nothing, for processes other than the primary one.

    It replaces :class:`Checkpoints`, :class:`Metrics`, :class:`Progress` and
    :class:`Tracer`, and has the methods of theirs that a job calls.
    """

    def _ignore(self, *args: Any, **options: Any) -> None:
        return None

    restore = save = verify = _ignore
    write = checksum = advance = go_back = _ignore
    begin = end = close = _ignore
