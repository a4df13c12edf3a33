"""Runs searches from a configuration, resumably, and reports on them.

A configuration names one search, and variations of it (``config.arms``) that are
run beside it over the same seeds; each has a folder of its own under ``searches``.
A search is a fixed sequence of compiled calls, seconds each, and a checkpoint
between two of them is all that it takes to go on.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import numpy as np
from ml_collections import ConfigDict

from wpl_jax.data import DataError
from wpl_jax.devices import choice, processes
from wpl_jax.engine.state import State
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import rank_disorder, retrain
from wpl_jax.jobs import memory
from wpl_jax.jobs.build import build, build_chosen
from wpl_jax.jobs.config_fields import changes_of, check_seed, get_field, with_changes
from wpl_jax.jobs.search_config import (
    Run,
    arm_names,
    expand,
    make_plan,
    make_retraining,
    make_search,
    open_task,
    search_settings,
)
from wpl_jax.jobs.search_loop import advance_all, resumable
from wpl_jax.protections import PENALTIES
from wpl_jax.reports import search_report
from wpl_jax.reports.search_report import REPORT_FILE
from wpl_jax.reports.searched import REMEDY, RESULTS_FILE, Searched
from wpl_jax.runs import fingerprint
from wpl_jax.runs.machine import Machine, Requests
from wpl_jax.runs.resumable import newest
from wpl_jax.runs.run_directory import claim_data, open_run
from wpl_jax.runs.run_files import read_text, to_json, write_atomically
from wpl_jax.search import Search
from wpl_jax.supernet import Space, architecture_from_json, architecture_to_json
from wpl_jax.tasks import Data, DataCache
from wpl_jax.tasks import ranking as order
from wpl_jax.tasks.guessing import Guess, Model, lowest, print_remark

ARCHITECTURE_FILE = "architecture.json"
Made = TypeVar("Made")
_RETRAINING = "retraining"  # in the name of data


def run(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Runs or resumes all searches of a configuration, and reports on them.

    Each search ends with the selection of its best architecture, and with that
    architecture's training from scratch where ``config.retrain.epochs`` is not 0.

    Args:
      config: As ``configs/enas_rnn_pydoc.py`` gives it.
      workdir: Folder of the run.
      machine: How the searches use this machine.

    Raises:
      UserError: If something is wrong with the configuration, the data or the
        folder, before anything is compiled.
      SystemExit: With 128 and the number of a signal after it, once all is saved.
    """
    runs = expand(config)
    page = workdir / REPORT_FILE
    finished = processes.broadcast(
        page.is_file() and all(_is_finished(each, workdir) for each in runs)
    )
    said = f"This run is finished: {page}"
    # The data first: a folder is claimed by nothing that cannot run.
    try:
        arms = _make_arms(runs, machine)
    except DataError as error:
        if not finished:
            raise
        with open_run(workdir, config.to_dict()):
            print(f"{said}\nIts data is not there to be compared. {error}")
            return
    if not finished:
        if "ranking" in config:  # No search is to end in what cannot be ranked.
            ranking = build(rank_disorder.Ranking, config, "ranking")
            ranking.truth.check(arms[runs[0].arm].space)
        print("\n".join(dict.fromkeys(arm.about for arm in arms.values())))
        needs = [need for arm in arms.values() for need in arm.needs]
        _check_devices(needs, machine)
    data = fingerprint.of_each({k: v for arm in arms.values() for k, v in arm.data()})
    with open_run(workdir, config.to_dict()), machine.requests() as requests:
        claim_data(workdir, data)
        if processes.is_primary():
            for each in runs:
                arms[each.arm].check_files(each, workdir)
        if finished:
            print(said)
            return
        for number, each in enumerate(runs, 1):
            title = f"[{number}/{len(runs)}] {each.arm}, seed {each.seed}"
            arms[each.arm].run(each, workdir, title, requests)
        main = arms[runs[0].arm]
        _report(config, workdir, main.space, main.about)


def report(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Draws the figures and writes the report of finished searches anew."""
    del machine
    with open_run(workdir, config.to_dict(), existing=True):
        if processes.is_primary():
            opened = open_task(expand(config)[0].config)
            _report(config, workdir, opened.task.space, opened.about)


def _check_devices(needs: list[memory.Need], machine: Machine) -> None:
    """Says what is used and needed of devices; an error if it is more than there is."""
    print(choice.told((need.devices for need in needs), machine.devices))
    print(memory.check_all(needs), flush=True)


def _report(config: ConfigDict, workdir: Path, space: Space, about: str) -> None:
    if not processes.is_primary():
        return
    runs = expand(config)
    order = arm_names(config)
    searched = [_read(each, workdir, space) for each in runs]
    searched.sort(key=lambda one: order.index(one.arm))
    starts = {
        build_chosen(PENALTIES, each.config, "penalty").start_epoch for each in runs
    }
    start = min((epoch for epoch in starts if epoch is not None), default=None)
    search_report.write(workdir, config.to_dict(), searched, space, about, start)
    print(f"Report: {workdir / REPORT_FILE}")


def _read(each: Run, workdir: Path, space: Space) -> Searched:
    epochs, decisions = each.config.search.epochs, space.decisions
    return search_report.read(
        each.folder(workdir), each.arm, each.seed, decisions, epochs
    )


def derive(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Selects the best architecture of each search again, also of unfinished ones."""
    runs = expand(config)
    with (
        open_run(workdir, config.to_dict(), existing=True),
        machine.requests() as requests,
    ):
        searches = _search_of_each_arm(runs, DataCache(), machine)
        claim_data(workdir, _fingerprints(searches))
        needs = [memory.of_search(*found[:2]) for found in searches.values()]
        _check_devices(needs, machine)
        for each in runs:
            folder, (search, data, _) = each.folder(workdir), searches[each.arm]
            state = _restore(search, each, folder)
            title = f"{each.arm}, seed {each.seed}"
            plan = make_plan(each.config, search)
            number = plan.selection
            while number < len(plan) and not requests.stop.asked():
                state = plan.advance(state, data, number)
                number += plan.count_taken(number)
            if number < len(plan):
                sys.exit(requests.stop.exit_code())
            # Of an unfinished search, what says so: its results are still to come.
            done = (folder / RESULTS_FILE).exists()
            prefix = "" if done else "derived_"
            _finish(search, search.task.guess(data), state, folder, title, prefix)


def rank(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Compares the order of random architectures by shared weights with the truth."""
    ranking = build(rank_disorder.Ranking, config, "ranking")
    runs = expand(config)
    with (
        open_run(workdir, config.to_dict(), existing=True),
        machine.requests() as requests,
    ):
        if processes.is_primary():  # For what it says of those that are not there.
            space = open_task(runs[0].config).task.space
            for each in runs:
                _read(each, workdir, space)
        cache = DataCache()
        searches = _search_of_each_arm(runs, cache, machine)
        claim_data(workdir, _fingerprints(searches))
        main, _, about = searches[runs[0].arm]
        space = main.task.space
        ranking.truth.check(space)
        architectures = rank_disorder.draw(ranking.architectures, space)
        needs, train = [memory.of_search(*f[:2]) for f in searches.values()], None
        if ranking.truth.epochs is not None:
            epochs = {"retrain": {"epochs": ranking.truth.epochs}}
            changed = with_changes(config, epochs, "config.retrain lacks epochs")
            retraining, retrain_data = make_retraining(changed, cache, machine.devices)
            needs.append(memory.of_retraining(retraining, retrain_data))
            train = functools.partial(
                rank_disorder.from_scratch,
                retraining,
                retrain_data,
                seed=config.seed,
                workdir=workdir,
                requests=requests,
                checkpoint_seconds=config.retrain.checkpoint_seconds,
            )
        _check_devices(needs, machine)
        true_errors = ranking.truth.of(space, architectures, train)
        shared = {}
        for each in runs:
            folder, (search, data, _) = each.folder(workdir), searches[each.arm]
            params = _restore(search, each, folder).shared.params
            shared[folder.name] = rank_disorder.with_shared(
                search, params, data, architectures
            )
            print(f"{each.arm}, seed {each.seed}: ranked.", flush=True)
            best = Model(
                f"{each.arm}, seed {each.seed}, {rank_disorder.RANKED}",
                lowest(shared[folder.name]),
                search.task.guess(data),
            )
            print_remark([best], search.task.error_name, REMEDY)
        rank_disorder.write(workdir, architectures, ranking.truth, true_errors, shared)
        _report(config, workdir, space, about)


def _restore(search: Search, each: Run, folder: Path) -> State:
    """The newest state of a search."""
    found = newest(folder, jax.eval_shape(search.init, each.key()))
    if found is None:
        raise UserError(f"There is no search in {folder}. Run it first.")
    return search.devices.replicate(found[1])


def retrain_file(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Trains the architecture of ``config.retrain.architecture`` from scratch."""
    check_seed(config)
    found = get_field(config, "retrain.architecture")
    path = Path(found if isinstance(found, str) else "")
    if processes.is_primary() and not path.is_file():
        raise ConfigError(
            f"config.retrain.architecture is {found!r}, expected the file of an "
            "architecture, as a search writes it. Pass "
            "--config.retrain.architecture=FOLDER/architecture.json."
        )
    retraining, data = make_retraining(config, num_devices=machine.devices)
    _check_devices([memory.of_retraining(retraining, data)], machine)
    space = retraining.task.space
    remedy = "Give a file that a search of this space wrote."
    read = functools.partial(_read_architecture, space=space, remedy=remedy)
    architecture = _on_all(read, path, space)
    data_now = fingerprint.of_each({_RETRAINING: data})
    with open_run(workdir, config.to_dict()), machine.requests() as requests:
        claim_data(workdir, data_now)
        folder = workdir / "retrain"
        retrain.run(
            retraining,
            data,
            architecture,
            config.seed,
            folder,
            "Retrain",
            requests,
            config.retrain.checkpoint_seconds,
        )


def evaluate_file(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Evaluates what ``retrain`` has left on validation and test data."""
    path = workdir / "retrain" / retrain.RETRAINED_FILE
    if processes.is_primary() and not path.exists():
        raise UserError(
            f"There is no {path}: nothing has been trained to its end there. Run with "
            "--mode=retrain first."
        )
    retrain_file(config, workdir, machine)


def _on_all(read: Callable[[Path], np.ndarray], path: Path, space: Space) -> np.ndarray:
    """The architecture that the first process reads, on all of them."""
    architecture = np.zeros(len(space.decisions), np.int32)
    if processes.is_primary():
        architecture = read(path)
    return processes.from_primary(architecture, architecture)


def _read_architecture(path: Path, space: Space, remedy: str) -> np.ndarray:
    text = read_text(path, remedy)
    try:
        return architecture_from_json(space, text)
    except UserError as error:
        raise UserError(f"{path}: {error} {remedy}") from error


MODES = {
    "run": run,
    "derive": derive,
    "retrain": retrain_file,
    "evaluate": evaluate_file,
    "rank": rank,
    "report": report,
}


def _first_of_each_arm(runs: list[Run]) -> dict[str, ConfigDict]:
    return {each.arm: each.config for each in reversed(runs)}


def _search_of_each_arm(
    runs: list[Run], cache: DataCache, machine: Machine
) -> dict[str, tuple[Search, Data, str]]:
    """Seeds of an arm share its search, its data and the line about the data."""
    return _of_each_arm(
        runs, lambda arm, config: make_search(config, cache, machine.devices)
    )


def _of_each_arm(
    runs: list[Run], make: Callable[[str, ConfigDict], Made]
) -> dict[str, Made]:
    """Something of each arm; an error names a field where the arm sets it."""
    found: dict[str, Made] = {}
    for arm, config in _first_of_each_arm(runs).items():
        with changes_of(f"arms.{arm}", config.arms[arm]):
            found[arm] = make(arm, config)
    return found


def _fingerprints(searches: dict[str, tuple[Search, Data, str]]) -> dict[str, str]:
    """Of the data of each arm, by its name."""
    return fingerprint.of_each({arm: found[1] for arm, found in searches.items()})


def _is_finished(each: Run, workdir: Path) -> bool:
    retrained = each.folder(workdir) / "retrain" / retrain.RETRAINED_FILE
    return (each.folder(workdir) / RESULTS_FILE).exists() and (
        not each.config.retrain.epochs or retrained.exists()
    )


def _make_arms(runs: list[Run], machine: Machine) -> dict[str, "_Arm"]:
    """By name; they share what they have in common of the data."""
    cache = DataCache()
    return _of_each_arm(
        runs, lambda arm, config: _Arm(arm, config, cache, machine.devices)
    )


class _Arm:
    """What the seeds of an arm share: data and compiled functions."""

    def __init__(
        self, name: str, config: ConfigDict, cache: DataCache, num_devices: int | None
    ):
        self._name, self._config = name, config
        self._search, self._data, self.about = make_search(config, cache, num_devices)
        self.space = self._search.task.space
        self.needs = [memory.of_search(self._search, self._data)]
        if config.retrain.epochs:
            self._retraining, self._retrain_data = make_retraining(
                config, cache, num_devices
            )
            self.needs.append(
                memory.of_retraining(self._retraining, self._retrain_data)
            )
            if self._retraining.task.space.decisions != self.space.decisions:
                raise ConfigError(
                    "config.retrain.space has other decisions than config.space, "
                    "expected the same. Change sizes there that leave them as they are."
                )

    def data(self) -> Iterator[tuple[str, Data]]:
        """Data by the names that its fingerprints have."""
        yield self._name, self._data
        if self._config.retrain.epochs:
            yield f"{self._name}, {_RETRAINING}", self._retrain_data

    def check_files(self, each: Run, workdir: Path) -> None:
        """Checks what is there of a run, before anything is compiled for the rest."""
        if (each.folder(workdir) / RESULTS_FILE).exists():
            _read(each, workdir, self.space)
            if not _is_finished(each, workdir):
                self._read_architecture(each.folder(workdir))

    def _read_architecture(self, folder: Path) -> np.ndarray:
        """What a finished search has found, to be trained from scratch."""
        remedy = (
            f"Delete {folder / RESULTS_FILE} and run again: both are made anew from "
            "the checkpoint."
        )
        path, space = folder / ARCHITECTURE_FILE, self._retraining.task.space
        return _read_architecture(path, space, remedy)

    def run(self, each: Run, workdir: Path, title: str, requests: Requests) -> None:
        """Searches and retrains, as far as it has not been done."""
        folder = each.folder(workdir)
        if not processes.broadcast((folder / RESULTS_FILE).exists()):
            _search(
                *(self._config, self._search, self._data), each, folder, title, requests
            )
        if not processes.broadcast(_is_finished(each, workdir)):
            retrain.run(
                self._retraining,
                self._retrain_data,
                _on_all(self._read_architecture, folder, self.space),
                each.seed,
                folder / "retrain",
                f"{title}, retraining",
                requests,
                self._config.retrain.checkpoint_seconds,
            )


def _search(
    config: ConfigDict,
    search: Search,
    data: Data,
    each: Run,
    folder: Path,
    title: str,
    requests: Requests,
) -> None:
    """Searches from wherever an earlier process stopped, and writes the results."""
    settings = search_settings(config)
    plan = make_plan(config, search)
    guess = search.task.guess(data)
    with resumable(
        search, plan, each.seed, folder, title, requests, settings.checkpoint_seconds
    ) as job:
        advance_all(job, search, plan, data, guess, title, settings.max_bad_steps)
        _finish(search, guess, job.state, folder, title)


def _finish(
    search: Search,
    guess: Guess,
    state: State,
    folder: Path,
    title: str,
    prefix: str = "",
) -> None:
    """Writes the best architecture, and what it reaches with the shared weights."""
    selection = jax.device_get(state.selection)
    best = int(order(selection.judged, selection.allowed[selection.kept])[0])
    if not selection.allowed[selection.kept[best]]:
        print(
            f"{title}: the reward allows none of the {len(selection.allowed)} "
            "candidates (config.reward). The best of those that it does not allow:",
            flush=True,
        )
    architecture = selection.architectures.choice[selection.kept[best]]
    text = architecture_to_json(search.task.space, architecture)
    write_atomically(folder / f"{prefix}{ARCHITECTURE_FILE}", text)
    loss, error = (float(each[best]) for each in selection.judged)
    if not np.isfinite(loss):
        raise UserError(
            f"{folder}: none of the candidates has a finite error with the shared "
            "weights. Lower the learning rate (config.optimizer), and give another "
            "--workdir."
        )
    results = {
        "guess": guess._asdict(),
        "architecture": architecture.tolist(),
        "error_name": search.task.error_name,
        "valid_loss": loss,
        "valid_error": error,
    }
    write_atomically(folder / f"{prefix}{RESULTS_FILE}", to_json(results))
    print(f"{title}: the best has {search.task.error_name} {error:.2f}.", flush=True)
    model = Model(f"{title}, the best architecture", error, guess)
    print_remark([model], search.task.error_name, REMEDY)
