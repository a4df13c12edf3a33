"""Bootstrap intervals of a statistic over seeds."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
_RESAMPLES = 1000


class Interval(NamedTuple):
    """A statistic over seeds and its bootstrap interval, of level ``CONFIDENCE``."""

    value: float
    low: float  # nan for a single seed
    high: float


def resamples(seeds: int) -> np.ndarray:
    """Seeds drawn with replacement, ``int[draws, seeds]``; no draw of a single seed."""
    rng = np.random.default_rng(0)
    return rng.integers(0, seeds, (_RESAMPLES if seeds > 1 else 0, seeds))


def quantiles(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval, over the first axis; nan where a value is missing."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, (tail, 1 - tail), axis=0)
    return low, high


def interval(values: np.ndarray) -> Interval:
    """An interval from the statistic of all seeds, and of each draw.

    Args:
      values: ``float[1 + draws]``, that of all seeds first. Draws in which it is not
        finite are left out.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn):
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = quantiles(drawn)
    return Interval(float(values[0]), float(low), float(high))


def interval_of(
    statistic: Callable[[np.ndarray], float], values: np.ndarray
) -> Interval:
    """A statistic with its interval.

    Args:
      statistic: Of ``float[seeds]``.
      values: One for each seed.

    Examples:
      >>> interval_of(np.mean, np.array([1.0, 1.0, 1.0]))
      Interval(value=1.0, low=1.0, high=1.0)
    """
    draws = [values, *values[resamples(len(values))]]
    return interval(np.array([statistic(draw) for draw in draws]))
