"""The training from scratch that a configuration describes."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from wpl_jax.common.settings import MOST_INT, check_number
from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.engine.plan import COUNTED
from wpl_jax.errors import on_command_line
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.jobs.build import build, build_chosen
from wpl_jax.jobs.config_fields import (
    changes_of,
    fields_of,
    get_field,
    with_changes,
    wrong,
)
from wpl_jax.jobs.open_task import choose_devices, open_task
from wpl_jax.tasks import Data, DataCache
from wpl_jax.tasks.predictor import Predictor

# What config.retrain holds beside the fields of a Retraining.
_OF_RETRAINING = (
    *("architecture", "baselines", "checkpoint_seconds", "optimizer", "space", "task"),
    "start_from",
)


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


@on_command_line()
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
