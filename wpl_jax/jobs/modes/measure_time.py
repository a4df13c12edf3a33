"""``--mode=time``: seconds of the calls of each arm, and the epochs that fit a budget.

Arms that take equally long need different numbers of epochs. They are found before the
run, and become settings of its configuration. So no result depends on a clock.
"""

import math
import shlex
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.engine.state import State
from wpl_jax.errors import UserError
from wpl_jax.jobs import memory
from wpl_jax.jobs.arms import check_devices, searches_of
from wpl_jax.jobs.expand import Run, arm_names, expand
from wpl_jax.jobs.search_config import make_plan
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_files import make_folder, to_json, write_atomically
from wpl_jax.search import Search
from wpl_jax.tasks import Data, DataCache

TIMES_FILE, FLAGS_FILE = "times.json", "epochs.flags"
_ROUNDS = 5
_ENOUGH = 10.0  # seconds of all timed calls of a phase, after which it is not timed
_SHORT = 1.0  # seconds; of shorter calls, several are timed in a round
_CALLS = 5


class Times(NamedTuple):
    """Seconds of a search, without compilation and without what its files take.

    Attributes:
      calls: Median seconds of a call, by phase (:class:`wpl_jax.engine.plan.Plan`).
      epoch: Seconds of an epoch, the mean over those of the configuration.
      selection: Seconds of the selection, after the last epoch.
    """

    calls: dict[str, float]
    epoch: float
    selection: float

    def of(self, epochs: int) -> float:
        """Seconds of a search with so many epochs."""
        return epochs * self.epoch + self.selection

    def fitting(self, budget: float) -> int:
        """The most epochs of a search that takes no more than ``budget`` seconds.

        Examples:
          >>> Times({}, epoch=0.1, selection=2.0).fitting(budget=2.3)
          3
          >>> Times({}, epoch=0.1, selection=2.0).fitting(budget=1.0)
          0
        """
        # Not one less, where rounding alone is in the way.
        return max(0, int((budget - self.selection) / self.epoch + 1e-6))


def measure_time(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Times the calls of each arm on this machine, and fits epochs to a budget.

    Writes ``times.json`` and, if each arm has time for an epoch, ``epochs.flags``.

    Args:
      config: Of the searches.
      workdir: Folder of the files; it is not claimed for the configuration.
      machine: How the searches use this machine, and their budget in seconds. None for
        the seconds of the main arm with the epochs that it has.

    Raises:
      UserError: If something is wrong with the configuration or the data, or the budget
        is too small for an epoch of some arm.
    """
    first = {each.arm: each for each in reversed(expand(config))}
    searches = searches_of(list(first.values()), workdir, DataCache(), machine)
    needs = [memory.of_search(*found[:2]) for found in searches.values()]
    check_devices(needs, machine)
    watches = {
        arm: _Stopwatch(first[arm], *searches[arm][:2]) for arm in arm_names(config)
    }
    # In turns, so that what else the machine does falls on all arms.
    for number in range(_ROUNDS):
        for arm, watch in watches.items():
            print(f"{arm}: round {number + 1} of {_ROUNDS} ...", flush=True)
            watch.run()
    if processes.is_primary():
        times = {arm: watch.times() for arm, watch in watches.items()}
        epochs = {arm: each.config.search.epochs for arm, each in first.items()}
        budget = machine.budget
        if budget is None:
            budget = times[config.main_arm].of(epochs[config.main_arm])
        print(_table(times, epochs, budget))
        _write(make_folder(workdir), times, budget)


class _Stopwatch:
    """Times the last call of each phase: penalties and warm-ups have begun by then."""

    def __init__(self, each: Run, search: Search, data: Data):
        self._search, self._data, self._key = search, data, each.key()
        self._plan = make_plan(each.config, search)
        self._counts, self._last = Counter[str](), dict[str, int]()
        number = 0
        while number < len(self._plan):
            phase = self._plan[number].phase
            self._counts[phase] += 1
            self._last[phase] = number
            number += self._plan.count_taken(number)
        self._seconds: dict[str, list[float]] = {phase: [] for phase in self._last}

    def run(self) -> None:
        """Times calls of each phase: few if they are long."""
        state = self._search.init(self._key)
        for phase, seconds in self._seconds.items():
            # All processes have to make the same calls, and each has a clock.
            if processes.broadcast(sum(seconds) >= _ENOUGH):
                continue
            short = processes.broadcast(not seconds or seconds[-1] < _SHORT)
            if short:  # The first compiles, or finds its memory again.
                state, _ = self._timed(state, phase)
            for _ in range(_CALLS if short and seconds else 1):
                state, took = self._timed(state, phase)
                seconds.append(took)

    def _timed(self, state: State, phase: str) -> tuple[State, float]:
        start = time.perf_counter()
        state = self._plan.advance(state, self._data, self._last[phase])
        jax.block_until_ready(state)
        return state, time.perf_counter() - start

    def times(self) -> Times:
        """Medians, and what they add up to."""
        calls = {
            name: statistics.median(found) for name, found in self._seconds.items()
        }
        total = {phase: self._counts[phase] * calls[phase] for phase in calls}
        after = [
            name for name, last in self._last.items() if last >= self._plan.selection
        ]
        selection = sum(total[phase] for phase in after)
        in_epochs = sum(total.values()) - selection
        return Times(calls, in_epochs / self._plan.epochs, selection)


def _table(times: dict[str, Times], epochs: dict[str, int], budget: float) -> str:
    """Seconds and epochs of each arm, in columns."""
    rows: list[Sequence[str]] = [
        (
            *("arm", "train a child, s", "epoch, s", "selection, s", "epochs"),
            *("search, s", f"epochs in {budget:.5g} s"),
        )
    ]
    for arm, one in times.items():
        seconds = (one.calls["train"], one.epoch, one.selection)
        rows.append(
            (
                *(arm, *(f"{each:.3g}" for each in seconds), str(epochs[arm])),
                *(f"{one.of(epochs[arm]):.3g}", str(one.fitting(budget))),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def _write(workdir: Path, times: dict[str, Times], budget: float) -> None:
    """Writes the measured times, and the epochs that fit as flags."""
    fitting = {arm: one.fitting(budget) for arm, one in times.items()}
    found: dict[str, Any] = {
        "budget": budget,
        "arms": {
            arm: {**one._asdict(), "epochs": fitting[arm]} for arm, one in times.items()
        },
    }
    write_atomically(workdir / TIMES_FILE, to_json(found))
    path = workdir / FLAGS_FILE
    if short := [arm for arm, count in fitting.items() if not count]:
        path.unlink(missing_ok=True)  # Those of an earlier budget are not for this one.
        least = math.ceil(max(each.of(1) for each in times.values()))
        raise UserError(
            f"{budget:.3g} seconds are too few for an epoch of {', '.join(short)}. "
            f"Give --budget=SECONDS of at least {least}, or shorten the epochs "
            "(config.search.children, config.search.batches)."
        )
    flags = (f"--config.arms.{arm}.search.epochs={n}\n" for arm, n in fitting.items())
    write_atomically(path, "".join(flags))
    print(
        f"{path} has these epochs as flags. Add them to the command of the run: "
        f"$(cat {shlex.quote(str(path))})",
        flush=True,
    )
