"""How well shared weights rank architectures.

The true errors of some architectures are found once, for instance by training each from
scratch, or from a table. The shared weights of each search then rank the same
architectures. The rank correlation of the two orders measures how reliable the shared
weights are (Yu et al., "Evaluating the search phase of neural architecture search",
2020). Khodak and Li (2020) call a lack of correlation rank disorder.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.bootstrap import Interval
from wpl_jax.common.settings import (
    MOST_SEED,
    check_choice,
    check_int,
    check_number,
    check_parts,
    chosen,
    require,
)
from wpl_jax.devices import processes
from wpl_jax.errors import UserError, shorten
from wpl_jax.evaluation import architectures, ranking_metrics, retrain
from wpl_jax.evaluation.ranking_metrics import kendall_tau
from wpl_jax.evaluation.retrained import RETRAINED_FILE, read_retrained
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.evaluation.truth import TRUTHS, FromScratch, Truth
from wpl_jax.evaluation.tuning import NO_TUNING, Tuning
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.run_directory import CHECKPOINTS, claim
from wpl_jax.runs.share import Share
from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks import Data, Evaluation

_MOST_TRAINED = 10_000
RANKED = "the best ranked architecture with the shared weights"
_SPLITS = ("valid",)  # Choosing among many by test errors would bias them.
_TAU = "Kendall's tau"
_AT_ONCE = 256  # architectures whose parameters are counted at a time


@dataclasses.dataclass(frozen=True)
class Ranking:
    """The architectures that are ranked, and the source of their true errors.

    Attributes:
      which: A random ``"sample"``, ``"all"`` of the space, or ``"classes"``: one of
        each isomorphism class.
      architectures: Number of distinct architectures in a sample.
      seed: Of the sample.
      batches: Validation batches on which each is evaluated with the shared weights,
        the same for all; None for the whole validation set.
      block: Architectures in a compiled call. After SIGKILL at most one block is lost.
      tuning: How each is trained on its own first, on a copy of the shared weights.
      top: Share of the architectures that count as the best, and as the worst.
      bootstrap: Samples of each bootstrap interval.
      truth: Source of the true errors.
    """

    which: Literal["sample", "all", "classes"] = "sample"
    architectures: int = 30
    seed: int = 0
    batches: int | None = None
    block: int = 100
    tuning: Tuning = NO_TUNING
    top: float = 0.2
    bootstrap: int = 1000
    truth: Truth = chosen(TRUTHS, FromScratch())

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_choice(self, "which", ("all", "classes", "sample"))
        check_int(self, "architectures", 5, most=architectures.MOST)
        check_int(self, "seed", 0, most=MOST_SEED)
        check_int(self, "batches", 1, optional=True)
        check_int(self, "block", 1)
        check_number(self, "top", above=0, most=0.5)
        check_int(self, "bootstrap", 1)

    def check(self, space: Space) -> None:
        """Checks that the architectures of a space can be ranked.

        Args:
          space: The space of the search.

        Raises:
          UserError: If the space has too many architectures, or the truth has no errors
            for them.
          SettingError: If there are too many to train each from scratch.
        """
        self.truth.check(space)
        number, name = self.architectures, "architectures"
        if self.which != "sample":
            architectures.check_count(space)
            number, name = architectures.count(space), "which"
        trains = self.truth.epochs is not None
        if trains and self.which == "classes":
            number = len(self.choose(space))
        expected = (
            f"at most {_MOST_TRAINED:,} architectures where each is trained from "
            f"scratch, in a folder of its own; these are {number:,}"
        )
        require(self, name, not trains or number <= _MOST_TRAINED, expected)

    def choose(self, space: Space) -> np.ndarray:
        """The architectures that are ranked, ``int32[n, decisions]``.

        Args:
          space: The space of the search.

        Raises:
          UserError: If the space has too few or too many of them.
        """
        match self.which:
            case "all":
                return architectures.every(space)
            case "classes":
                return architectures.one_of_each_class(space)
            case _:
                return architectures.sample(space, self.architectures, self.seed)


class UntrainedError(UserError):
    """Architectures whose true errors need a training that has not been done."""


def from_scratch(
    retraining: Retraining,
    data: Data,
    architectures: np.ndarray,
    seed: int,
    workdir: Path,
    share: Share,
    requests: Requests,
    checkpoint_seconds: float,
) -> list[float]:
    """Trains from scratch each architecture of a share that has not been trained yet.

    Args:
      retraining: The training of one architecture.
      data: Of its task.
      architectures: ``int32[n, decisions]``.
      seed: Of all randomness.
      workdir: Of the run.
      share: Of the architectures, which this process trains.
      requests: To stop between two calls, and to profile some.
      checkpoint_seconds: Time between two checkpoints, in seconds.

    Returns:
      The errors of all on the validation data, in the primary process; an empty list in
      the others.

    Raises:
      UntrainedError: If other shares have not trained theirs.
    """
    for number in share.of(range(len(architectures))):
        folder = _folder(workdir, number)
        with claim(folder):
            if not processes.broadcast((folder / RETRAINED_FILE).exists()):
                title = f"Architecture {number + 1} of {len(architectures)}"
                retrain.run(
                    retraining,
                    data,
                    architectures[number],
                    seed,
                    folder,
                    title,
                    requests,
                    checkpoint_seconds,
                    splits=_SPLITS,
                )
            if processes.is_primary():  # It is done.
                shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return read_trained([workdir], architectures) if processes.is_primary() else []


def _folder(workdir: Path, number: int) -> Path:
    """Of the training of an architecture, counted from 0."""
    return workdir / "ranking" / f"architecture_{number + 1}"


def read_trained(folders: Sequence[Path], architectures: np.ndarray) -> list[float]:
    """The errors of architectures that have been trained from scratch.

    Args:
      folders: Of the run; each may hold a share of the trainings.
      architectures: ``int32[n, decisions]``.

    Raises:
      UntrainedError: If one has not been trained in any of the folders.
      UserError: If a training was of another architecture, or its file is damaged.
    """
    errors, missing = [], 0
    for number, architecture in enumerate(architectures):
        paths = [_folder(f, number) / RETRAINED_FILE for f in folders]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            missing += 1
            continue
        found = read_retrained(path, _SPLITS)
        if found.get("architecture") != architecture.tolist():
            raise UserError(
                f"{path} is of architecture {shorten(found.get('architecture'))}, "
                f"expected {architecture.tolist()}. Delete its folder, and rank again."
            )
        errors.append(found["valid_error"])
    if missing:
        raise UntrainedError(
            f"{missing} of {len(architectures)} architectures have not been trained "
            f"from scratch in {', '.join(map(str, folders))}. Run all shares with "
            "--mode=rank."
        )
    return errors


def estimate_of(scores: Evaluation) -> np.ndarray:
    """The place of each architecture in the order of scores.

    The order is by error, and by loss among equal errors.

    Args:
      scores: Losses and errors, ``float32[n]``.

    Returns:
      ``float64[n]``, lower is better. Places are equal only where both error and loss
      are, and nan where one of them is not finite.
    """
    loss, error = (np.asarray(each, float) for each in scores)
    pairs = np.stack([error, loss], axis=1)
    place = np.unique(pairs, axis=0, return_inverse=True)[1].ravel().astype(float)
    return np.where(np.isfinite(pairs).all(1), place, np.nan)


def measure(
    true: np.ndarray, estimate: np.ndarray, top: float, samples: int
) -> dict[str, Interval]:
    """All metrics of a ranking with 95 % intervals.

    Architectures without a finite error or estimate are left out. The interval of
    Kendall's tau is that of :func:`correlation`, the others are bootstrap intervals
    over the architectures.

    Args:
      true: True errors, ``float[n]``.
      estimate: Estimates of them, ``float[n]``.
      top: Share that counts as the best, and as the worst.
      samples: Number of samples of each bootstrap.

    Returns:
      The metrics by name; an empty dict if fewer than 5 architectures are left.
    """
    there = np.isfinite(true) & np.isfinite(estimate)
    if there.sum() < 5:
        return {}
    x, y = true[there], estimate[there]
    k = max(1, round(top * len(true)))
    found = ranking_metrics.summary(x, y, min(k, len(x)), samples)
    return found | {_TAU: correlation(y, x)}


def without_search(
    space: Space, truth: Truth, choices: np.ndarray
) -> dict[str, np.ndarray]:
    """Estimates that need no search, with which a ranking is compared.

    Args:
      space: The space of the search.
      truth: Source of the true errors.
      choices: ``int32[n, decisions]``.

    Returns:
      By name ``float64[n]``, lower is better: the negative number of parameters, and
      the estimates of ``truth.cheaper``.
    """

    def parameters(choice):
        return space.costs(Architecture(choice))["parameters"]

    @jax.jit
    def of_all(choices):
        return jax.lax.map(parameters, choices, batch_size=_AT_ONCE)

    found = of_all(jnp.asarray(choices))
    return {"number of parameters": -np.asarray(found, float)} | truth.cheaper(
        space, choices
    )


def correlation(one: Any, other: Any) -> Interval:
    """Kendall's tau with its 95 % confidence interval.

    Fieller, Hartley and Pearson, "Tests for rank correlation coefficients I" (1957):
    ``atanh(tau)`` has a variance of about ``0.437 / (n - 4)``.

    Args:
      one: Errors, ``float[n]``.
      other: Other errors of the same architectures, ``float[n]``.

    Returns:
      The correlation over architectures with two finite errors; nan if there are fewer
      than 5.
    """
    x, y = np.asarray(one, float), np.asarray(other, float)
    there = np.isfinite(x) & np.isfinite(y)
    if there.sum() < 5:
        return Interval(*(float("nan"),) * 3)
    tau = kendall_tau(x[there], y[there])
    spread = 1.96 * np.sqrt(0.437 / (there.sum() - 4))
    z = np.arctanh(np.clip(tau, -0.999999, 0.999999))
    return Interval(tau, float(np.tanh(z - spread)), float(np.tanh(z + spread)))
