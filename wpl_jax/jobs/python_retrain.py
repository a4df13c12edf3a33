"""A training from scratch from Python: :func:`wpl_jax.retrain`."""

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.common.paths import optional_path
from wpl_jax.common.plain import text_of
from wpl_jax.common.settings import MOST_INT, SettingError
from wpl_jax.devices.choice import check as check_devices
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.devices.program_memory import forget_programs
from wpl_jax.engine.optimizers import Optimizer
from wpl_jax.engine.plan import COUNTED
from wpl_jax.errors import UserError
from wpl_jax.evaluation import retrain as from_scratch
from wpl_jax.evaluation.retrained import Kept
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.jobs.python import check_arguments, check_sizes, own_if_none, start_of
from wpl_jax.models.files import MODEL_FILE, keep_in
from wpl_jax.models.model import Model
from wpl_jax.runs import fingerprint
from wpl_jax.runs.loggers import find_loggers
from wpl_jax.runs.machine import Machine, Requests
from wpl_jax.runs.run_directory import claim_data, open_run
from wpl_jax.runs.stopping import StopRequest
from wpl_jax.supernet import Space
from wpl_jax.tasks import Task, rows_setting

_TITLE = "Retraining"


def retrain(
    task: Task,
    architecture: Any,
    dataset: Any = None,
    *,
    optimizer: Optimizer,
    epochs: int,
    patience: int | None = None,
    seed: int = 0,
    workdir: str | Path | None = None,
    start_from: str | Path | None = None,
    checkpoint_seconds: float = 60.0,
    devices: Devices = ONE_DEVICE,
    loggers: Sequence[Any] = (),
) -> Model:
    """Trains one architecture from scratch, and returns the model.

    Args:
      task: With its space, which may be larger than that of the search, with the same
        decisions.
      architecture: As :func:`wpl_jax.run` returns it: ``Found.architecture``,
        ``int32[num_decisions]``, or ``Found.choices``, by the names of the decisions.
      dataset: Of the task; None for the data of a task that has its own.
      optimizer: How weights are trained.
      epochs: Passes over the training data.
      patience: Epochs without improvement, after which weights are averaged; None for
        never.
      seed: Of all randomness, from 0 to 2**32 - 1.
      workdir: Folder for checkpoints, metrics and the file of the model, from which the
        same call resumes, and which :func:`wpl_jax.load` reads. None to keep nothing.
      start_from: Folder of a search or of another training, whose weights this one
        starts with, as far as they fit. None to train from scratch.
      checkpoint_seconds: Between two checkpoints.
      devices: Among which each batch is divided.
      loggers: Of metrics, beside TensorBoard: names such as ``"wandb"``, or functions;
        see :mod:`wpl_jax.runs.loggers`.

    Returns:
      The model with the lowest validation error.

    Raises:
      UserError: If an argument or the data is wrong, before anything is compiled; or
        if training diverges.
      SystemExit: With a workdir, after a signal, once all is saved.
    """
    retraining = Retraining(task, optimizer, epochs, patience, devices)
    if not hasattr(task, "predictor"):
        raise UserError(
            f"{type(task).__name__} has no method predictor, which says how a model "
            "prepares its inputs: see wpl_jax.tasks.predictor."
        )
    check_arguments(seed, checkpoint_seconds)
    given = optional_path(workdir, "workdir", "the path of a folder")
    named = find_loggers(loggers)
    choice = _choice_of(task.space, architecture)
    dataset = own_if_none(task, dataset)
    task.check(dataset)
    check_sizes(task, dataset)
    rows = task.rows_per_batch
    check_devices(devices, rows, rows_setting=rows_setting(task))
    data = task.put(dataset, devices)
    if epochs > MOST_INT // task.num_batches(data, "train"):
        raise SettingError("epochs", epochs, f"fewer: {COUNTED}")
    predictor = task.predictor(dataset, data)
    models: list[Model] = []
    text = text_of(retraining)
    about = {"retraining": text, "choice": choice.tolist(), "seed": seed}
    with contextlib.ExitStack() as stack:
        if given is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = given
        start = start_of(task, dataset, data, start_from, folder)
        start.check()
        forget_programs()
        about |= start.about()
        write = keep_in(folder, task.space, predictor) if given is not None else None

        def keep(kept: Kept) -> None:
            path = None if write is None else (folder / MODEL_FILE).absolute()
            model = Model(task.space, kept.choice, predictor, *kept[1:], path=path)
            models.append(model)
            if write is not None:
                write(kept)

        stack.enter_context(open_run(folder, about))
        # Without a folder nothing could resume: Ctrl-C is a KeyboardInterrupt.
        requests = Requests(StopRequest(), None, named)
        if given is not None:
            requests = stack.enter_context(Machine(loggers=named).requests())
        claim_data(folder, fingerprint.of_each({_TITLE: data}))
        start.keep_words()
        from_scratch.run(
            retraining,
            data,
            choice,
            seed,
            folder,
            _TITLE,
            requests,
            checkpoint_seconds,
            keep=keep,
            start_from=start.function(_TITLE),
        )
    return models[0]


def _choice_of(space: Space, given: Any) -> np.ndarray:
    """The index of each decision's choice, ``int32[num_decisions]``."""
    names = [decision.name for decision in space.decisions]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise UserError(
                f"architecture has the decisions {sorted(given)}, expected {names}, "
                "those of the space."
            )
        choices = []
        for name, options in ((d.name, d.choices) for d in space.decisions):
            if given[name] not in options:
                raise UserError(
                    f"architecture has {given[name]!r} as {name}, expected one of "
                    f"{list(options)}."
                )
            choices.append(options.index(given[name]))
        return np.asarray(choices, np.int32)
    found = np.asarray(given)
    most = np.array([len(decision.choices) for decision in space.decisions])
    fits = found.shape == most.shape and np.issubdtype(found.dtype, np.integer)
    if not fits or np.any(found < 0) or np.any(found >= most):
        raise UserError(
            f"architecture is {given!r}, expected the index of a choice for each of "
            f"{names}, as Found.architecture of wpl_jax.run, or its Found.choices."
        )
    return found.astype(np.int32)
