"""Fronts: what A keeps over what B reaches as alpha grows, and the area under them."""

from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from wpl_jax.common import pareto
from wpl_jax.common.bootstrap import Interval, interval, resamples
from wpl_jax.two_models.analysis import Outcome, standard_error

Name = TypeVar("Name", bound=Hashable)


class Corners(NamedTuple):
    """The two ends of a trade-off, which no penalty is needed for."""

    start: np.ndarray  # float[..., seeds]; accuracy of A before B is trained
    free: np.ndarray  # float[..., seeds, 2]; of A and B, trained without a penalty
    frozen: np.ndarray  # float[..., seeds, 2]; with the shared layers frozen


class Area(NamedTuple):
    """The area under a front, and how much larger it is than another one's."""

    area: Interval
    more: Interval  # minus that of the reference, seed by seed


def front(points: np.ndarray) -> np.ndarray:
    """The points that no other point is better than, by falling accuracy of B.

    Args:
      points: Accuracies of A and B, ``float[points, 2]``.

    Returns:
      The points for which no other one has both models at least as accurate and one
      of them more so, ``float[front, 2]``. A's accuracy rises along them.
    """
    of_a, of_b = points.T
    return points[pareto.front(-of_b, -of_a)]


def kept_at(points: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """What A keeps where B reaches an accuracy: the front, joined by straight lines.

    Args:
      points: Accuracies of A and B, ``float[points, 2]``.
      reached: Accuracies of B, of any shape.

    Returns:
      Accuracies of A, of that shape. Where B falls below the whole front, A keeps the
      most that it keeps anywhere; nan where B is better than anywhere.
    """
    rising = front(points)[::-1]
    return np.interp(reached, rising[:, 1], rising[:, 0], right=np.nan)


def area(points: np.ndarray, corners: Corners) -> float:
    """The area under a front, in units of the trade-off.

    B is scaled so that 0 is its accuracy on frozen layers and 1 that without a penalty.
    A is scaled so that 0 is what it keeps without a penalty and 1 is what it had. The
    area is that under :func:`kept_at` for B between 0 and 1: the share of A's loss that
    is prevented, in the mean over what B may pay. A straight line between the corners
    has 0.5; a penalty that prevents everything at no cost has 1.

    Args:
      points: Mean accuracies of A and B for each alpha, ``float[alphas, 2]``.
      corners: Of means over seeds: no seed axis.

    Returns:
      The area; nan where A does not forget, or B is no worse on frozen layers.
    """
    lost = corners.start - corners.free[0]
    paid = corners.free[1] - corners.frozen[1]
    if not (lost > 0 and paid > 0):
        return float("nan")
    # Without a penalty is the front's alpha of 0.
    all_points = np.concatenate([corners.free[None], points])
    prevented = (all_points[:, 0] - corners.free[0]) / lost
    left = (all_points[:, 1] - corners.frozen[1]) / paid
    scaled = np.stack([prevented, left], -1)
    knots = np.unique(np.clip(front(scaled)[:, 1], 0, 1))
    knots = np.unique([0.0, *knots, 1.0])
    return float(np.trapezoid(kept_at(scaled, knots), knots))


def corners_of(free: Outcome, frozen: Outcome) -> Corners:
    """The corners of a setting, on test images."""
    return Corners(free.start_test, free.final_test, frozen.final_test)


def is_trade_off(corners: Corners) -> bool:
    """Whether A forgets and frozen layers cost B, each by two standard errors."""
    lost = corners.start - corners.free[:, 0]
    paid = corners.free[:, 1] - corners.frozen[:, 1]
    return all(x.mean() > 2 * np.nan_to_num(standard_error(x)) for x in (lost, paid))


def areas(
    fronts: Mapping[Name, Sequence[Outcome]], corners: Corners, reference: Name
) -> dict[Name, Area]:
    """The areas under several fronts of one setting, on test images.

    The bootstrap draws seeds, the same ones for all fronts: with a seed A, B's
    initialization and the batches are the same under every penalty.

    Args:
      fronts: Arms of each front, one for each alpha.
      corners: Of the setting, with a seed axis.
      reference: The front that the others are compared with.
    """
    points = {
        name: np.stack([arm.final_test for arm in arms])
        for name, arms in fronts.items()
    }
    everything = np.arange(len(corners.start))
    draws = [everything, *resamples(len(everything))]
    found = {name: np.empty(len(draws)) for name in points}
    for i, draw in enumerate(draws):
        means = Corners(*(corner[draw].mean(0) for corner in corners))
        for name, accuracies in points.items():
            found[name][i] = area(accuracies[:, draw].mean(1), means)
    return {
        name: Area(interval(values), interval(values - found[reference]))
        for name, values in found.items()
    }
