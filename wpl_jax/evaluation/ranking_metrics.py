"""Metrics of a ranking of architectures: rank correlations, and precision at the top.

All functions take true errors and estimates of them, ``float[n]``, lower is better.
Pass the negatives of scores of which higher is better. The definitions are those of
Ning et al., "Evaluating Efficient Performance Estimators of Neural Architectures"
(2021), with a number ``k`` of architectures in place of a proportion. Architectures
with equal estimates are ordered in the worst way for the estimate, so that a constant
scores worst. An architecture is truly among the best ``k`` if fewer than ``k`` are
better.
"""

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from wpl_jax.common.bootstrap import CONFIDENCE, Interval, interval_of

Metric = Callable[[np.ndarray, np.ndarray], float]  # of true errors and estimates


def kendall_tau(true: ArrayLike, estimate: ArrayLike) -> float:
    """Kendall's tau-b, which accounts for ties, in [-1, 1]; nan if one is constant.

    It takes ``n log(n)`` time and ``n`` memory.
    """
    x, y = (np.unique(v, return_inverse=True)[1] for v in _checked(true, estimate))
    n = len(x)
    joint = np.sort(x * n + y)  # By x, then y.
    pairs = n * (n - 1) / 2
    tied_x, tied_y = _pairs(np.bincount(x)), _pairs(np.bincount(y))
    tied = tied_x + tied_y - _pairs(np.unique(joint, return_counts=True)[1])
    agreeing = pairs - tied - 2 * _inversions(joint % n)
    untied = np.sqrt((pairs - tied_x) * (pairs - tied_y))
    return float(agreeing / untied) if untied else float("nan")


def tau_of_finite(true: ArrayLike, estimate: ArrayLike) -> float:
    """:func:`kendall_tau` of the architectures of which both are finite.

    It is nan if there are fewer than two of them. Tables have gaps, and children
    diverge.
    """
    x, y = np.asarray(true, float), np.asarray(estimate, float)
    there = np.isfinite(x) & np.isfinite(y)
    return kendall_tau(x[there], y[there]) if there.any() else float("nan")


def spearman_rho(true: ArrayLike, estimate: ArrayLike) -> float:
    """Spearman's rank correlation, ties with their mean rank; nan if constant."""
    ranks = [(_below(v) - _below(-v)) / 2 for v in _checked(true, estimate)]
    norm = np.sqrt(np.prod([np.sum(r**2) for r in ranks]))
    return float(np.sum(ranks[0] * ranks[1]) / norm) if norm else float("nan")


def precision_at_top(true: ArrayLike, estimate: ArrayLike, k: int) -> float:
    """P@top K: how many of the estimated best ``k`` truly are, in [0, 1]."""
    true, chosen = _checked(true, estimate)[0], _order(true, estimate, k)[:k]
    return float(np.mean(_below(true)[chosen] < k))


def precision_at_bottom(true: ArrayLike, estimate: ArrayLike, k: int) -> float:
    """P@bottom K: how many of the estimated worst ``k`` truly are, in [0, 1]."""
    true, chosen = _checked(true, estimate)[0], _order(true, estimate, k)[-k:]
    return float(np.mean(_below(-true)[chosen] < k))


def best_rank(true: ArrayLike, estimate: ArrayLike, k: int) -> float:
    """BR@K: the best true rank among the estimated best ``k``, in (0, 1].

    The best of ``n`` architectures has the rank ``1 / n``.
    """
    true, chosen = _checked(true, estimate)[0], _order(true, estimate, k)[:k]
    return float((1 + _below(true)[chosen].min()) / len(true))


def worst_rank(true: ArrayLike, estimate: ArrayLike, k: int) -> float:
    """WR@K: the worst true rank among the estimated best ``k``, in (0, 1]."""
    true, chosen = _checked(true, estimate)[0], _order(true, estimate, k)[:k]
    return float((1 + _below(true)[chosen].max()) / len(true))


def regret(true: ArrayLike, estimate: ArrayLike) -> float:
    """How much the true error of the lowest estimate is above the lowest true error."""
    true, selected = _checked(true, estimate)[0], _order(true, estimate, 1)[0]
    return float(true[selected] - true.min())


def best_of_random(true: ArrayLike, estimate: ArrayLike, number: float) -> float:
    """Expected true error of random search: the lowest estimate of several draws.

    Of equal estimates any is selected, with the same probability.

    Args:
      true: True errors, ``float[n]``.
      estimate: What random search selects by, ``float[n]``.
      number: How many of the ``n`` are drawn, with replacement, at least 1; the
        formula has values between whole numbers, too.

    Examples:
      Of two draws from two, the better one is among them in three of four cases:

      >>> best_of_random([10, 20], [1, 2], 2)
      12.5
    """
    return _best_of_random(_in_order(true, estimate), number)


def draws_until(true: ArrayLike, estimate: ArrayLike, error: float) -> float:
    """How many draws random search needs for an expected true error.

    The expectation may rise again with more draws, if the lowest estimates are not of
    the lowest errors.

    Args:
      true: True errors, ``float[n]``.
      estimate: What random search selects by, ``float[n]``.
      error: Expected true error to be reached.

    Returns:
      The smallest number, at least 1; inf if no number up to ``100 n`` reaches it.
    """
    ordered = _in_order(true, estimate)

    def reaches(number: float) -> bool:
        return _best_of_random(ordered, number) <= error + 1e-9

    most = 100 * len(ordered)  # Then it has drawn nearly all.
    grid = np.geomspace(1, most, 2 + int(20 * np.log(most)))
    first = next((i for i, number in enumerate(grid) if reaches(number)), None)
    if first is None:
        return float("inf")
    if first == 0:
        return 1.0
    low, high = np.log(grid[first - 1 : first + 1])
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if reaches(np.exp(middle)) else (middle, high)
    return float(np.exp(high))


def _in_order(true: ArrayLike, estimate: ArrayLike) -> np.ndarray:
    """True errors from the lowest estimate up, means of those with equal estimates."""
    x, y = _checked(true, estimate)
    tied, counts = np.unique(y, return_inverse=True, return_counts=True)[1:]
    means = np.bincount(tied, x) / counts
    return means[np.sort(tied)]


def _best_of_random(ordered: np.ndarray, number: float) -> float:
    """The expected true error of the first of several draws.

    Args:
      ordered: Of :func:`_in_order`.
      number: How many are drawn.
    """
    # Share of those that are not among the first, from 1 down to 0.
    left = np.linspace(1, 0, len(ordered) + 1) ** number
    return float((left[:-1] - left[1:]) @ ordered)


def bootstrap(
    metric: Metric,
    true: ArrayLike,
    estimate: ArrayLike,
    samples: int = 1000,
    level: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """A metric with its interval, of architectures drawn with replacement.

    Args:
      metric: Of this module, ``k`` bound by ``functools.partial``.
      true: True errors, ``float[n]``.
      estimate: Estimates, ``float[n]``.
      samples: How often ``n`` of the architectures are drawn.
      level: Share of the samples' metrics that lie in the interval.
      seed: Of the draws.

    Returns:
      The metric of all, and percentiles over those samples in which it is finite;
      nan for a single architecture.

    Examples:
      >>> tau = bootstrap(kendall_tau, [1, 2, 3, 4, 5, 6], [1, 3, 2, 4, 6, 5])
      >>> round(tau.value, 2), tau.low < tau.value <= tau.high
      (0.73, True)
    """
    pairs = _checked(true, estimate)
    return interval_of(metric, *pairs, draws=samples, level=level, seed=seed)


def summary(
    true: ArrayLike, estimate: ArrayLike, k: int, samples: int = 1000
) -> dict[str, Interval]:
    """All metrics of this module with their intervals, by their usual names.

    Args:
      true: True errors, ``float[n]``.
      estimate: Estimates, ``float[n]``.
      k: How many count as the best and the worst.
      samples: Of each bootstrap.
    """
    metrics: dict[str, Metric] = {
        "Kendall's tau": kendall_tau,
        "Spearman's rho": spearman_rho,
        f"P@top {k}": functools.partial(precision_at_top, k=k),
        f"P@bottom {k}": functools.partial(precision_at_bottom, k=k),
        f"BR@{k}": functools.partial(best_rank, k=k),
        f"WR@{k}": functools.partial(worst_rank, k=k),
        "regret": regret,
    }
    return {
        name: bootstrap(metric, true, estimate, samples)
        for name, metric in metrics.items()
    }


def _checked(true: ArrayLike, estimate: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as ``float64[n]``.

    Raises:
      ValueError: If they are not vectors of one length, or hold a nan.
    """
    x, y = np.asarray(true, float), np.asarray(estimate, float)
    if x.shape != y.shape or x.ndim != 1 or not x.size:
        raise ValueError(
            "true errors and estimates must be vectors of the same length of at least "
            f"1, got shapes {x.shape} and {y.shape}."
        )
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError(
            "true errors and estimates must not be nan, leave those architectures out."
        )
    return x, y


def _order(true: ArrayLike, estimate: ArrayLike, k: int) -> np.ndarray:
    """Indices by ascending estimate, ``int64[n]``; of equal ones the worst first."""
    x, y = _checked(true, estimate)
    if not 1 <= k <= len(x):
        raise ValueError(f"k is {k}, expected 1 to {len(x)}, the architectures.")
    return np.lexsort((-x, y))


def _below(values: np.ndarray) -> np.ndarray:
    """How many are lower than each, ``int64[n]``."""
    return np.searchsorted(np.sort(values), values)


def _pairs(counts: np.ndarray) -> float:
    """Pairs within groups of these sizes."""
    return float(np.sum(counts * (counts - 1.0)) / 2)


def _inversions(ranks: np.ndarray) -> int:
    """Pairs in which the earlier rank is the higher.

    Two ranks differ in a highest bit. For each bit the ranks are sorted, stably, by the
    bits above it; among equal ones, each 0 is in an inversion with the 1s before it.
    """
    total = 0
    for bit in reversed(range(int(ranks.max()).bit_length())):
        ones, above = (ranks >> bit) & 1, ranks >> (bit + 1)
        before = np.cumsum(ones) - ones
        before -= before[np.searchsorted(above, above)]  # Those of the same group.
        total += int(before[ones == 0].sum())
        ranks = ranks[np.argsort(ranks >> bit, kind="stable")]
    return total
