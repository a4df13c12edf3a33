"""``--mode=rank``: the order of architectures by shared weights, and their true one."""

import functools
from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.evaluation import rank_disorder
from wpl_jax.jobs import memory
from wpl_jax.jobs.arms import check_devices, fingerprints, restore, searches_of
from wpl_jax.jobs.build import build
from wpl_jax.jobs.config_fields import with_changes
from wpl_jax.jobs.modes.report import read_search, write_report
from wpl_jax.jobs.search_config import expand, make_retraining, open_task
from wpl_jax.reports.searched import REMEDY
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import claim_data, open_run
from wpl_jax.tasks import DataCache
from wpl_jax.tasks.guessing import Model, lowest, print_remark


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
                read_search(each, workdir, space)
        cache = DataCache()
        searches = searches_of(runs, cache, machine)
        claim_data(workdir, fingerprints(searches))
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
        check_devices(needs, machine)
        true_errors = ranking.truth.of(space, architectures, train)
        shared = {}
        for each in runs:
            folder, (search, data, _) = each.folder(workdir), searches[each.arm]
            params = restore(search, each, folder).shared.params
            shared[folder.name] = rank_disorder.with_shared(
                search, params, data, architectures
            )
            print(f"{each.title}: ranked.", flush=True)
            best = Model(
                f"{each.title}, {rank_disorder.RANKED}",
                lowest(shared[folder.name]),
                search.task.guess(data),
            )
            print_remark([best], search.task.error_name, REMEDY)
        rank_disorder.write(workdir, architectures, ranking.truth, true_errors, shared)
        write_report(config, workdir, space, about)
