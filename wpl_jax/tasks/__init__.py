"""Tasks, a module each."""

from collections.abc import Callable

from ml_collections import ConfigDict

from wpl_jax.config_fields import require_choice
from wpl_jax.parallel import ONE, Devices
from wpl_jax.tasks import image_classification, language_model
from wpl_jax.tasks.task import Data, Evaluation, Task, ranking

__all__ = ["TASKS", "Data", "Evaluation", "Task", "load_task", "ranking"]

# By name: functions of the configuration and of the devices that may divide the data.
# They check ``config.task``, load the data and return the task, its data as arrays, and
# a line about the data for people.
TASKS: dict[str, Callable[[ConfigDict, Devices], tuple[Task, Data, str]]] = {
    "image_classification": image_classification.load,
    "language_model": language_model.load,
}


def load_task(config: ConfigDict, devices: Devices = ONE) -> tuple[Task, Data, str]:
    """The task that ``config.task.name`` names, its data, and a line about it.

    Args:
      config: The configuration.
      devices: That will work with the data; what they do not divide of it is still to
        be replicated.

    Raises:
      UserError: If there is none, or its settings or data are wrong.
    """
    require_choice(config, "task.name", TASKS)
    return TASKS[config.task.name](config, devices)
