"""The searches that a configuration asks for: one of each arm and seed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from wpl_jax.common.counted import counted
from wpl_jax.common.settings import MOST_SEED, check_choice, check_int
from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.errors import UserError
from wpl_jax.jobs.build import check_sections
from wpl_jax.jobs.config_fields import (
    check_seed,
    fields_of,
    get_field,
    require_names,
    require_settings,
    with_changes,
)
from wpl_jax.protections import PENALTIES
from wpl_jax.reports.searched import search_folder, search_name
from wpl_jax.runs.share import Share
from wpl_jax.spaces import SPACES
from wpl_jax.strategies import STRATEGIES
from wpl_jax.strategies.rewards import REWARDS
from wpl_jax.tasks import TASKS

_MOST_SEEDS = 10_000  # of a configuration: each has a folder


class Chosen(NamedTuple):
    """A section of a configuration in which a part is chosen by name."""

    known: Mapping[str, Any]  # classes of parts by name
    also: tuple[str, ...] = ()  # what else the section may hold


CHOSEN = {
    "penalty": Chosen(PENALTIES),
    "strategy": Chosen(STRATEGIES),
    "reward": Chosen(REWARDS),
    "optimizer": Chosen(OPTIMIZERS),
    "retrain.optimizer": Chosen(OPTIMIZERS),
    "space": Chosen(SPACES),
    "task": Chosen(TASKS, also=("data",)),
}


class Run(NamedTuple):
    """One search of a configuration."""

    arm: str
    seed: int
    config: ConfigDict  # with the arm's changes

    def key(self) -> jax.Array:
        """The key of its randomness."""
        return jax.random.key(self.seed)

    @property
    def title(self) -> str:
        """What it is called in what is printed."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def name(self) -> str:
        """What it is called in files."""
        return search_name(self.arm, self.seed)

    def folder(self, workdir: Path) -> Path:
        """Where its files go."""
        return search_folder(workdir, self.arm, self.seed)


def expand(config: ConfigDict) -> list[Run]:
    """The searches that a configuration asks for, those of a seed together.

    Raises:
      ConfigError: If a field is wrong, in the configuration or in an arm.
    """
    check_seed(config)
    most = min(_MOST_SEEDS, MOST_SEED + 1 - config.seed)
    with fields_of(config) as fields:
        check_int(fields, "num_seeds", 1, "each is a search of its own", most=most)
        require_names(config, "arms")
        check_choice(fields, "main_arm", config.arms)
    for arm in config.arms:
        expected = "the arm's changes to the configuration, {} for none"
        require_settings(config, f"arms.{arm}", expected)
    require_settings(config, "retrain", "the settings of the retraining")
    with fields_of(config) as fields:
        check_int(fields, "retrain.epochs", 0, "0 for no retraining")
    changed = {}
    for arm in arm_names(config):
        changed[arm] = with_changes(config, config.arms[arm], f"config.arms.{arm}")
    for path, (known, also) in CHOSEN.items():
        variants = [config, *changed.values()]
        names = [get_field(variant, f"{path}.name") for variant in variants]
        if all(name in known for name in names):  # Else building the part says so.
            check_sections(known, variants, path, also)
    seeds = range(config.seed, config.seed + config.num_seeds)
    return [Run(arm, seed, changed[arm]) for seed in seeds for arm in changed]


def runs_of_share(runs: list[Run], share: Share) -> list[Run]:
    """The searches of a share, of all those of a configuration.

    Raises:
      UserError: If there are more shares than searches.
    """
    if share.count > len(runs):
        raise UserError(
            f"--share={share} is for {counted(share.count, 'process', 'processes')}, "
            "and the configuration "
            f"has {counted(len(runs), 'search', 'searches')} (config.arms times "
            "config.num_seeds). Start at most "
            f"{counted(len(runs), 'process', 'processes')}."
        )
    return share.of(runs)


def arm_names(config: ConfigDict) -> list[str]:
    """The arms, the main one first."""
    return sorted(config.arms, key=lambda arm: (arm != config.main_arm, arm))
