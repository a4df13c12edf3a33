"""Bootstrap intervals of a statistic, over seeds or architectures."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
_DRAWS = 1000


class Interval(NamedTuple):
    """A statistic and its confidence interval, of level ``CONFIDENCE`` by default."""

    value: float
    low: float  # nan where a single value was measured
    high: float


def resamples(number: int, draws: int = _DRAWS, seed: int = 0) -> Iterator[np.ndarray]:
    """Indices drawn with replacement, ``int[number]`` each; no draw from a single one.

    Args:
      number: Of what is drawn from, and of indices in a draw.
      draws: How many there are.
      seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    for _ in range(draws if number > 1 else 0):
        yield rng.integers(0, number, number)


def quantiles(
    values: np.ndarray, level: float = CONFIDENCE
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of the interval, over the first axis; nan where a value is missing."""
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2), axis=0)
    return low, high


def interval(values: np.ndarray, level: float = CONFIDENCE) -> Interval:
    """An interval from the statistic of all that was measured, and of each draw.

    Args:
      values: ``float[1 + draws]``, that of all first. Draws in which it is not finite
        are left out.
      level: Share of the draws that lie in the interval.
    """
    drawn = values[1:][np.isfinite(values[1:])]
    if not len(drawn):
        return Interval(float(values[0]), float("nan"), float("nan"))
    low, high = quantiles(drawn, level)
    return Interval(float(values[0]), float(low), float(high))


def interval_of(
    statistic: Callable[..., float],
    *measured: np.ndarray,
    draws: int = _DRAWS,
    level: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """A statistic with its percentile interval.

    Args:
      statistic: Of as many ``float[n]`` as are measured.
      *measured: ``float[n]`` each, over the same seeds or architectures, which are
        drawn together.
      draws: How often ``n`` of them are drawn.
      level: Share of the draws' statistics that lie in the interval.
      seed: Of the draws.

    Examples:
      >>> interval_of(np.mean, np.array([1.0, 1.0, 1.0]))
      Interval(value=1.0, low=1.0, high=1.0)
    """
    of_draws = [
        statistic(*(each[draw] for each in measured))
        for draw in resamples(len(measured[0]), draws, seed)
    ]
    return interval(np.array([statistic(*measured), *of_draws]), level)
