"""``--mode=run``: all searches of a configuration, their retraining and a report."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from wpl_jax.data import DataError
from wpl_jax.devices import processes
from wpl_jax.errors import ConfigError
from wpl_jax.evaluation import retrain
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.jobs import baselines, latency, memory, ranking
from wpl_jax.jobs.arms import (
    RETRAINING,
    check_devices,
    fingerprints,
    of_each_arm,
    turn_of,
)
from wpl_jax.jobs.expand import Run, expand, runs_of_share
from wpl_jax.jobs.modes.report import finish, read_search
from wpl_jax.jobs.results import (
    is_finished,
    is_retrained,
    on_all,
    read_architecture,
    write_results,
)
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.jobs.search_config import make_plan, make_search, search_settings
from wpl_jax.jobs.search_loop import advance_all, resumable
from wpl_jax.jobs.start_from import Start, labels_of, path_of, words_of
from wpl_jax.models.files import keep_in
from wpl_jax.reports.searched import ARCHITECTURE_FILE, REPORT_FILE, RESULTS_FILE
from wpl_jax.runs.machine import Machine, Requests
from wpl_jax.runs.run_directory import claim, claim_data, open_run
from wpl_jax.search import Search
from wpl_jax.tasks import Data, DataCache


def run(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Runs or resumes the searches of a configuration, or a share of them.

    The process that finishes last writes the report.

    Each search ends with the selection of its best architecture, and with that
    architecture's training from scratch where ``config.retrain.epochs`` is not 0. Then
    the baselines of ``config.retrain.baselines`` are trained in the same way.

    Args:
      config: As ``configs/enas_rnn_pydoc.py`` gives it.
      workdir: Folder of the run.
      machine: How the searches use this machine, and which of them it runs.

    Raises:
      UserError: If something is wrong with the configuration, the data or the
        folder, before anything is compiled.
      SystemExit: With 128 and the number of a signal after it, once all is saved.
    """
    every = expand(config)
    runs = runs_of_share(every, machine.share)
    page, alone, cache = workdir / REPORT_FILE, machine.share.is_whole, DataCache()
    finished = processes.broadcast(
        page.is_file() and all(is_finished(each, workdir) for each in every)
    )
    said = f"This run is finished: {page}"
    # The data first: a folder is claimed by nothing that cannot run.
    try:
        missing = latency.is_missing(every, workdir)
        latency_of = latency.unknown if missing else latency.measured(workdir)
        arms = _make_arms(runs, cache, machine, latency_of)
    except DataError as error:
        if not finished:
            raise
        with open_run(workdir, config.to_dict(), alone=alone):
            print(f"{said}\nIts data is not there to be compared. {error}")
            return
    if not finished:
        if "ranking" in config:  # No search is to end in what cannot be ranked.
            settings = ranking.build_ranking(config)
            arms[runs[0].arm].check_ranking(settings)
        print("\n".join(dict.fromkeys(arm.about for arm in arms.values())))
        needs = [need for arm in arms.values() for need in arm.needs]
        check_devices(needs, machine)
        for each in runs:
            for start in arms[each.arm].starts(each, workdir):
                start.check()
    data = fingerprints(every, {k: v for arm in arms.values() for k, v in arm.data()})
    with (
        open_run(workdir, config.to_dict(), alone=alone),
        machine.requests() as requests,
    ):
        claim_data(workdir, data)
        if missing:
            spaces = list(dict.fromkeys(arm.space for arm in arms.values()))
            latency.measure(config, spaces, workdir)
            arms = _make_arms(runs, cache, machine, latency.measured(workdir))
        if processes.is_primary():
            for each in runs:
                with claim(each.folder(workdir)):  # Another process would be named.
                    arms[each.arm].check_files(each, workdir)
        if finished:
            print(said)
            return
        for number, each in enumerate(runs, 1):
            title = f"[{number}/{len(runs)}] {each.title}"
            with turn_of(each, workdir):
                arms[each.arm].run(each, workdir, title, requests)
        for number, each in enumerate(runs, 1):
            title = f"[{number}/{len(runs)}] {each.title}"
            with turn_of(each, workdir):
                arms[each.arm].train_baselines(each, workdir, title, requests)
        finish(config, workdir, cache, machine)


def _make_arms(
    runs: list[Run],
    cache: DataCache,
    machine: Machine,
    latency_of: latency.LatencyOf,
) -> dict[str, "_Arm"]:
    """By name; they share what they have in common of the data."""
    return of_each_arm(
        runs, lambda arm, config: _Arm(arm, config, cache, machine.devices, latency_of)
    )


class _Arm:
    """What the seeds of an arm share: data and compiled functions."""

    def __init__(
        self,
        name: str,
        config: ConfigDict,
        cache: DataCache,
        num_devices: int | None,
        latency_of: latency.LatencyOf,
    ):
        self._name, self._config = name, config
        self._search, self._data, self.about = make_search(
            config, cache, num_devices, latency_of
        )
        self.space = self._search.task.space
        self._words = words_of(config, cache, self._data)
        self.needs = [memory.of_search(self._search, self._data)]
        self._comparison: baselines.Comparison | None = None
        if config.retrain.epochs:
            found = make_retraining(config, cache, num_devices)
            self._retraining, self._retrain_data, self._predictor = found
            self.needs.append(
                memory.of_retraining(self._retraining, self._retrain_data)
            )
            if self._retraining.task.space.decisions != self.space.decisions:
                raise ConfigError(
                    "config.retrain.space has other decisions than config.space, "
                    "expected the same. Change sizes there that leave them as they are."
                )
            if name == config.main_arm:
                self._comparison = baselines.Comparison(
                    baselines.settings_of(config), found
                )
                self.needs += self._comparison.needs()

    def check_ranking(self, settings: Ranking) -> None:
        """Checks that its architectures can be ranked."""
        ranking.check(settings, self._search, self._data)

    def data(self) -> Iterator[tuple[str, Data]]:
        """Data by the names that its fingerprints have."""
        yield self._name, self._data
        if self._config.retrain.epochs:
            yield f"{self._name}, {RETRAINING}", self._retrain_data

    def starts(self, each: Run, workdir: Path) -> list[Start]:
        """What the search and its retraining start from."""
        folder, field = each.folder(workdir), "search.start_from"
        found = [
            Start(
                *(f"config.{field}", path_of(self._config, field), each.name),
                *(self.space, self._words, folder),
            )
        ]
        if self._config.retrain.epochs:
            space, field = self._retraining.task.space, "retrain.start_from"
            words = labels_of(space, self._predictor)
            path = path_of(self._config, field)
            below = folder / "retrain"
            found.append(Start(f"config.{field}", path, each.name, space, words, below))
        return found

    def check_files(self, each: Run, workdir: Path) -> None:
        """Checks what is there of a run, before anything is compiled for the rest."""
        if (each.folder(workdir) / RESULTS_FILE).exists():
            read_search(each, workdir, self.space)
            if not is_finished(each, workdir):
                self._read_architecture(each.folder(workdir))

    def _read_architecture(self, folder: Path) -> np.ndarray:
        """What a finished search has found, to be trained from scratch."""
        remedy = (
            f"Delete {folder / RESULTS_FILE} and run again: both are made anew from "
            "the checkpoint."
        )
        path, space = folder / ARCHITECTURE_FILE, self._retraining.task.space
        return read_architecture(path, space, remedy)

    def run(self, each: Run, workdir: Path, title: str, requests: Requests) -> None:
        """Searches and retrains, as far as it has not been done."""
        folder = each.folder(workdir)
        starts = self.starts(each, workdir)
        if not processes.broadcast((folder / RESULTS_FILE).exists()):
            _search(
                self._config,
                self._search,
                self._data,
                each,
                folder,
                title,
                requests,
                starts[0],
            )
        if not processes.broadcast(is_retrained(each, workdir)):
            title = f"{title}, retraining"
            starts[1].keep_words()
            retrain.run(
                self._retraining,
                self._retrain_data,
                on_all(self._read_architecture, folder, self.space),
                each.seed,
                folder / "retrain",
                title,
                requests,
                self._config.retrain.checkpoint_seconds,
                keep=keep_in(
                    folder / "retrain", self._retraining.task.space, self._predictor
                ),
                start_from=starts[1].function(title),
            )

    def train_baselines(
        self, each: Run, workdir: Path, title: str, requests: Requests
    ) -> None:
        """Trains the baselines of a search, as far as it has not been done."""
        if self._comparison is None or processes.broadcast(is_finished(each, workdir)):
            return
        choice = on_all(self._read_architecture, each.folder(workdir), self.space)
        self._comparison.train(each, choice, workdir, title, requests)


def _search(
    config: ConfigDict,
    search: Search,
    data: Data,
    each: Run,
    folder: Path,
    title: str,
    requests: Requests,
    start: Start,
) -> None:
    """Searches from wherever an earlier process stopped, and writes the results."""
    settings = search_settings(config)
    plan = make_plan(config, search)
    guess = search.task.guess(data)
    start.keep_words()
    with resumable(
        *(search, plan, each.seed, folder, title, requests),
        *(settings.checkpoint_seconds, start.function(title)),
    ) as job:
        advance_all(job, search, plan, data, guess, title, settings.max_bad_steps)
        write_results(search, guess, job.state, folder, title)
