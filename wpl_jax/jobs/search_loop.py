"""The loop over the calls of a search, in a folder or in memory."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from wpl_jax.engine.forgetting import Forgetting
from wpl_jax.engine.plan import Call, Plan
from wpl_jax.engine.state import Measured, State
from wpl_jax.errors import UserError, for_caller
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.resumable import Resumable
from wpl_jax.runs.run_files import finite
from wpl_jax.search import Search
from wpl_jax.tasks import Data
from wpl_jax.tasks.guessing import NO_BETTER, Guess

# Names in the metrics of what an epoch measures; TensorBoard groups them by the slash.
METRICS = {
    "err1": "children/err1",
    "err2": "children/err2",
    "child_error": "children/error",
    "gap_loss": "children/discretization_gap_loss",
    "gap_error": "children/discretization_gap_error",
    "train_loss": "children/train_loss",
    "child_reward": "children/reward",
    "best": "children/best",
    "choices": "children/choices",
    "errors": "children/errors",
    "reward": "strategy/reward",
    "entropy": "strategy/entropy",
    "alpha": "penalty/alpha",
    "rate": "training/learning_rate",
    "skipped": "training/skipped",
}
_LEAST_SCALE = 2.0**-10  # of the learning rate, before a search is given up


class Job(Protocol):
    """What a search runs in; see :class:`wpl_jax.runs.resumable.Resumable`."""

    state: Any
    note: str
    took: int

    def calls(self) -> Iterator[int]:
        """Yields the numbers of the calls that are left to be made."""

    def record(self, number: int, values: Mapping[str, Any]) -> None:
        """Keeps the metrics of an epoch."""

    def go_back(self) -> None:
        """Within a call: takes the state of the newest landmark, and goes on there."""


def first_state(
    search: Search, seed: int, start_from: Callable[[Any], Any] | None
) -> State:
    """The state before the first call.

    Args:
      search: Its compiled functions.
      seed: Of all randomness.
      start_from: A function of initial shared parameters, which returns others to start
        from; None to start from the initial ones.
    """
    key, params = jax.random.key(seed), None
    if start_from is not None:
        params = start_from(jax.jit(search.init_params)(key))
    return search.init(key, params)


def resumable(
    search: Search,
    plan: Plan,
    seed: int,
    folder: Path,
    title: str,
    requests: Requests,
    checkpoint_seconds: float,
    start_from: Callable[[Any], Any] | None = None,
) -> Resumable:
    """A search in a folder, from wherever an earlier process stopped.

    Args:
      search: Its compiled functions.
      plan: Its calls.
      seed: Of all randomness.
      folder: Where its files go.
      title: What it is called in what is printed.
      requests: To end between two calls, and to trace some.
      checkpoint_seconds: Between two checkpoints.
      start_from: A function of initial shared parameters, which returns others to start
        from. It is not called if the search is resumed.
    """

    def start() -> State:
        state = first_state(search, seed, start_from)
        print(f"{title}: compiling ...", flush=True)
        return state

    return Resumable(
        folder,
        total=len(plan),
        like=jax.eval_shape(search.init, jax.random.key(seed)),
        start=start,
        record_of=lambda done: plan[min(done, len(plan) - 1)].epoch,
        title=title,
        unit="calls",
        requests=requests,
        checkpoint_seconds=checkpoint_seconds,
        place=search.devices.replicate,
        landmark=plan.begins_epoch,  # what a search goes back to
    )


def advance_all(
    job: Job,
    search: Search,
    plan: Plan,
    data: Data,
    guess: Guess,
    title: str,
    max_bad_steps: int,
) -> None:
    """Makes all calls that are left, and keeps the metrics of each epoch.

    Args:
      job: What the search runs in.
      search: Its compiled functions.
      plan: Its calls.
      data: Of its task.
      guess: What a guess is worth on the data.
      title: What the search is called in what is printed.
      max_bad_steps: Steps in a row that are not finite, after which the search goes
        back to the start of the epoch; at most those of an epoch.

    Raises:
      UserError: If it diverges with a thousandth of the learning rate, too.
    """
    told = ""
    # A whole epoch without a finite step is too much in any case.
    of_epoch = search.children // search.children_per_step * search.batches
    most_bad = min(max_bad_steps, of_epoch)
    for number in job.calls():
        call, job.took = plan[number], plan.count_taken(number)
        job.state = plan.advance(job.state, data, number)
        if int(job.state.skipped.in_row) >= most_bad:
            _go_back(job, title, call)
            continue
        if plan[number + job.took - 1].last:
            epoch = np.int32(call.epoch)
            measured = jax.device_get(search.measure(job.state, epoch))
            job.record(call.epoch, record(measured))
            told = f", {describe(search, measured, guess)}"
        job.note = f"{_where(plan, call)}{told}"


def _where(plan: Plan, call: Call) -> str:
    """For who watches; what comes after the last epoch selects the best."""
    if call.epoch == plan.epochs:
        return f"selection, {call.phase}"
    return f"epoch {call.epoch + 1}, {call.phase}"


def _go_back(job: Job, title: str, call: Call) -> None:
    """To the start of the epoch, with half the learning rate."""
    bad, scale = int(job.state.skipped.in_row), job.state.rate_scale / 2
    if scale < _LEAST_SCALE:
        advice = for_caller(
            "(config.optimizer), and give another --workdir.",
            "of the optimizer, and give another workdir if there was one.",
        )
        raise UserError(
            f"{title}: {bad} steps in a row were not finite in epoch {call.epoch + 1}, "
            "even with a thousandth of the learning rate. Look at the data, lower the "
            f"learning rate {advice}"
        )
    job.go_back()
    job.state = job.state._replace(rate_scale=scale)
    print(
        f"{title}: {bad} steps in a row were not finite in epoch {call.epoch + 1}; "
        f"going back to its start, with the learning rate times {float(scale):g}.",
        flush=True,
    )


def record(measured: Measured) -> dict[str, Any]:
    """An epoch's line in the metrics; null for what is not finite."""
    found: dict[str, Any] = {}
    for name, value in measured._asdict().items():
        if value is None:
            continue
        if isinstance(value, dict):
            found |= {f"strategy/{key}": finite(x) for key, x in value.items()}
        elif isinstance(value, Forgetting):
            for part, number in value._asdict().items():
                found[f"forgetting/{name}_{part}"] = finite(number)
        else:
            found[METRICS[name]] = finite(value)
    return found


def describe(search: Search, measured: Measured, guess: Guess) -> str:
    """An epoch in a few words, for who watches."""
    learned_nothing = guess.explains_all(float(measured.child_error), measured.err2)
    level = f"{NO_BETTER}, " if learned_nothing else ""
    return (
        f"validation {search.task.error_name} {measured.child_error:.1f}, {level}"
        f"forgotten {measured.error.mean:.2f}, reward {measured.child_reward:.3f}"
    )
