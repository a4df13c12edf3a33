"""``--mode=rank``: the order of architectures by shared weights, and their true one."""

from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.evaluation import rank_files
from wpl_jax.evaluation.rank_disorder import RANKED
from wpl_jax.jobs import memory, ranking
from wpl_jax.jobs.arms import check_devices, fingerprints, restore, searches_of
from wpl_jax.jobs.modes.report import open_all, read_search, write_report
from wpl_jax.jobs.search_config import expand
from wpl_jax.reports.searched import REMEDY
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import claim_data, open_run
from wpl_jax.tasks import DataCache
from wpl_jax.tasks.guessing import Model, lowest, print_remark


def rank(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Compares the order of architectures by shared weights with the truth."""
    settings = ranking.build_ranking(config)
    runs = expand(config)
    with (
        open_run(workdir, config.to_dict(), existing=True),
        machine.requests() as requests,
    ):
        if processes.is_primary():  # For what it says of those that are not there.
            opened = open_all(runs)
            for each in runs:
                read_search(each, workdir, opened[each.arm].task.space)
        cache = DataCache()
        searches = searches_of(runs, cache, machine)
        claim_data(workdir, fingerprints(searches))
        for search, data, _ in searches.values():
            ranking.check(settings, search, data)
        spaces = {arm: one.task.space for arm, (one, *_) in searches.items()}
        ranking.check_arms(spaces)
        main, _, about = searches[runs[0].arm]
        space = main.task.space
        choices = settings.choose(space)
        needs, train = [memory.of_search(*f[:2]) for f in searches.values()], None
        if settings.truth.epochs is not None:
            train = ranking.make_training(
                config, settings.truth.epochs, cache, machine, workdir, requests
            )
            needs.append(train.need)
        check_devices(needs, machine)
        true_errors = settings.truth.of(space, choices, train and train.run)
        found = {}
        for each in runs:
            folder, (search, data, _) = each.folder(workdir), searches[each.arm]
            params = search.weights(restore(search, each, folder))
            scores = ranking.score(
                *(settings, search, params, data, choices, folder),
                f"{each.title}, ranking",
                requests,
            )
            if processes.is_primary():
                results = read_search(each, workdir, search.task.space).results
                best = np.array(results["architecture"])
                found[each.name] = ranking.compare(
                    settings, search, scores, best, folder
                )
            remark = Model(
                f"{each.title}, {RANKED}",
                lowest(scores.error.tolist()),
                search.task.guess(data),
            )
            print_remark([remark], search.task.error_name, REMEDY)
        if processes.is_primary():
            rank_files.write(workdir, space, settings, choices, true_errors, found)
        write_report(config, workdir, spaces, about)
