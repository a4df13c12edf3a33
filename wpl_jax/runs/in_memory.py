"""A job that keeps nothing in files: its state and metrics are in memory."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.trees import with_keys, without_keys
from wpl_jax.runs.loggers import Logged, Loggers, NamedLogger
from wpl_jax.runs.progress import Progress


class InMemory(contextlib.AbstractContextManager):
    """Long jobs as a sequence of calls, as :class:`wpl_jax.runs.resumable.Resumable`.

    Attributes:
      state: A tree of arrays; to be replaced in every call.
      note: What the progress line says.
      took: How many of the calls the last one was.
      records: The metrics, one dict a record.
    """

    def __init__(
        self,
        *,
        total: int,
        start: Callable[[], Any],
        record_of: Callable[[int], int],
        title: str,
        landmark: Callable[[int], bool],
        place: Callable[[Any], Any] = lambda state: state,
        loggers: Sequence[NamedLogger] = (),
    ):
        """Starts anew.

        Args:
          total: Number of calls.
          start: The state before the first call.
          record_of: Of a number of calls, the first record that is still to be made.
          title: What progress lines begin with.
          landmark: After which numbers of calls the state is kept, to go back to.
          place: Puts a state that was kept where the calls want it.
          loggers: Of the metrics.
        """
        self.state, self.note, self.took = start(), "", 1
        self.records: list[dict[str, Any]] = []
        self._total, self._done, self._went_back = total, 0, False
        self._record_of, self._landmark, self._place = record_of, landmark, place
        self._progress = Progress(total, 0, title)
        self._loggers = Loggers(loggers, Logged(title, 0, None))
        self._keep()

    def __exit__(self, *exc: object) -> None:
        self._progress.close()
        self._loggers.close()

    def calls(self) -> Iterator[int]:
        """Yields the numbers of the calls that are left to be made."""
        while self._done < self._total:
            self.took = 1
            yield self._done
            if self._went_back:
                self._went_back = False
                continue
            self._done += self.took
            self._progress.advance(self.note, self.took)
            if self._landmark(self._done):
                self._keep()

    def record(self, number: int, values: Mapping[str, Any]) -> None:
        """Keeps one record of the metrics."""
        del self.records[number:]
        self.records.append(dict(values))
        self._loggers.log(number, values)

    def go_back(self) -> None:
        """Within a call: takes the state of the newest landmark, and goes on there."""
        self._done, kept = self._kept
        kept = jax.tree.map(jnp.asarray, kept)
        self.state = self._place(with_keys(kept, self.state))
        self._went_back = True
        del self.records[self._record_of(self._done) :]
        self._progress.go_back(self._done)

    def _keep(self) -> None:
        # Calls use up the arrays that they are given.
        kept = jax.tree.map(np.array, jax.device_get(without_keys(self.state)))
        self._kept = self._done, kept
