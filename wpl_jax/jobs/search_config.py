"""From a configuration to searches: which are to be run, and of what they are made."""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from wpl_jax.common.counted import counted
from wpl_jax.common.settings import (
    MOST_INT,
    MOST_SEED,
    SettingError,
    check_choice,
    check_int,
    check_number,
)
from wpl_jax.devices import choice
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.optimizers import OPTIMIZERS, Optimizer
from wpl_jax.engine.plan import COUNTED, Plan, SearchSettings
from wpl_jax.errors import UserError
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.jobs.build import (
    build,
    build_chosen,
    check_sections,
    find_class,
    offered,
    section_of,
)
from wpl_jax.jobs.config_fields import (
    Field,
    FieldError,
    changes_of,
    check_seed,
    fields_of,
    get_field,
    naming,
    naming_option,
    require_names,
    require_settings,
    with_changes,
    wrong,
)
from wpl_jax.protections import PENALTIES, Protection
from wpl_jax.reports.searched import search_folder, search_name
from wpl_jax.runs.share import Share
from wpl_jax.search import Search
from wpl_jax.spaces import SPACES
from wpl_jax.spaces.costs import Costs, Latency
from wpl_jax.strategies import STRATEGIES, Strategy
from wpl_jax.strategies.limits import NO_LIMITS, Limits, LimitSettings
from wpl_jax.strategies.limits import find as find_limits
from wpl_jax.strategies.rewards import REWARDS, Reward
from wpl_jax.supernet import Space
from wpl_jax.tasks import TASKS, Data, DataCache, Task
from wpl_jax.tasks.predictor import Predictor

_MOST_SEEDS = 10_000  # of a configuration: each has a folder
# What config.retrain holds beside the fields of a Retraining.
_OF_RETRAINING = (
    *("architecture", "baselines", "checkpoint_seconds", "optimizer", "space", "task"),
    "start_from",
)


# Sections of a configuration in which a part is chosen by name.
_CHOSEN: dict[str, Mapping[str, Any]] = {
    "penalty": PENALTIES,
    "strategy": STRATEGIES,
    "reward": REWARDS,
    "optimizer": OPTIMIZERS,
    "retrain.optimizer": OPTIMIZERS,
    "space": SPACES,
    "task": TASKS,
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
    for path, known in _CHOSEN.items():
        variants = [config, *changed.values()]
        names = [get_field(variant, f"{path}.name") for variant in variants]
        if all(name in known for name in names):  # Else building the part says so.
            check_sections(known, variants, path, ("data",) if path == "task" else ())
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


class OpenedTask(NamedTuple):
    """A task whose data has been opened, and not been put on devices."""

    task: Task
    about: str  # a line about the data
    put: Callable[[Devices], Data]
    predictor: Callable[[Data], Predictor] | None  # None of a task that has none


def open_task(config: ConfigDict, cache: DataCache | None = None) -> OpenedTask:
    """Builds the task that ``config.task.name`` names, with its space, for its data.

    Args:
      config: The configuration; ``config.task.data`` has the options of the data.
      cache: What has been loaded before; None for nothing.

    Raises:
      UserError: If there is no such task, or its settings or data are wrong.
    """
    cache = DataCache() if cache is None else cache
    cls = find_class(TASKS, config, "task.name")
    options = {}
    if inspect.signature(cls.open).parameters:
        get_field(config, "task.data.format")
        options = config.task.data.to_dict()
    settings = build_chosen(TASKS, config, "task", also=("data",), space=None)
    source = {"task": config.task.name, "data": options}
    with naming_option("task.data", options):
        dataset = cache.get(source, lambda: cls.open(**options))
    with naming(section_of(config, "task")):
        settings.check(dataset)
    sizes = settings.space_sizes(dataset)
    fields = getattr(
        find_class(SPACES, config, "space.name"), "__dataclass_fields__", sizes
    )
    taken = {name: size for name, size in sizes.items() if name in fields}
    space = build_chosen(SPACES, config, "space", **taken)
    _check_inherits(space, Space)
    task = dataclasses.replace(settings, space=space)
    layout = {name: getattr(task, name) for name in task.data_fields}

    def put(devices: Devices) -> Data:
        key = {**source, **layout, "on": devices.count}
        return cache.get(key, lambda: task.put(dataset, devices))

    predictor = None
    if hasattr(task, "predictor"):
        predictor = functools.partial(task.predictor, dataset)
    return OpenedTask(task, task.describe(dataset), put, predictor)


def choose_devices(
    config: ConfigDict, task: Task, count: int | None, children_per_step: int = 1
) -> Devices:
    """The devices of a search or a training on a task.

    Args:
      config: For the names of its fields in errors.
      task: Whose batches the devices divide.
      count: Number of devices; None for as many as divide the work equally.
      children_per_step: Children that are trained together.

    Raises:
      UserError: If the devices cannot divide its batches, or its children, equally.
    """
    try:
        return choice.choose(count, task.rows_per_batch, children_per_step)
    except SettingError as error:
        of_search = error.name == "children_per_step"
        with naming("search" if of_search else section_of(config, "task")):
            raise


def _check_validation(numbers: dict[str, int], available: int) -> None:
    """Checks that no field has more batches than the validation data.

    All of them are named together: with less data, most configurations have several.

    Args:
      numbers: Of batches, by the field; a default may be one, too.
      available: Batches of the validation data.
    """
    found: list[str | Field] = []
    flags: list[str | Field] = []
    for field, number in numbers.items():
        if number > available:
            found += [" and " if found else "", Field(field), f" is {number}"]
            flags += [" --", Field(field), f"={available}"]
    if found:
        expected = f"at most {available}, the batches of the validation data"
        said = f", expected {expected}. Mend the config file, or pass"
        raise FieldError(*found, said, *flags, ".")


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
    _check_inherits(strategy, Strategy)
    _check_inherits(protection, Protection)
    _check_inherits(reward, Reward)
    _check_inherits(optimizer, Optimizer)
    try:
        optimizer.check_children(task.space, settings.children_per_step)
    except SettingError as error:
        of_search = error.name == "children_per_step"
        with naming("search" if of_search else section_of(config, "optimizer")):
            raise
    data = opened.put(devices)
    batches = task.num_batches(data, "train")
    if settings.children_per_step > batches:
        expected = f"at most {batches}, the batches of the training data"
        raise wrong("search.children_per_step", settings.children_per_step, expected)
    candidates = f"{section_of(config, 'strategy')}.candidates"
    _check_validation(
        {
            "search.eval_batches": settings.eval_batches,
            f"{candidates}.screen_batches": strategy.candidates.screen_batches,
            f"{candidates}.judge_batches": strategy.candidates.judge_batches or 0,
        },
        task.num_batches(data, "valid"),
    )
    with naming("search"):
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


def _check_inherits(part: Any, base: type) -> None:
    if base not in type(part).__mro__:
        raise UserError(
            f"{type(part).__name__} does not inherit from {base.__module__}."
            f"{base.__name__}, which has the methods that it may leave out."
        )


def search_settings(config: ConfigDict) -> SearchSettings:
    """How long a search is; a ConfigError names a setting that is wrong."""
    return build(SearchSettings, config, "search")


def make_plan(config: ConfigDict, search: Search) -> Plan:
    """The calls of the search that a configuration describes."""
    settings = search_settings(config)
    with naming("search"):
        return Plan(search, settings.epochs, settings.learn_per_call)


def config_for_task(config: ConfigDict) -> ConfigDict:
    """The configuration with the space and task of the retraining."""
    return with_changes(
        config,
        _changes(config),
        "config.retrain.space or config.retrain.task",
        "config.space or config.task",
    )


def _changes(config: ConfigDict) -> dict[str, Any]:
    """What ``config.retrain`` changes of other parts of the configuration."""
    return {part: get_field(config, f"retrain.{part}") for part in ("space", "task")}


class Prepared(NamedTuple):
    """A training from scratch, before its first step."""

    retraining: Retraining
    data: Data
    predictor: Predictor | None  # None if the task does not say how a model is used


def make_retraining(
    config: ConfigDict, cache: DataCache | None = None, num_devices: int | None = 1
) -> Prepared:
    """The training that ``config.retrain`` describes, and its data.

    Args:
      config: With ``config.retrain``.
      cache: What has been loaded before; None for nothing.
      num_devices: Number of devices; None for as many as divide the work equally.

    Raises:
      UserError: If a setting or the data is wrong.
    """
    with fields_of(config) as fields:
        check_number(fields, "retrain.checkpoint_seconds", least=0)
    optimizer = build_chosen(OPTIMIZERS, config, "retrain.optimizer")
    changed = config_for_task(config)
    with changes_of("retrain", _changes(config)):
        opened = open_task(changed, cache)
        devices = choose_devices(changed, opened.task, num_devices)
        data = opened.put(devices)
    given = {"task": opened.task, "optimizer": optimizer, "devices": devices}
    retraining = build(Retraining, config, "retrain", also=_OF_RETRAINING, **given)
    most = MOST_INT // opened.task.num_batches(data, "train")
    if retraining.epochs > most:
        raise wrong("retrain.epochs", retraining.epochs, f"at most {most}: {COUNTED}")
    predictor = opened.predictor and opened.predictor(data)
    return Prepared(retraining, data, predictor)
