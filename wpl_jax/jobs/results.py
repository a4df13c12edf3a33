"""The files in which a search leaves its best architecture."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from wpl_jax.devices import processes
from wpl_jax.engine.state import State
from wpl_jax.errors import UserError
from wpl_jax.evaluation import candidates
from wpl_jax.evaluation.retrained import RETRAINED_FILE
from wpl_jax.jobs import baselines
from wpl_jax.jobs.expand import Run
from wpl_jax.reports.searched import ARCHITECTURE_FILE, REMEDY, RESULTS_FILE
from wpl_jax.runs.run_files import read_text, to_json, write_atomically
from wpl_jax.search import Search
from wpl_jax.spaces.architecture_json import (
    architecture_from_json,
    architecture_to_json,
)
from wpl_jax.supernet import Space
from wpl_jax.tasks.guessing import Guess, Model, print_remark


def write_results(
    search: Search,
    guess: Guess,
    state: State,
    folder: Path,
    title: str,
    prefix: str = "",
) -> None:
    """Writes the best architecture, and its error with the shared weights.

    Args:
      search: The search, after its selection.
      guess: What a guess is worth on its data.
      state: Its last state.
      folder: Of the search.
      title: What it is called in what is printed.
      prefix: Of the names of the files.

    Raises:
      UserError: If no candidate has a finite error.
    """
    selection = jax.device_get(state.selection)
    best = selection.best(search.strategy.candidates)
    if not best.allowed:
        print(
            f"{title}: none of the {len(selection.allowed)} candidates is allowed by "
            "both the reward (config.reward) and the limits of costs (config.limits). "
            "The best of the others:",
            flush=True,
        )
    text = architecture_to_json(search.task.space, best.choice)
    write_atomically(folder / f"{prefix}{ARCHITECTURE_FILE}", text)
    candidates.write(folder, selection)
    loss, error = best.loss, best.error
    if not (np.isfinite(loss) and np.isfinite(error)):
        raise UserError(
            f"{folder}: none of the candidates has a finite loss and "
            f"{search.task.error_name} with the shared weights, but {loss:.4g} and "
            f"{error:.4g}. Look at both on the validation data, or lower the learning "
            "rate (config.optimizer), and give another --workdir."
        )
    results = {
        **guess.described(),
        "architecture": best.choice.tolist(),
        "error_name": search.task.error_name,
        "loss_name": getattr(search.task, "loss_name", "loss"),
        "valid_loss": loss,
        "valid_error": error,
    }
    write_atomically(folder / f"{prefix}{RESULTS_FILE}", to_json(results))
    print(
        f"{title}: the best has a validation {search.task.error_name} of {error:.2f}, "
        "with the shared weights.",
        flush=True,
    )
    model = Model(f"{title}, the best architecture", error, guess)
    print_remark([model], search.task.error_name, REMEDY)


def is_finished(each: Run, workdir: Path) -> bool:
    """Whether a search has ended, with the trainings from scratch that it asks for."""
    return is_retrained(each, workdir) and baselines.are_trained(each, workdir)


def is_retrained(each: Run, workdir: Path) -> bool:
    """Whether a search has ended, and what it has found has been retrained if asked."""
    folder = each.folder(workdir)
    return (folder / RESULTS_FILE).exists() and (
        not each.config.retrain.epochs or (folder / "retrain" / RETRAINED_FILE).exists()
    )


def on_all(read: Callable[[Any], np.ndarray], path: Any, space: Space) -> np.ndarray:
    """The architecture that the primary process reads, on all processes."""
    architecture = np.zeros(len(space.decisions), np.int32)
    if processes.is_primary():
        architecture = read(path)
    return processes.from_primary(architecture, architecture)


def read_architecture(path: Path, space: Space, remedy: str) -> np.ndarray:
    """The choice of the architecture in a file, ``int32[decisions]``.

    Args:
      path: The file.
      space: Its space.
      remedy: What to do if it is wrong, for the message.

    Raises:
      UserError: If it is not that of an architecture of the space.
    """
    text = read_text(path, remedy)
    try:
        return architecture_from_json(space, text)
    except UserError as error:
        raise UserError(f"{path}: {error} {remedy}") from error
