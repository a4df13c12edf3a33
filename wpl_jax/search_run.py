"""Runs searches from a configuration, resumably, and reports on them.

A configuration names one search, and variations of it (``config.arms``) that are
run beside it over the same seeds; each has a folder of its own under ``searches``.
A search is a fixed sequence of compiled calls, seconds each, and a checkpoint
between two of them is all that it takes to go on.
"""

import contextlib
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from wpl_jax import search_report
from wpl_jax.checkpoint import Checkpoints, StopRequest
from wpl_jax.config_fields import require, require_int, require_number
from wpl_jax.errors import ConfigError
from wpl_jax.forgetting import Forgetting
from wpl_jax.monitor import Metrics, Progress
from wpl_jax.optimizers import make_sgd
from wpl_jax.protection import make_protection
from wpl_jax.run_directory import open_run, to_json, write_atomically
from wpl_jax.search import Measured, Search, State
from wpl_jax.strategies import make_strategy
from wpl_jax.supernet import architecture_to_json
from wpl_jax.tasks import Data, load_task

RESULTS_FILE = "results.json"
ARCHITECTURE_FILE = "architecture.json"
REPORT_FILE = "report.html"


class Run(NamedTuple):
    """One search of a configuration."""

    arm: str
    seed: int
    config: ConfigDict  # with the arm's changes

    def folder(self, workdir: Path) -> Path:
        """Where its files go."""
        return workdir / "searches" / f"{self.arm}-seed{self.seed}"


class Call(NamedTuple):
    """One compiled call of a search."""

    epoch: int
    phase: str
    first: int  # child or step that it begins with
    last: bool  # whether the epoch is over after it


def run(config: ConfigDict, workdir: Path) -> None:
    """Runs or resumes all searches of a configuration, and reports on them.

    Args:
      config: As ``configs/enas_rnn_pydoc.py`` gives it.
      workdir: Folder of the run.

    Raises:
      UserError: If something is wrong with the configuration, the data or the
        folder, before anything is compiled.
      SystemExit: With 143 or 130 after SIGTERM or SIGINT, once all is saved.
    """
    runs = expand(config)
    page = workdir / REPORT_FILE
    if all((r.folder(workdir) / RESULTS_FILE).exists() for r in runs) and page.exists():
        with open_run(workdir, config.to_dict()):
            print(f"This run is finished: {page}")
            return
    # The data first: a folder is claimed by nothing that cannot run.
    searches = [(each, *make_search(each.config, each.seed)) for each in runs]
    with open_run(workdir, config.to_dict()), StopRequest() as stop:
        for number, (each, search, data) in enumerate(searches, 1):
            folder = each.folder(workdir)
            if not (folder / RESULTS_FILE).exists():
                title = f"[{number}/{len(runs)}] {each.arm}, seed {each.seed}"
                _search(each.config, search, data, folder, title, stop)
        report(config, workdir)


def report(config: ConfigDict, workdir: Path) -> None:
    """Draws the figures and writes the report of finished searches anew."""
    runs = [(each.arm, each.seed, each.folder(workdir)) for each in expand(config)]
    search_report.write(workdir, config.to_dict(), runs)
    print(f"Report: {workdir / REPORT_FILE}")


MODES = {"run": run, "report": report}


def expand(config: ConfigDict) -> list[Run]:
    """The searches that a configuration asks for, those of a seed together.

    Raises:
      ConfigError: If a field is wrong, in the configuration or in an arm.
    """
    require_int(config, "seed", 0)
    require_int(config, "num_seeds", 1)
    require(len(config.get("arms", {})) > 0, config, "arms", "at least one arm")
    runs = []
    for seed in range(config.seed, config.seed + config.num_seeds):
        for arm, changes in config.arms.items():
            changed = config.copy_and_resolve_references()
            try:
                with changed.ignore_type():
                    changed.update(changes)
            except (AttributeError, KeyError) as error:
                raise ConfigError(
                    f"config.arms.{arm} changes a field that the configuration does "
                    f"not have: {error}"
                ) from error
            runs.append(Run(arm, seed, changed))
    return runs


def make_search(config: ConfigDict, seed: int) -> tuple[Search, Data]:
    """Builds one search from its configuration, and loads its data.

    Raises:
      UserError: If the configuration or the data is wrong.
    """
    for name in ("epochs", "children", "batches", "eval_batches", "learn_per_call"):
        require_int(config, f"search.{name}", 1)
    require_int(config, "search.max_bad_steps", 1)
    require_number(config, "search.checkpoint_seconds", least=0)
    protection, optimizer = make_protection(config), make_sgd(config)
    task, data, _ = load_task(config)
    strategy = make_strategy(config, task.space.decisions)
    require(
        strategy.steps % config.search.learn_per_call == 0,
        config,
        "search.learn_per_call",
        f"a divisor of the strategy's {strategy.steps} steps",
    )
    available = task.num_valid_batches(data)
    require(
        config.search.eval_batches <= available,
        config,
        "search.eval_batches",
        f"at most {available}, the batches of the validation data",
    )
    settings = config.search
    search = Search(
        task=task,
        strategy=strategy,
        protection=protection,
        optimizer=optimizer,
        children=settings.children,
        batches=settings.batches,
        eval_batches=settings.eval_batches,
        seed=seed,
    )
    return search, data


EVALUATE_PER_CALL = 5  # children that one call evaluates


def calls_of_search(config: ConfigDict, search: Search) -> list[Call]:
    """The calls that a search is made of, in order."""
    learned = config.search.learn_per_call
    phases = [
        *(("train", index) for index in range(search.children)),
        *(("evaluate", i) for i in range(0, search.children, EVALUATE_PER_CALL)),
        *(("learn", i) for i in range(0, search.strategy.steps, learned)),
    ]
    proposed = search.strategy.candidates.proposed
    selecting = [
        ("propose", 0),
        *(("screen", first) for first in range(0, proposed, EVALUATE_PER_CALL)),
        *(("judge", index) for index in range(search.num_judged)),
    ]
    return [
        Call(epoch, phase, first, last=i == len(phases))
        for epoch in range(config.search.epochs)
        for i, (phase, first) in enumerate(phases, 1)
    ] + [
        Call(config.search.epochs, phase, first, last=False)
        for phase, first in selecting
    ]


def _advance(
    config: ConfigDict, search: Search, data: Data, state: State, call: Call
) -> State:
    """Makes one call."""
    epoch, first = np.int32(call.epoch), np.int32(call.first)
    match call.phase:
        case "train":
            if call.first == 0:
                state = search.begin_epoch(state, epoch)
            return search.train_child(state, data, epoch, first)
        case "evaluate":
            count = min(EVALUATE_PER_CALL, search.children)
            return search.evaluate_again(state, data, first, count)
        case "learn":
            steps = config.search.learn_per_call
            return search.learn(state, data, epoch, first, steps)
        case "propose":
            return search.propose(state)
        case "screen":
            count = min(EVALUATE_PER_CALL, search.strategy.candidates.proposed)
            return search.screen(state, data, first, count)
        case "judge":
            return search.judge(state, data, first)
        case phase:
            raise ValueError(f"There is no phase {phase!r}.")


def _search(
    config: ConfigDict,
    search: Search,
    data: Data,
    folder: Path,
    title: str,
    stop: StopRequest,
) -> None:
    """Searches from wherever an earlier process stopped, and writes the results."""
    folder.mkdir(parents=True, exist_ok=True)
    calls = calls_of_search(config, search)
    # The epochs' first calls are what a search goes back to.
    starts = {0, *(i for i, call in enumerate(calls, 1) if call.last)}
    with contextlib.ExitStack() as stack:

        def closing(thing):
            return stack.enter_context(contextlib.closing(thing))

        checkpoints = closing(
            Checkpoints(folder / "checkpoints", landmark=starts.__contains__)
        )
        done, state = _start(search, checkpoints, title, len(calls))
        metrics = closing(Metrics(folder, resume_at=_epoch(calls, done)))
        progress = closing(Progress(len(calls), done, title))
        saved, saved_at = done, time.monotonic()
        note = ""
        while done < len(calls) and stop.signum is None:
            call = calls[done]
            state = _advance(config, search, data, state, call)
            if int(state.skipped_in_row) >= config.search.max_bad_steps:
                done, state = _go_back(state, checkpoints, title, call)
                metrics.go_back(_epoch(calls, done))
                progress.go_back(done)
                saved = done
                continue
            done += 1
            if call.last:
                measured = jax.device_get(search.measure(state, np.int32(call.epoch)))
                metrics.write(call.epoch, record(measured))
                note = f", {describe(search, measured)}"
            progress.advance(f"epoch {call.epoch + 1} {call.phase}{note}")
            late = time.monotonic() - saved_at >= config.search.checkpoint_seconds
            if call.last or late:
                checkpoints.save(done, state)
                saved, saved_at = done, time.monotonic()
        if done > saved:
            checkpoints.save(done, state)
        if done < len(calls):
            logging.warning("Stopped by a signal after %d calls; all saved.", done)
            sys.exit(stop.exit_code())
    _finish(search, state, folder, title)


def _epoch(calls: list[Call], done: int) -> int:
    """The epoch that comes after so many calls."""
    return calls[min(done, len(calls) - 1)].epoch


def _start(search, checkpoints, title, total) -> tuple[int, State]:
    resumed = checkpoints.restore(jax.eval_shape(search.init))
    if resumed is not None:
        print(f"{title}: resuming after {resumed[0]} of {total} calls.", flush=True)
        return resumed
    print(f"{title}: compiling ...", flush=True)
    state = search.init()
    checkpoints.save(0, state)
    return 0, state


def _go_back(state, checkpoints, title, call) -> tuple[int, State]:
    """The state at the start of the epoch, with half the learning rate."""
    bad, scale = int(state.skipped_in_row), state.rate_scale / 2
    done, state = checkpoints.restore(state, landmark=True)
    print(
        f"{title}: {bad} steps in a row were not finite in epoch {call.epoch + 1}; "
        f"going back to its start, with the learning rate times {float(scale):g}.",
        flush=True,
    )
    return done, state._replace(rate_scale=scale)


def _finish(search: Search, state: State, folder: Path, title: str) -> None:
    """Writes the best architecture, and what it reaches with the shared weights."""
    selection = jax.device_get(state.selection)
    best = np.argmin(selection.judged)
    architecture = selection.architectures[selection.kept[best]]
    text = architecture_to_json(search.task.space, architecture)
    write_atomically(folder / ARCHITECTURE_FILE, text)
    nats = selection.judged[best]
    error = float(search.task.error(nats))
    results = {
        "architecture": architecture.tolist(),
        "error_name": search.task.error_name,
        "valid_nats": float(nats),
        "valid_error": error,
    }
    write_atomically(folder / RESULTS_FILE, to_json(results))
    print(f"{title}: the best has {search.task.error_name} {error:.2f}.", flush=True)


def record(measured: Measured) -> dict[str, Any]:
    """An epoch's line in the metrics; null for what is not finite."""
    found: dict[str, Any] = {}
    for name, value in measured._asdict().items():
        parts = value._asdict() if isinstance(value, Forgetting) else {"": value}
        for part, number in parts.items():
            found[f"{name}_{part}" if part else name] = _finite(np.asarray(number))
    return found


def _finite(value: np.ndarray) -> Any:
    if value.ndim:
        return [_finite(each) for each in value]
    return value.item() if np.isfinite(value) else None


def describe(search: Search, measured: Measured) -> str:
    """An epoch in a few words, for who watches."""
    error = np.mean(search.task.error(measured.err2))
    return (
        f"{search.task.error_name} {error:.1f}, forgotten {measured.error.mean:.2f}, "
        f"reward {measured.child_reward:.3f}"
    )
