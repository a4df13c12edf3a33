"""``--mode=retrain`` and ``evaluate``: one architecture of a file, from scratch."""

import functools
from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import retrain
from wpl_jax.jobs import memory
from wpl_jax.jobs.arms import RETRAINING, check_devices
from wpl_jax.jobs.config_fields import check_seed, get_field
from wpl_jax.jobs.results import on_all, read_architecture
from wpl_jax.jobs.search_config import make_retraining
from wpl_jax.models.files import keep_in
from wpl_jax.runs import fingerprint
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import claim_data, open_run


def retrain_file(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Trains the architecture of ``config.retrain.architecture`` from scratch."""
    check_seed(config)
    found = get_field(config, "retrain.architecture")
    path = Path(found if isinstance(found, str) else "")
    if processes.is_primary() and not path.is_file():
        raise ConfigError(
            f"config.retrain.architecture is {found!r}, expected the file of an "
            "architecture, as a search writes it. Pass "
            "--config.retrain.architecture=FOLDER/architecture.json."
        )
    retraining, data, predictor = make_retraining(config, num_devices=machine.devices)
    check_devices([memory.of_retraining(retraining, data)], machine)
    space = retraining.task.space
    remedy = "Give a file that a search of this space wrote."
    read = functools.partial(read_architecture, space=space, remedy=remedy)
    architecture = on_all(read, path, space)
    data_now = fingerprint.of_each({RETRAINING: data})
    with open_run(workdir, config.to_dict()), machine.requests() as requests:
        claim_data(workdir, data_now)
        folder = workdir / "retrain"
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
        )


def evaluate_file(
    config: ConfigDict, workdir: Path, machine: Machine = Machine()
) -> None:
    """Evaluates what ``retrain`` has left on validation and test data."""
    path = workdir / "retrain" / retrain.RETRAINED_FILE
    if processes.is_primary() and not path.exists():
        raise UserError(
            f"There is no {path}: nothing has been trained to its end there. Run with "
            "--mode=retrain first."
        )
    retrain_file(config, workdir, machine)
