"""What a run says while it runs: metrics to files, progress to people."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter
from tqdm import tqdm

from wpl_jax.run_directory import write_atomically


class Metrics:
    """Writes records to ``metrics.jsonl`` and their numbers to TensorBoard.

    The file holds no times and is cut back on resuming to the step the checkpoint
    stands at: an interrupted run leaves the same bytes as an undisturbed one.
    """

    def __init__(self, workdir: Path, resume_at: int):
        """Opens the files; records of ``step >= resume_at`` are dropped."""
        self._workdir = workdir
        self._open(resume_at)

    def go_back(self, step: int) -> None:
        """Drops the records of that step and of later ones."""
        self.close()
        self._open(step)

    def _open(self, resume_at: int) -> None:
        path = self._workdir / "metrics.jsonl"
        kept = _records_before(path, resume_at) if path.exists() else []
        write_atomically(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")
        board = str(self._workdir / "tensorboard")
        self._board = SummaryWriter(board, purge_step=resume_at)

    def write(self, step: int, record: Mapping[str, Any]) -> None:
        """Appends one record; every float or int in it becomes a curve."""
        line = json.dumps({"step": step, **record}, sort_keys=True)
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        for name, value in record.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        self._board.close()


def _records_before(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break  # The line that a crash cut off.
        if not line.endswith("\n") or record["step"] >= step:
            break
        kept.append(line)
    return kept


class Progress:
    """A bar on a terminal, a plain line every few seconds elsewhere."""

    def __init__(self, total: int, done: int, title: str, interval: float = 5.0):
        """Starts at ``done`` of ``total``; ``interval`` is between plain lines."""
        self._total, self._done, self._title = total, done, title
        self._interval, self._last = interval, time.monotonic()
        self._bar = (
            tqdm(total=total, initial=done, desc=title, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def advance(self, note: str, count: int = 1) -> None:
        """Counts so many more, and says what they were."""
        self._done += count
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        elif (
            time.monotonic() - self._last >= self._interval or self._done == self._total
        ):
            self._last = time.monotonic()
            print(f"{self._title}: {self._done}/{self._total}  {note}", flush=True)

    def go_back(self, done: int) -> None:
        """Sets the count back."""
        self._done = done
        if self._bar is not None:
            self._bar.n = done
            self._bar.refresh()

    def close(self) -> None:
        """Ends the bar."""
        if self._bar is not None:
            self._bar.close()
