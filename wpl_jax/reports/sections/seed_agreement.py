"""How much of a rank disorder is chance: the order by one seed, and by all."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wpl_jax.evaluation.rank_disorder import estimate_of
from wpl_jax.evaluation.ranking_metrics import tau_of_finite
from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.section import Report, Section
from wpl_jax.tasks import Evaluation


class Agreement(NamedTuple):
    """Kendall's tau of the orders of several seeds.

    Attributes:
      single: With the true order, the mean over the seeds.
      joint: Of the mean error over the seeds, with the true order.
      between: Of two seeds, the mean over all pairs.
    """

    single: float
    joint: float
    between: float


def agreement(true: np.ndarray, scores: Sequence[Evaluation]) -> Agreement:
    """How well seeds agree with the truth and with each other.

    Args:
      true: True errors, ``float[n]``.
      scores: Of each seed, at least two: losses and errors of ``float[n]``.
        Architectures whose score is not finite in one of them are left out.

    Returns:
      Three times Kendall's tau, nan if fewer than two architectures are left.
    """
    estimates = np.array([estimate_of(each) for each in scores])
    there = np.isfinite(true) & np.all(np.isfinite(estimates), 0)
    estimates, true = estimates[:, there], true[there]
    means = (
        np.mean([part[there] for part in each], 0) for each in zip(*scores, strict=True)
    )
    pairs = itertools.combinations(estimates, 2)
    return Agreement(
        float(np.mean([tau_of_finite(true, each) for each in estimates])),
        tau_of_finite(true, estimate_of(Evaluation(*means))),
        float(np.mean([tau_of_finite(*pair) for pair in pairs])),
    )


def _show(page: Page, report: Report) -> None:
    found = report.ranks
    several = [(arm, seeds) for arm, seeds in report.arms.items() if len(seeds) > 1]
    if found is None or not several:
        return
    rows = []
    for arm, seeds in several:
        of_seeds = [found["searches"][one.folder] for one in seeds]
        scores = [Evaluation(each["losses"], each["errors"]) for each in of_seeds]
        taus = agreement(np.asarray(found["true_errors"]), scores)
        rows.append((arm, str(len(seeds)), *(f"{tau:.3f}" for tau in taus)))
    page.heading("The order by one seed and by all")
    page.table(
        ("arm", "seeds", "one seed", "mean of all seeds", "between two seeds"), rows
    )
    page.text(
        "Kendall's tau: of one seed's order with the true order, the mean over seeds; "
        "of the order by the mean error over the seeds with the true order; and of the "
        "orders of two seeds, the mean over pairs. What seeds do not share is chance, "
        "and the mean over many seeds is free of it. What is still wrong there is what "
        "all seeds get wrong: the bias of the shared weights."
    )


SECTION = Section(_show)
