"""Tasks, a module each."""

from collections.abc import Callable

from ml_collections import ConfigDict

from wpl_jax.common.config_fields import require_choice
from wpl_jax.devices.parallel import ONE, Devices
from wpl_jax.tasks import image_classification, language_model
from wpl_jax.tasks.data_cache import Shelf
from wpl_jax.tasks.task import Data, Evaluation, Task, ranking

__all__ = [
    "TASKS",
    "Data",
    "Evaluation",
    "Shelf",
    "Task",
    "load_task",
    "open_task",
    "ranking",
]

# The task, a function that puts its data on the devices, and a line about the data.
Opened = tuple[Task, Callable[[], Data], str]

# By name: functions of the configuration, of the devices to put the data on, and of a
# shelf where the data may be already. They check ``config.task``.
TASKS: dict[str, Callable[[ConfigDict, Devices, Shelf], Opened]] = {
    "image_classification": image_classification.open_task,
    "language_model": language_model.open_task,
}


# By the same names: functions of the configuration, which return the fields below
# ``config.task`` that a task does not read, and why. Tasks that read all are not here.
UNREAD: dict[str, Callable[[ConfigDict], dict[str, str]]] = {
    "image_classification": image_classification.unread,
}


def unread(config: ConfigDict) -> dict[str, str]:
    """Settings under ``config.task`` that the task does not read, and why."""
    require_choice(config, "task.name", TASKS)
    name = config.task.name
    return UNREAD[name](config) if name in UNREAD else {}


def open_task(
    config: ConfigDict, devices: Devices = ONE, shelf: Shelf | None = None
) -> Opened:
    """As :func:`load_task`, with a function that loads the data in its place."""
    require_choice(config, "task.name", TASKS)
    return TASKS[config.task.name](config, devices, shelf or Shelf())


def load_task(
    config: ConfigDict, devices: Devices = ONE, shelf: Shelf | None = None
) -> tuple[Task, Data, str]:
    """The task that ``config.task.name`` names, its data, and a line about it.

    Args:
      config: The configuration.
      devices: On which the data is put.
      shelf: What has been loaded before; None for nothing.

    Raises:
      UserError: If there is none, or its settings or data are wrong.
    """
    task, load, about = open_task(config, devices, shelf)
    return task, load(), about
