"""How jobs use the machine: everything on the command line but the configuration.

No result depends on it. One value of :class:`Machine` is made for a process, and is
passed down to the jobs and their modes.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from wpl_jax.errors import UserError
from wpl_jax.runs.loggers import NamedLogger
from wpl_jax.runs.profiling import TraceRequest
from wpl_jax.runs.share import Share
from wpl_jax.runs.stopping import GRACE_SECONDS, StopRequest

# Flags that only some modes read, by the fields of a machine that hold them.
FLAGS = {
    "share": "share",
    "joined": "join",
    "budget": "budget",
    "input": "input",
    "output": "output",
    "formats": "format",
    "loggers": "log",
}


class Requests(NamedTuple):
    """Requests of the user that running jobs see between two calls.

    Attributes:
      stop: To end.
      trace: To trace some calls.
      loggers: Of metrics, beside TensorBoard.
    """

    stop: StopRequest
    trace: TraceRequest | None = None
    loggers: tuple[NamedLogger, ...] = ()


@dataclasses.dataclass(frozen=True)
class Machine:
    """Devices, grace time and trace of the jobs of a process, and its share of a study.

    Attributes:
      devices: Number of devices of a search or training; None for as many as divide
        its work equally.
      grace_seconds: Seconds after a signal in which a job saves and ends.
      trace: The trace of some calls; None for no trace.
      share: Which of a configuration's searches the process runs.
      joined: Folders of other shares of the same configuration, for its report.
      budget: Seconds of a search, to which its length is fitted; None for those of the
        main arm.
      input: File or folder of examples to predict.
      output: File or folder to write; None for one in the folder of the run.
      formats: In which a model is exported.
      loggers: Of metrics, beside TensorBoard.
      config_flags: Flags of the command line that choose the configuration and its
        fields, for commands that a report shows.
    """

    devices: int | None = 1
    grace_seconds: float = GRACE_SECONDS
    trace: TraceRequest | None = None
    share: Share = Share()
    joined: tuple[Path, ...] = ()
    budget: float | None = None
    input: Path | None = None
    output: Path | None = None
    formats: tuple[str, ...] = ()
    loggers: tuple[NamedLogger, ...] = ()
    config_flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Checks the seconds, which may be any float of a command line.

        Raises:
          UserError: If they are not numbers, or the budget has no end.
        """
        if math.isnan(self.grace_seconds):
            raise UserError("--grace is nan, expected seconds.")
        if self.budget is not None and not math.isfinite(self.budget):
            raise UserError(f"--budget is {self.budget}, expected a finite number.")

    def given_flags(self) -> list[str]:
        """Those of :data:`FLAGS` that are given, and not what they are by default."""
        fields = dataclasses.fields(self)
        return [
            FLAGS[field.name]
            for field in fields
            if field.name in FLAGS and getattr(self, field.name) != field.default
        ]

    @contextlib.contextmanager
    def requests(self) -> Iterator[Requests]:
        """The requests to the jobs that run inside this context."""
        with StopRequest(self.grace_seconds) as stop:
            yield Requests(stop, self.trace, self.loggers)
