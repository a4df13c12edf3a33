"""What the two-model experiment shows: accuracies of its arms, and forgetting."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np


class Outcome(NamedTuple):
    """One arm of a run, arrays over its seeds."""

    stop: float
    shared: int
    penalty: str
    step: str
    normalize: str
    alpha: float
    valid_a: np.ndarray  # float[seeds, evaluations]
    valid_b: np.ndarray  # float[seeds, evaluations]
    penalty_value: np.ndarray  # float[seeds, evaluations], nan where not finite
    final_valid: np.ndarray  # float[seeds, 2]
    final_test: np.ndarray  # float[seeds, 2]
    start_valid: np.ndarray  # float[seeds]
    start_test: np.ndarray  # float[seeds]
    fisher_spread: np.ndarray  # float[seeds], as of the curves; nan of no Fisher
    finite: np.ndarray  # float[seeds], 0 where the training of B diverged

    @property
    def lost_valid(self) -> np.ndarray:
        """What A lost on the validation images, d_A, ``float[seeds]``."""
        return self.start_valid - self.final_valid[:, 0]

    @property
    def lost_test(self) -> np.ndarray:
        """What A lost on the test images, d_A, ``float[seeds]``."""
        return self.start_test - self.final_test[:, 0]


class Reduction(NamedTuple):
    """The relative reduction of forgetting, (d_A - d_A,WPL) / d_A."""

    value: float
    standard_error: float


def read_outcomes(results: dict[str, Any]) -> list[Outcome]:
    """The arms of a run's results file."""

    def outcome(arm: dict[str, Any]) -> Outcome:
        values: dict[str, Any] = {
            name: np.array(value, float) if isinstance(value, list) else value
            for name, value in arm.items()
        }
        return Outcome(**values)

    return [outcome(arm) for arm in results["arms"]]


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean over seeds; nan for a single seed."""
    if len(values) < 2:
        return float("nan")
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def relative_reduction(lost: np.ndarray, lost_with: np.ndarray) -> Reduction | None:
    """How much of A's loss a penalty prevents, as a ratio of means over seeds.

    Args:
      lost: What A lost without the penalty, ``float[seeds]``.
      lost_with: What it lost with the penalty, for the same seeds.

    Returns:
      ``1 - mean(lost_with) / mean(lost)`` and its jackknife standard error; None
      where A did not forget, its mean loss being within two standard errors of 0:
      the ratio would be noise over noise.
    """
    if not lost.mean() > 2 * np.nan_to_num(standard_error(lost)):
        return None
    ratio = 1 - lost_with.mean() / lost.mean()
    n = len(lost)
    if n < 2:
        return Reduction(float(ratio), float("nan"))
    left_out = 1 - (lost_with.sum() - lost_with) / (lost.sum() - lost)
    error = np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2))
    return Reduction(float(ratio), float(error))


def select(outcomes: Sequence[Outcome], **fields: Any) -> list[Outcome]:
    """The outcomes whose fields have the given values, in order of alpha."""
    found = [
        outcome
        for outcome in outcomes
        if all(getattr(outcome, name) == value for name, value in fields.items())
    ]
    return sorted(found, key=lambda outcome: outcome.alpha)
