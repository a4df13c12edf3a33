"""``--mode=derive``: the selection of the best architectures, once more."""

import sys
from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.jobs import memory
from wpl_jax.jobs.arms import check_devices, claim_searches, restore, turn_of
from wpl_jax.jobs.expand import Run, expand, runs_of_share
from wpl_jax.jobs.results import write_results
from wpl_jax.jobs.search_config import make_plan
from wpl_jax.reports.searched import RESULTS_FILE
from wpl_jax.runs.machine import Machine, Requests
from wpl_jax.runs.run_directory import open_run
from wpl_jax.search import Search
from wpl_jax.tasks import Data, DataCache


def derive(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Selects the best architecture of each search again, also of unfinished ones."""
    every = expand(config)
    runs = runs_of_share(every, machine.share)
    alone = machine.share.is_whole
    with (
        open_run(workdir, config.to_dict(), existing=True, alone=alone),
        machine.requests() as requests,
    ):
        searches = claim_searches(every, runs, workdir, DataCache(), machine)
        needs = [memory.of_search(*found[:2]) for found in searches.values()]
        check_devices(needs, machine)
        for each in runs:
            with turn_of(each, workdir):
                _derive(each, workdir, *searches[each.arm][:2], requests)


def _derive(
    each: Run, workdir: Path, search: Search, data: Data, requests: Requests
) -> None:
    """Selects again among the candidates of one search."""
    folder = each.folder(workdir)
    state = restore(search, each, folder)
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
    write_results(search, search.task.guess(data), state, folder, each.title, prefix)
