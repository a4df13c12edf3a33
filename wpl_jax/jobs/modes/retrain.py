"""``--mode=retrain`` and ``evaluate``: one given architecture, from scratch."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from wpl_jax.common.paths import as_path
from wpl_jax.devices import processes
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import retrain
from wpl_jax.evaluation.retrained import RETRAINED_FILE
from wpl_jax.jobs import memory
from wpl_jax.jobs.arms import RETRAINING, check_devices
from wpl_jax.jobs.config_fields import check_seed, get_field
from wpl_jax.jobs.results import on_all, read_architecture
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.jobs.start_from import Start, labels_of, path_of
from wpl_jax.models.files import keep_in
from wpl_jax.runs import fingerprint
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import claim_data, open_run
from wpl_jax.supernet import Space

_RANDOM = "random"


def retrain_file(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Trains the architecture of ``config.retrain.architecture`` from scratch.

    It is a file that a search wrote, ``"random"`` for a random child of the seed, or a
    text in the notation of the space, such as the name of a published cell.
    """
    check_seed(config)
    retraining, data, predictor = make_retraining(config, num_devices=machine.devices)
    check_devices([memory.of_retraining(retraining, data)], machine)
    space = retraining.task.space
    given = get_field(config, "retrain.architecture")
    read = functools.partial(_read, space, config.seed)
    architecture = on_all(read, given, space)
    data_now = fingerprint.of_each({RETRAINING: data})
    folder, field = workdir / "retrain", "retrain.start_from"
    words = labels_of(space, predictor)
    path = path_of(config, field)
    start = Start(f"config.{field}", path, None, space, words, folder)
    start.check()
    with open_run(workdir, config.to_dict()), machine.requests() as requests:
        claim_data(workdir, data_now)
        start.keep_words()
        retrain.run(
            retraining,
            data,
            architecture,
            config.seed,
            folder,
            "Retrain",
            requests,
            config.retrain.checkpoint_seconds,
            keep=keep_in(folder, space, predictor),
            start_from=start.function("Retrain"),
        )


def _read(space: Space, seed: int, given: Any) -> np.ndarray:
    """The choice of a file, of a text in the notation of the space, or a random one."""
    text = given if isinstance(given, str) else ""
    if text == _RANDOM:
        return np.asarray(space.sample(jax.random.key(seed)))
    if _is_file(text):
        remedy = "Give a file that a search of this space wrote."
        path = as_path(text, "config.retrain.architecture")
        return read_architecture(path, space, remedy)
    if not space.decisions:
        return np.zeros(0, np.int32)
    try:
        return space.from_notation(text)
    except UserError as error:
        raise ConfigError(
            f"config.retrain.architecture is {given!r}, expected the file of an "
            f"architecture, as a search writes it, or {_RANDOM!r}. {error} Pass "
            "--config.retrain.architecture=FOLDER/architecture.json."
        ) from error


def _is_file(text: str) -> bool:
    try:
        return Path(text).expanduser().is_file()
    except (OSError, RuntimeError):  # Too long for a path, as a genotype is, or of ~.
        return False


def evaluate_file(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Evaluates what ``retrain`` has left on validation and test data."""
    path = workdir / "retrain" / RETRAINED_FILE
    if processes.is_primary() and not path.exists():
        raise UserError(
            f"There is no {path}: nothing has been trained to its end there. Run with "
            "--mode=retrain first."
        )
    retrain_file(config, workdir, machine)
