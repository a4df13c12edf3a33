"""What a finished training from scratch leaves: its errors, and its best parameters."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from wpl_jax.errors import UserError, for_caller, option
from wpl_jax.evaluation.retraining import Retraining, State
from wpl_jax.runs.run_files import NUMBER, finite, read_json, to_json, write_atomically
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Data
from wpl_jax.tasks.guessing import Guess, Model, check_guess, print_remark

RETRAINED_FILE = "retrained.json"
_TOLD = {"valid": "validation"}


class Kept(NamedTuple):
    """What a finished training keeps, on the host."""

    choice: np.ndarray  # int32[num_decisions]
    params: Any  # those of the lowest validation error
    statistics: Any  # batch statistics of the training data, None without any
    metrics: dict[str, Any]


def read_retrained(
    path: Path, splits: Sequence[str] = ("valid", "test")
) -> dict[str, Any]:
    """What a training from scratch has left in ``retrained.json``.

    Args:
      path: The file.
      splits: On which it was evaluated.

    Raises:
      UserError: If it is not what a training writes.
    """
    fields = {"parameters": NUMBER, **{f"{split}_error": NUMBER for split in splits}}
    remedy = "Delete it and run again: it is made anew from the checkpoint."
    found = read_json(path, fields, remedy)
    check_guess(found, path, remedy)
    return found


def remedy() -> str:
    """What to change where a training is no better than guessing."""
    return for_caller(
        "Lower the learning rate (config.retrain.optimizer), or raise "
        "config.retrain.epochs.",
        "Lower the learning rate of the optimizer, or raise epochs.",
    )


def diverged(folder: Path, title: str, how: str) -> UserError:
    """The error of a training that leaves nothing.

    Args:
      folder: Of the training.
      title: What it is called in what is printed.
      how: By what it is known.
    """
    # In Python the folder may be a temporary one.
    where = for_caller(str(folder), title)
    advice = for_caller(
        "(config.retrain.optimizer), and give another --workdir.",
        "of the optimizer, and give another workdir if there was one.",
    )
    return UserError(
        f"{where}: training from scratch diverged, {how}. Lower the learning rate or "
        f"clip_norm {advice}"
    )


def finish(
    retraining: Retraining,
    state: State,
    data: Data,
    guess: Guess,
    folder: Path,
    title: str,
    splits: Sequence[str],
    keep: Callable[[Kept], None] | None,
) -> dict[str, Any]:
    """Evaluates the best parameters, and writes ``retrained.json``.

    Args:
      retraining: The training.
      state: After its last step.
      data: Of its task.
      guess: What a model without inputs is worth.
      folder: Of the training.
      title: What it is called in what is printed.
      splits: On which the best parameters are evaluated.
      keep: Receives the best parameters before the file is written; None to leave them
        in the checkpoint alone.

    Returns:
      What the file holds.

    Raises:
      UserError: If the training diverged.
    """
    task = retraining.task
    space, architecture = task.space, Architecture(state.choice)
    found: dict[str, Any] = {
        "architecture": np.asarray(state.choice).tolist(),
        "error_name": task.error_name,
        "parameters": int(space.costs(architecture)["parameters"]),
        "averaged_steps": int(state.averaged),
    }
    found |= guess.described()
    told = []
    for split in splits:
        evaluation = retraining.evaluate(state, data, split)
        loss, error = (float(each) for each in evaluation)
        if not np.isfinite(loss) or not np.isfinite(state.lowest.loss):
            raise diverged(folder, title, f"a loss of {loss} on {split} data")
        if not np.isfinite(error):
            raise UserError(
                f"{folder}: the loss on {split} data is {loss:.4g}, but "
                f"{task.error_name} is {error}, by which the best weights are chosen. "
                "Give an error that is finite for each example, and another "
                f"{option('workdir')}."
            )
        found[f"{split}_loss"] = loss
        found[f"{split}_error"] = error
        found |= _measures(retraining, None, state, data, split)
        told.append(f"{error:.2f} on {_TOLD.get(split, split)} data")
    # The task's own metrics, of the split that nothing else is done with.
    measured = found.get(f"{splits[-1]}_metrics", {})
    own = "".join(
        f"{name} {value:.4g}, " for name, value in measured.items() if value is not None
    )
    kept: Kept | None = None
    if keep is not None:
        kept = _kept(retraining, state, data, found, splits)
        keep(kept)
    write_atomically(folder / RETRAINED_FILE, to_json(found))
    print(
        f"{title}: {task.error_name} {' and '.join(told)}, "
        f"{own}{found['parameters']:,} parameters.",
        flush=True,
    )
    if kept is not None and jax.tree.leaves(kept.statistics):
        _print_kept(kept, title, splits)
    if "valid" in splits:
        model = Model(title, found["valid_error"], guess)
        print_remark([model], task.error_name, remedy())
    return found


def _print_kept(kept: Kept, title: str, splits: Sequence[str]) -> None:
    """The errors of a model that normalizes with statistics of the training data."""
    errors = ((split, kept.metrics[f"{split}_error"]) for split in splits)
    told = " and ".join(
        f"{error:.2f} on {_TOLD.get(split, split)} data"
        for split, error in errors
        if error is not None
    )
    print(
        f"{title}: with batch statistics of the training data, as the model that is "
        f"kept predicts, {kept.metrics['error_name']} {told}.",
        flush=True,
    )


def _measures(retraining, statistics, state, data, split) -> dict[str, Any]:
    """The task's own metrics on a split, as they are written; {} without any."""
    found = retraining.measure(statistics, state, data, split)
    values = {name: finite(value) for name, value in found.items()}
    return {f"{split}_metrics": values} if values else {}


def _kept(retraining, state, data, found, splits) -> Kept:
    """The best parameters, and what they are worth where each example is alone."""
    statistics = retraining.statistics(state, data)
    names = ("error_name", "parameters")
    metrics = {name: found[name] for name in names}
    for split in splits:
        evaluation = retraining.evaluate_with(statistics, state, data, split)
        loss, error = (float(each) for each in evaluation)
        metrics |= {f"{split}_loss": finite(loss), f"{split}_error": finite(error)}
        metrics |= _measures(retraining, statistics, state, data, split)
    choice, best, statistics = jax.device_get((state.choice, state.best, statistics))
    return Kept(choice, best, statistics, metrics)
