"""``--mode=rank``: the order of architectures by shared weights, and their true one."""

import contextlib
from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.evaluation.rank_disorder import RANKED, UntrainedError
from wpl_jax.evaluation.rank_files import is_ranked
from wpl_jax.jobs import memory, ranking
from wpl_jax.jobs.arms import check_devices, claim_searches, restore, turn_of
from wpl_jax.jobs.expand import expand, runs_of_share
from wpl_jax.jobs.modes.report import Done, check_finished, finish
from wpl_jax.reports.searched import REMEDY
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import open_run
from wpl_jax.tasks import DataCache
from wpl_jax.tasks.guessing import Model, lowest, print_remark

_RANKED = Done(
    "ranked", lambda each, workdir: is_ranked(each.folder(workdir)), ranked=True
)


def rank(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Compares the order of architectures by shared weights with the truth.

    A share ranks its own searches. If architectures are trained from scratch, it trains
    its share of them.
    """
    settings = ranking.build_ranking(config)
    every = expand(config)
    runs = runs_of_share(every, machine.share)
    alone = machine.share.is_whole
    with (
        open_run(workdir, config.to_dict(), existing=True, alone=alone),
        machine.requests() as requests,
    ):
        cache = DataCache()
        check_finished(runs, workdir, cache)
        searches = claim_searches(every, runs, workdir, cache, machine)
        for search, data, _ in searches.values():
            ranking.check(settings, search, data)
        spaces = {arm: one.task.space for arm, (one, *_) in searches.items()}
        ranking.check_arms(spaces)
        space = spaces[runs[0].arm]
        choices = settings.choose(space)
        needs, train = [memory.of_search(*f[:2]) for f in searches.values()], None
        if settings.truth.epochs is not None:
            train = ranking.make_training(
                config, settings.truth.epochs, cache, machine, workdir, requests
            )
            needs.append(train.need)
        check_devices(needs, machine)
        with contextlib.suppress(UntrainedError):  # Others train the rest.
            settings.truth.of(space, choices, train and train.run)
        for each in runs:
            folder, (search, data, _) = each.folder(workdir), searches[each.arm]
            with turn_of(each, workdir):
                params = search.weights(restore(search, each, folder))
                scores = ranking.score(
                    *(settings, search, params, data, choices, folder),
                    f"{each.title}, ranking",
                    requests,
                )
            remark = Model(
                f"{each.title}, {RANKED}",
                lowest(scores.error.tolist()),
                search.task.guess(data),
            )
            print_remark([remark], search.task.error_name, REMEDY)
        finish(config, workdir, cache, machine, _RANKED)
