"""Tasks of a configuration: their data, their spaces, the devices that divide them."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from wpl_jax.devices import choice
from wpl_jax.devices.parallel import Devices
from wpl_jax.jobs.build import build_chosen, check_inherits, find_class, section_of
from wpl_jax.jobs.config_fields import get_field, naming, naming_option
from wpl_jax.spaces import SPACES
from wpl_jax.supernet import Space
from wpl_jax.tasks import TASKS, Data, DataCache, Task, rows_setting
from wpl_jax.tasks.predictor import Predictor

# Fields in errors of tasks and optimizers that the section of the search has.
OF_SEARCH = {"children_per_step": "search"}


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
    fields = dataclasses.fields(find_class(SPACES, config, "space.name"))
    taken = {f.name: sizes[f.name] for f in fields if f.name in sizes}
    space = build_chosen(SPACES, config, "space", **taken)
    check_inherits(space, Space)
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
    with naming(section_of(config, "task"), elsewhere=OF_SEARCH):
        rows = task.rows_per_batch
        return choice.choose(count, rows, children_per_step, rows_setting(task))
