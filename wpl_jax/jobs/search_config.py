"""The search of one arm of a configuration: its parts, its data and its calls."""

from collections.abc import Callable

from ml_collections import ConfigDict

from wpl_jax.engine.optimizers import OPTIMIZERS, Optimizer
from wpl_jax.engine.plan import (
    Plan,
    SearchSettings,
    check_train_batches,
    excess_of,
)
from wpl_jax.errors import on_command_line
from wpl_jax.jobs.build import (
    build,
    build_chosen,
    check_inherits,
    find_class,
    offered,
    section_of,
)
from wpl_jax.jobs.config_fields import Field, FieldError, naming, wrong
from wpl_jax.jobs.open_task import OF_SEARCH, choose_devices, open_task
from wpl_jax.protections import PENALTIES, Protection
from wpl_jax.search import Search
from wpl_jax.spaces.costs import Costs, Latency
from wpl_jax.strategies import STRATEGIES, Strategy
from wpl_jax.strategies.limits import NO_LIMITS, Limits, LimitSettings
from wpl_jax.strategies.limits import find as find_limits
from wpl_jax.strategies.rewards import REWARDS, Reward
from wpl_jax.supernet import Space
from wpl_jax.tasks import Data, DataCache


def _check_validation(config: ConfigDict, search: Search, data: Data) -> None:
    """Checks that no field has more batches than the validation data."""
    excess = excess_of(search, data)
    found: list[str | Field] = []
    flags: list[str | Field] = []
    for name, number in excess.numbers.items():
        of_strategy = name.removeprefix("strategy.")
        field = f"search.{name}"
        if of_strategy != name:
            field = f"{section_of(config, 'strategy')}.{of_strategy}"
        found += [" and " if found else "", Field(field), f" is {number}"]
        flags += [" --", Field(field), f"={excess.available}"]
    if found:
        said = f", expected {excess.expected}. Mend the config file, or pass"
        raise FieldError(*found, said, *flags, ".")


@on_command_line()
def make_search(
    config: ConfigDict,
    cache: DataCache | None = None,
    num_devices: int | None = 1,
    latency_of: Callable[[Space], Latency | None] = lambda space: None,
) -> tuple[Search, Data, str]:
    """Builds one search from its configuration, and loads its data.

    Args:
      config: Of one arm.
      cache: What has been loaded before; None for nothing.
      num_devices: Number of devices; None for as many as divide the work equally.
      latency_of: A function of a space, the measured latency of its parts; None if it
        has not been measured.

    Returns:
      The search, its data, and lines about the data and the limits.

    Raises:
      UserError: If the configuration or the data is wrong.
    """
    settings = search_settings(config)
    protection = build_chosen(PENALTIES, config, "penalty")
    optimizer = build_chosen(OPTIMIZERS, config, "optimizer")
    opened = open_task(config, cache)
    task = opened.task
    devices = choose_devices(config, task, num_devices, settings.children_per_step)
    costs = Costs(task.space, latency_of(task.space))
    reward = _build_offered(REWARDS, config, "reward", {"costs": costs})
    limits = make_limits(config, costs)
    offer = {"limits": limits, "reward": reward}
    strategy = _build_offered(STRATEGIES, config, "strategy", offer, space=task.space)
    _check_limited(config, strategy, limits)
    check_inherits(strategy, Strategy)
    check_inherits(protection, Protection)
    check_inherits(reward, Reward)
    check_inherits(optimizer, Optimizer)
    with naming(section_of(config, "optimizer"), elsewhere=OF_SEARCH):
        optimizer.check_children(task.space, settings.children_per_step)
    data = opened.put(devices)
    with naming("search", elsewhere={"optimizer": ""}):
        search = Search(
            task=task,
            strategy=strategy,
            protection=protection,
            optimizer=optimizer,
            children=settings.children,
            batches=settings.batches,
            eval_batches=settings.eval_batches,
            children_per_step=settings.children_per_step,
            update_rule=settings.update_rule,
            average_from=settings.average_from,
            reward=reward,
            devices=devices,
        )
        check_train_batches(search, data)
    _check_validation(config, search, data)
    make_plan(config, search)  # To see at once that its calls come out even.
    told = [opened.about, strategy.limits.describe()]
    return search, data, "\n".join(filter(None, told))


def make_limits(config: ConfigDict, costs: Costs) -> Limits:
    """The limits of ``config.limits``, if there are any.

    Args:
      config: Of one arm.
      costs: What children cost.

    Raises:
      ConfigError: If a limit is wrong, or no child is within the limits.
    """
    if "limits" not in config:
        return NO_LIMITS
    settings = build(LimitSettings, config, "limits")
    if not settings.most:
        return NO_LIMITS
    with naming("limits"):
        return find_limits(costs, settings)


def _build_offered(known, config, path, offer, **fields):
    """A part that takes of an offer what it has fields for."""
    fields |= offered(find_class(known, config, f"{path}.name"), **offer)
    return build_chosen(known, config, path, **fields)


def _check_limited(config: ConfigDict, strategy: Strategy, limits: Limits) -> None:
    if limits.most and not strategy.limits.most:
        name = f"limits.{limits.most[0][0]}"
        expected = (
            f"None, as the strategy {config.strategy.name!r} keeps no limits: it has "
            "no field of that name"
        )
        raise wrong(name, limits.most[0][1], expected)


def search_settings(config: ConfigDict) -> SearchSettings:
    """How long a search is; a ConfigError names a setting that is wrong."""
    return build(SearchSettings, config, "search")


def make_plan(config: ConfigDict, search: Search) -> Plan:
    """The calls of the search that a configuration describes."""
    settings = search_settings(config)
    with naming("search"):
        return Plan(search, settings.epochs, settings.learn_per_call)
