"""Search strategies, a module each."""

from collections.abc import Callable

from ml_collections import ConfigDict

from wpl_jax.common.config_fields import require_choice
from wpl_jax.strategies import enas, random_search
from wpl_jax.strategies.strategy import Strategy
from wpl_jax.supernet import Decision

# By name: functions of ``config`` and a space's decisions, which check the settings
# that ``config.strategy`` holds under the same name.
STRATEGIES: dict[str, Callable[[ConfigDict, tuple[Decision, ...]], Strategy]] = {
    "enas": enas.make,
    "random": random_search.make,
}


def unread(config: ConfigDict) -> dict[str, str]:
    """Settings under ``config.strategy`` that the strategy does not read, and why."""
    require_choice(config, "strategy.name", STRATEGIES)
    name = config.strategy.name
    why = f"config.strategy.name is {name!r}"
    return {f"strategy.{other}": why for other in STRATEGIES if other != name}


def make_strategy(config: ConfigDict, decisions: tuple[Decision, ...]) -> Strategy:
    """The strategy that ``config.strategy.name`` names.

    Raises:
      ConfigError: If there is none, or a setting of its is wrong.
    """
    require_choice(config, "strategy.name", STRATEGIES)
    return STRATEGIES[config.strategy.name](config, decisions)
