"""From a configuration to searches: which are to be run, and of what they are made."""

from pathlib import Path
from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from wpl_jax.common.config_fields import (
    MOST_OF_A_CALL,
    MOST_SEED,
    check_seed,
    get_field,
    require,
    require_choice,
    require_int,
    require_names,
    require_number,
    require_settings,
    with_changes,
)
from wpl_jax.devices.parallel import make_devices
from wpl_jax.engine.optimizers import make_sgd
from wpl_jax.protections.protection import make_protection
from wpl_jax.search import Search
from wpl_jax.strategies import make_strategy
from wpl_jax.tasks import Data, Shelf, load_task

_MOST_SEEDS = 10_000  # of a configuration: each has a folder


class Run(NamedTuple):
    """One search of a configuration."""

    arm: str
    seed: int
    config: ConfigDict  # with the arm's changes

    def key(self) -> jax.Array:
        """The key of its randomness."""
        return jax.random.key(self.seed)

    def folder(self, workdir: Path) -> Path:
        """Where its files go."""
        return workdir / "searches" / f"{self.arm}-seed{self.seed}"


def expand(config: ConfigDict) -> list[Run]:
    """The searches that a configuration asks for, those of a seed together.

    Raises:
      ConfigError: If a field is wrong, in the configuration or in an arm.
    """
    check_seed(config)
    most = min(_MOST_SEEDS, MOST_SEED + 1 - config.seed)
    require_int(config, "num_seeds", 1, "each is a search of its own", most=most)
    require_names(config, "arms")
    require_choice(config, "main_arm", config.arms)
    for arm in config.arms:
        expected = "the arm's changes to the configuration, {} for none"
        require_settings(config, f"arms.{arm}", expected)
    require_settings(config, "retrain", "the settings of the retraining")
    require_int(config, "retrain.epochs", 0, "0 for no retraining")
    changed = {}
    for arm in arm_names(config):
        said = f"config.arms.{arm} changes a field that the configuration does not have"
        changed[arm] = with_changes(config, config.arms[arm], said)
    seeds = range(config.seed, config.seed + config.num_seeds)
    return [Run(arm, seed, changed[arm]) for seed in seeds for arm in changed]


def arm_names(config: ConfigDict) -> list[str]:
    """The arms, the main one first."""
    return sorted(config.arms, key=lambda arm: (arm != config.main_arm, arm))


def make_search(
    config: ConfigDict, shelf: Shelf | None = None
) -> tuple[Search, Data, str]:
    """Builds one search from its configuration, and loads its data.

    Args:
      config: Of one arm.
      shelf: What has been loaded before; None for nothing.

    Returns:
      The search, its data, and a line about the data.

    Raises:
      UserError: If the configuration or the data is wrong.
    """
    for name in (
        "epochs",
        "children",
        "together",
        "eval_batches",
        "max_bad_steps",
    ):
        require_int(config, f"search.{name}", 1)
    for name in ("batches", "learn_per_call"):
        require_int(config, f"search.{name}", 1, "in one call", most=MOST_OF_A_CALL)
    require(
        config.search.children % config.search.together == 0,
        config,
        "search.together",
        f"a divisor of the {config.search.children} children of an epoch",
    )
    require_number(config, "search.checkpoint_seconds", least=0)
    protection, optimizer = make_protection(config), make_sgd(config)
    devices = make_devices(config, config.search.together)
    task, data, about = load_task(config, devices, shelf)
    strategy = make_strategy(config, task.space.decisions)
    require(
        strategy.steps % config.search.learn_per_call == 0,
        config,
        "search.learn_per_call",
        f"a divisor of the strategy's {strategy.steps} steps",
    )
    batches = task.num_batches(data, "train")
    require(
        config.search.together <= batches,
        config,
        "search.together",
        f"at most {batches}, the batches of the training data",
    )
    available = task.num_batches(data, "valid")
    for field in (
        "search.eval_batches",
        f"strategy.{config.strategy.name}.candidates.screen_batches",
    ):
        require(
            get_field(config, field) <= available,
            config,
            field,
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
        together=settings.together,
        devices=devices,
    )
    return search, data, about
