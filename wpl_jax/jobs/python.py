"""A search from Python, in a script or a notebook: :func:`wpl_jax.run`."""

import functools
import inspect
import json
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.paths import optional_path
from wpl_jax.common.plain import text_of
from wpl_jax.common.settings import MOST_SEED, check_int, check_number
from wpl_jax.devices.choice import check as check_devices
from wpl_jax.devices.program_memory import forget_programs
from wpl_jax.engine.plan import (
    Plan,
    check_train_batches,
    excess_of,
    most_epochs,
)
from wpl_jax.errors import UserError, shorten
from wpl_jax.jobs.search_loop import Job, advance_all, first_state, resumable
from wpl_jax.jobs.start_from import Start, labels_of
from wpl_jax.runs import fingerprint
from wpl_jax.runs.in_memory import InMemory
from wpl_jax.runs.loggers import find_loggers
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.monitor import METRICS_FILE, whole_records
from wpl_jax.runs.run_directory import claim_data, open_run
from wpl_jax.search import Search
from wpl_jax.spaces.architecture_json import names_of_choices
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks import Data, Task, rows_setting

_TITLE = "Search"


class Found(NamedTuple):
    """What a search has found.

    Attributes:
      architecture: The choice of the best architecture, ``int32[num_decisions]``.
      choices: The same in words, by the names of the decisions.
      loss: Its loss on the validation data that it was selected on, with the shared
        weights.
      error: Its error on the same; ``search.task.error_name`` says which.
      metrics: One dict an epoch; None for what is not finite.
      predict: The model with the shared weights: a function of a batch of inputs, as
        the task's data has them, to log-probabilities, ``float32[..., classes]``; of a
        task without classes, to what the network returns.
    """

    architecture: np.ndarray
    choices: dict[str, str]
    loss: float
    error: float
    metrics: list[dict[str, Any]]
    predict: Callable[[Any], jax.Array]


def run(
    search: Search,
    dataset: Any = None,
    *,
    epochs: int,
    seed: int = 0,
    workdir: str | Path | None = None,
    start_from: str | Path | None = None,
    learn_per_call: int | None = None,
    max_bad_steps: int = 10,
    checkpoint_seconds: float = 60.0,
    loggers: Sequence[Any] = (),
) -> Found:
    """Searches, and returns the best architecture and a model that predicts.

    The same search from a configuration, with the same seed, gives the same metrics
    and the same architecture.

    Args:
      search: What is searched, and how.
      dataset: Of the search's task, as :func:`wpl_jax.data.load_images`,
        :func:`wpl_jax.data.images_of_arrays` or :func:`wpl_jax.data.load_text` return
        it. None for the data of a task that has its own, such as :func:`wpl_jax.task`.
      epochs: How many, at least 1.
      seed: Of all randomness, from 0 to 2**32 - 1.
      workdir: Folder for checkpoints and metrics, in which the same call goes on where
        an earlier one was interrupted; None to keep all in memory.
      start_from: Folder of another search or training, whose weights this one starts
        with, as far as they fit. None to start from initial weights.
      learn_per_call: Steps of the strategy in a call; divides its steps. None for all.
      max_bad_steps: Steps in a row that are not finite, after which the search goes
        back to the start of the epoch.
      checkpoint_seconds: Between two checkpoints.
      loggers: Of metrics, beside TensorBoard: names such as ``"wandb"``, or functions;
        see :mod:`wpl_jax.runs.loggers`.

    Raises:
      UserError: If an argument or the data is wrong, or the folder is that of another
        search, before anything is compiled; or if training diverges.
      SystemExit: With a workdir, after a signal, once all is saved.
    """
    if not isinstance(search, Search):
        raise UserError(
            f"search is {shorten(search)}, expected a wpl_jax.search.Search."
        )
    most = most_epochs(search.children, search.batches)
    check_arguments(seed, checkpoint_seconds)
    arguments = types.SimpleNamespace(
        epochs=epochs, learn_per_call=learn_per_call, max_bad_steps=max_bad_steps
    )
    check_int(arguments, "epochs", 1, most=most)
    check_int(arguments, "learn_per_call", 1, optional=True)
    check_int(arguments, "max_bad_steps", 1)
    folder = optional_path(workdir, "workdir", "the path of a folder")
    plan, named = Plan(search, epochs, learn_per_call), find_loggers(loggers)
    dataset = own_if_none(search.task, dataset)
    search.task.check(dataset)
    check_sizes(search.task, dataset)
    check_devices(
        search.devices,
        search.task.rows_per_batch,
        search.children_per_step,
        rows_setting(search.task),
    )
    data = search.task.put(dataset, search.devices)
    check_train_batches(search, data)
    _check_validation(search, data)
    guess = search.task.guess(data)
    start = start_of(search.task, dataset, data, start_from, folder)
    start.check()
    forget_programs()

    def advance(job: Job) -> None:
        advance_all(job, search, plan, data, guess, _TITLE, max_bad_steps)

    if folder is None:
        with InMemory(
            total=len(plan),
            start=lambda: first_state(search, seed, start.function(_TITLE)),
            record_of=lambda done: plan[min(done, len(plan) - 1)].epoch,
            title=_TITLE,
            landmark=plan.begins_epoch,
            place=search.devices.replicate,
            loggers=named,
        ) as in_memory:
            advance(in_memory)
        return _found(search, data, in_memory.state, in_memory.records)
    about = {"search": text_of(search), "epochs": epochs, "seed": seed}
    about |= start.about()
    found = fingerprint.of_each({_TITLE: data})
    with open_run(folder, about), Machine(loggers=named).requests() as requests:
        claim_data(folder, found)
        start.keep_words()
        with resumable(
            *(search, plan, seed, folder, _TITLE, requests, checkpoint_seconds),
            start_from=start.function(_TITLE),
        ) as job:
            advance(job)
            state = job.state
    lines = whole_records(folder / METRICS_FILE)
    return _found(search, data, state, [_without_step(line) for line in lines])


def check_arguments(seed: int, checkpoint_seconds: float) -> None:
    """Checks the arguments that a search and a training in Python have in common.

    Raises:
      SettingError: About one of them.
    """
    arguments = types.SimpleNamespace(seed=seed, checkpoint_seconds=checkpoint_seconds)
    check_int(arguments, "seed", 0, most=MOST_SEED)
    check_number(arguments, "checkpoint_seconds", least=0)


def start_of(
    task: Task,
    dataset: Any,
    data: Any,
    path: str | Path | None,
    folder: Path | None,
) -> Start:
    """What a search or a training in Python starts from.

    Args:
      task: Of the search or the training.
      dataset: Of the task.
      data: The same on the devices.
      path: Of the source; None to start from initial weights.
      folder: Of the search or the training; None if it writes no files.

    Raises:
      UserError: If the path is no text.
    """
    expected = "the folder of a search or of a training"
    optional_path(path, "start_from", expected)
    words = None
    if task.space.word_rows and hasattr(task, "predictor"):
        words = labels_of(task.space, task.predictor(dataset, data))
    source = None if path is None else str(path)
    return Start("start_from", source, None, task.space, words, folder)


def own_if_none(task: Task, dataset: Any) -> Any:
    """The data set, or that of the task."""
    if dataset is not None:
        return dataset
    if inspect.signature(task.open).parameters:
        raise UserError(
            f"{type(task).__name__} has no data of its own: pass a dataset, such as "
            "wpl_jax.data.load_images(...), beside the search."
        )
    return task.open()


def check_sizes(task: Task, dataset: Any) -> None:
    """Checks that a space has the sizes that follow from the data.

    A configuration makes its space with them; in Python the caller does. Numbers of
    classes or words beyond those of the space would not raise an error later: JAX
    takes others in their place.

    Args:
      task: With its space.
      dataset: Of the task.

    Raises:
      UserError: Naming the field of the space.
    """
    free = getattr(task, "free_sizes", ())
    for name, size in task.space_sizes(dataset).items():
        own = size if name in free else getattr(task.space, name, size)
        if not np.array_equal(own, size):
            raise UserError(
                f"The space {task.space.name} has {name}={shorten(own)}, expected "
                f"{shorten(size)}, as the data has it. Make the space with "
                f"{name}={shorten(size)}."
            )


def _check_validation(search: Search, data: Data) -> None:
    """Checks that no setting has more batches than the validation data."""
    excess = excess_of(search, data)
    if excess.numbers:
        found = " and ".join(f"{name} is {n}" for name, n in excess.numbers.items())
        raise UserError(f"{found}, expected {excess.expected}.")


def _without_step(line: bytes) -> dict[str, Any]:
    """A record as it was made."""
    return {k: v for k, v in json.loads(line).items() if k != "step"}


def _found(
    search: Search, data: Data, state: Any, records: list[dict[str, Any]]
) -> Found:
    choice, loss, error, _ = state.selection.best(search.strategy.candidates)
    architecture = Architecture(jnp.asarray(choice))
    task = search.task

    @jax.jit  # A checkpoint has numpy's arrays.
    def child_of(params: Any) -> Any:
        return gather(params, task.space.rows(architecture))

    # What it closes over would be literals of the program, anew for each input shape.
    @jax.jit
    def predict(child: Any, data: Data, inputs: Any) -> jax.Array:
        return task.predict(child, architecture, data, inputs)

    choices = names_of_choices(task.space, choice)
    of_inputs = functools.partial(predict, child_of(search.weights(state)), data)
    return Found(choice, choices, loss, error, records, of_inputs)
