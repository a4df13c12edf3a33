"""``--mode=ensemble``: the mean of the predictions of the best children of a search."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.evaluation import ensemble as ensembles
from wpl_jax.evaluation.ensemble import Ensemble, EnsembleSettings
from wpl_jax.jobs import memory
from wpl_jax.jobs.arms import check_devices, claim_searches, restore, turn_of
from wpl_jax.jobs.build import build
from wpl_jax.jobs.expand import Run, expand, runs_of_share
from wpl_jax.jobs.modes.report import Done, check_finished, finish
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import open_run
from wpl_jax.search import Search
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Data, DataCache

_EVALUATED = Done(
    "evaluated as ensembles",
    lambda each, workdir: (each.folder(workdir) / ensembles.ENSEMBLE_FILE).exists(),
)


def ensemble(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Evaluates ensembles of each search with its shared weights, and reports them."""
    settings = EnsembleSettings()
    if "ensemble" in config:
        settings = build(EnsembleSettings, config, "ensemble")
    every = expand(config)
    runs = runs_of_share(every, machine.share)
    alone = machine.share.is_whole
    with open_run(workdir, config.to_dict(), existing=True, alone=alone):
        cache = DataCache()
        check_finished(runs, workdir, cache)
        searches = claim_searches(every, runs, workdir, cache, machine)
        check_devices([memory.of_search(*f[:2]) for f in searches.values()], machine)
        for each in runs:
            with turn_of(each, workdir):
                _of_search(settings, each, workdir, *searches[each.arm][:2])
        finish(config, workdir, cache, machine, _EVALUATED)


def _of_search(
    settings: EnsembleSettings, each: Run, workdir: Path, search: Search, data: Data
) -> None:
    folder, space = each.folder(workdir), search.task.space
    state = restore(search, each, folder)
    ranked = state.selection.ranked(search.strategy.candidates)
    members = ensembles.best_distinct(
        space,
        ranked.choice,
        ranked.allowed & np.isfinite(ranked.loss),
        settings.members,
    )
    architectures = search.devices.replicate(Architecture(jnp.asarray(members)))
    evaluator = Ensemble(search.task, search.devices)
    found = {
        split: jax.device_get(
            evaluator.evaluate(search.weights(state), architectures, data, split)
        )
        for split in ensembles.SPLITS
    }
    if processes.is_primary():
        ensembles.write(folder, members, found)
    together = found["test"].together.error
    print(
        f"{each.title}: test {search.task.error_name} {together[0]:.2f} of the best, "
        f"{together[-1]:.2f} of {len(members)} children together.",
        flush=True,
    )
