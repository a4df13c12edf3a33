"""The arms of a configuration, and what their searches share."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import jax
from ml_collections import ConfigDict

from wpl_jax.devices import choice
from wpl_jax.devices.program_memory import forget_programs
from wpl_jax.engine.state import State
from wpl_jax.errors import UserError
from wpl_jax.jobs import memory
from wpl_jax.jobs.config_fields import changes_of
from wpl_jax.jobs.expand import Run
from wpl_jax.jobs.latency import measured
from wpl_jax.jobs.retrain_config import config_for_task
from wpl_jax.jobs.search_config import make_search
from wpl_jax.runs import fingerprint
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.resumable import newest
from wpl_jax.runs.run_directory import claim, claim_data
from wpl_jax.search import Search
from wpl_jax.tasks import Data, DataCache

Made = TypeVar("Made")
RETRAINING = "retraining"  # in the name of data


def of_each_arm(
    runs: list[Run], make: Callable[[str, ConfigDict], Made]
) -> dict[str, Made]:
    """Makes an object for each arm; an error names the field of the arm.

    Args:
      runs: Of the configuration.
      make: A function of an arm's name and of its configuration.

    Returns:
      The objects by the names of the arms.
    """
    found: dict[str, Made] = {}
    first = {each.arm: each.config for each in reversed(runs)}
    for arm, config in first.items():
        with changes_of(f"arms.{arm}", config.arms[arm]):
            found[arm] = make(arm, config)
    return found


def searches_of(
    runs: list[Run], workdir: Path, cache: DataCache, machine: Machine
) -> dict[str, tuple[Search, Data, str]]:
    """The search of each arm, its data and a line about the data; seeds share them."""
    latency_of = measured(workdir)

    def make(arm: str, config: ConfigDict) -> tuple[Search, Data, str]:
        return make_search(config, cache, machine.devices, latency_of)

    return of_each_arm(runs, make)


def claim_searches(
    every: list[Run],
    runs: list[Run],
    workdir: Path,
    cache: DataCache,
    machine: Machine,
) -> dict[str, tuple[Search, Data, str]]:
    """:func:`searches_of`, whose data is that of the run from its beginning.

    Args:
      every: All runs of the configuration.
      runs: Those of this process.
      workdir: Of the run, which is open.
      cache: Of data.
      machine: How the searches use this machine.

    Raises:
      UserError: If the data is other data than before.
    """
    searches = searches_of(runs, workdir, cache, machine)
    data_of_arms = {arm: found[1] for arm, found in searches.items()}
    claim_data(workdir, fingerprints(every, data_of_arms))
    return searches


def fingerprints(runs: list[Run], data: Mapping[str, Data]) -> dict[str, str]:
    """Fingerprints of data, by the names of all arms whose data it is.

    Arms with the same settings of the task have the same data. So a share notes the
    fingerprint for the arms of other shares, too, and these notice other data.

    Args:
      runs: All of the configuration.
      data: Of some arms: that of a search by the name of the arm, that of a retraining
        by the name and :data:`RETRAINING`.
    """

    def settings(arm: str, config: ConfigDict) -> dict[str, str]:
        found = {arm: _as_text(config.task)}
        if config.retrain.epochs:
            found[f"{arm}, {RETRAINING}"] = _as_text(config_for_task(config).task)
        return found

    of_arms = of_each_arm(runs, settings).values()
    names = {name: text for found in of_arms for name, text in found.items()}
    by_settings = {names[k]: v for k, v in fingerprint.of_each(data).items()}
    return {k: by_settings[text] for k, text in names.items() if text in by_settings}


def _as_text(settings: ConfigDict) -> str:
    return json.dumps(settings.to_dict(), sort_keys=True)


@contextlib.contextmanager
def turn_of(each: Run, workdir: Path) -> Iterator[None]:
    """Claims the folder of a search, which is the next one of the run.

    Raises:
      UserError: As :func:`wpl_jax.runs.run_directory.claim` has it.
    """
    forget_programs()
    with claim(each.folder(workdir)):
        yield


def restore(search: Search, each: Run, folder: Path) -> State:
    """The newest state of a search, on its devices.

    Raises:
      UserError: If there is no search in the folder.
    """
    found = newest(folder, jax.eval_shape(search.init, each.key()))
    if found is None:
        raise UserError(f"There is no search in {folder}. Run it first.")
    return search.devices.replicate(found[1])


def check_devices(needs: list[memory.Need], machine: Machine) -> None:
    """Prints which devices are used, and their memory.

    Raises:
      UserError: If more memory is needed than there is.
    """
    print(choice.told((need.devices for need in needs), machine.devices))
    print(memory.check_all(needs), flush=True)
