"""How well shared weights rank architectures.

The true errors of some random architectures are found once, for instance by training
each from scratch. The shared weights of each search then rank the same architectures.
The rank correlation of the two orders measures how reliable the shared weights are (Yu
et al., "Evaluating the search phase of neural architecture search", 2020). Khodak and
Li (2020) call a lack of correlation rank disorder.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_int, chosen
from wpl_jax.devices import processes
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.evaluation import retrain
from wpl_jax.evaluation.ranking_metrics import kendall_tau
from wpl_jax.evaluation.truth import TRUTHS, FromScratch, Truth
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.run_files import (
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    check_fields,
    finite,
    list_of,
    read_json,
    to_json,
    write_atomically,
)
from wpl_jax.search import Search
from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks import Data

_MOST_ARCHITECTURES = 10_000
RANKS_FILE = "rank_disorder.json"
RANKED = "the best random architecture with the shared weights"
_SPLITS = ("valid",)  # Nobody is to choose among many by the test.


@dataclasses.dataclass(frozen=True)
class Ranking:
    """Which architectures are ranked, and by what.

    Attributes:
      architectures: How many random ones.
      truth: What they are compared with.
    """

    architectures: int = 30
    truth: Truth = chosen(TRUTHS, FromScratch())

    def __post_init__(self) -> None:
        """Checks the settings."""
        why = "each is trained in a folder of its own"
        check_int(self, "architectures", 5, why, most=_MOST_ARCHITECTURES)


class Interval(NamedTuple):
    """A rank correlation with its confidence interval."""

    tau: float
    low: float
    high: float


def draw(count: int, space: Space) -> np.ndarray:
    """Random architectures, the same for all searches, ``int32[count, decisions]``."""
    keys = jax.random.split(jax.random.key(0), count)
    return np.asarray(jax.vmap(space.sample)(keys))


def from_scratch(
    retraining: retrain.Retraining,
    data: Data,
    architectures: np.ndarray,
    seed: int,
    workdir: Path,
    requests: Requests,
    checkpoint_seconds: float,
) -> list[float]:
    """Trains each architecture from scratch, as far as it has not been done.

    Args:
      retraining: The training of each.
      data: Of its task.
      architectures: ``int32[n, decisions]``.
      seed: Of all randomness.
      workdir: Of the run.
      requests: To end between two calls, and to trace some.
      checkpoint_seconds: Between two checkpoints.

    Returns:
      Their errors on the validation data, to the first process.
    """
    errors = []
    for number, architecture in enumerate(architectures, 1):
        folder = workdir / "ranking" / f"architecture_{number}"
        path = folder / retrain.RETRAINED_FILE
        if not processes.broadcast(path.exists()):
            title = f"Architecture {number} of {len(architectures)}"
            retrain.run(
                retraining,
                data,
                architecture,
                seed,
                folder,
                title,
                requests,
                checkpoint_seconds,
                splits=_SPLITS,
            )
        if processes.is_primary():
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # It is done.
            errors.append(retrain.read_retrained(path, _SPLITS)["valid_error"])
    return errors


def with_shared(
    search: Search, params: Any, data: Data, architectures: np.ndarray
) -> list[float]:
    """Errors on the validation data with the shared parameters of a search."""
    evaluator, at_once = Evaluator(search.task, search.devices), search.devices.count
    errors: list[float] = []
    for first in range(0, len(architectures), at_once):
        some = Architecture(jnp.asarray(architectures[first : first + at_once]))
        found = evaluator.evaluate(params, some, data, "valid")
        errors += np.asarray(found.error).tolist()
    return errors


def write(
    workdir: Path,
    architectures: np.ndarray,
    truth: Truth,
    true_errors: list[float],
    shared: dict[str, list[float]],
) -> None:
    """Writes ``rank_disorder.json``, the searches by the names of their folders."""
    found = {
        "architectures": architectures.tolist(),
        "truth": truth.about,
        "true_errors": [finite(x) for x in true_errors],
        "shared": {
            name: [finite(x) for x in errors] for name, errors in shared.items()
        },
    }
    write_atomically(workdir / RANKS_FILE, to_json(found))


def read_ranks(workdir: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """What :func:`write` has written; None if there is nothing.

    Args:
      workdir: Of the run.
      names: Those of the searches' folders.

    Raises:
      UserError: If it is not what :func:`write` writes.
    """
    path = workdir / RANKS_FILE
    if not path.exists():
        return None
    remedy = "Delete it, or run with --mode=rank, which makes it anew."
    fields = {
        "truth": TEXT,
        "true_errors": list_of(NUMBER_OR_NULL),
        "shared": OBJECT,
    }
    found = read_json(path, fields, remedy)
    errors = list_of(NUMBER_OR_NULL, len(found["true_errors"]))
    where = "in the field 'shared', "
    check_fields(found["shared"], dict.fromkeys(names, errors), path, remedy, where)
    return found


def correlation(one: Any, other: Any) -> Interval:
    """Kendall's tau with its 95 % confidence interval.

    Fieller, Hartley and Pearson, "Tests for rank correlation coefficients I" (1957):
    ``atanh(tau)`` has a variance of about ``0.437 / (n - 4)``.

    Args:
      one: Errors, ``float[n]``, above 4 of them.
      other: Of the same architectures.

    Returns:
      The correlation over what is finite in both; nan where that is too little.
    """
    x, y = np.asarray(one, float), np.asarray(other, float)
    there = np.isfinite(x) & np.isfinite(y)
    if there.sum() < 5:
        return Interval(*(float("nan"),) * 3)
    tau = kendall_tau(x[there], y[there])
    spread = 1.96 * np.sqrt(0.437 / (there.sum() - 4))
    z = np.arctanh(np.clip(tau, -0.999999, 0.999999))
    return Interval(tau, float(np.tanh(z - spread)), float(np.tanh(z + spread)))
