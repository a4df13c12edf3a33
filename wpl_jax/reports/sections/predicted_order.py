"""How well a predictor ranks architectures whose rewards it has not learned."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from wpl_jax.errors import UserError
from wpl_jax.evaluation.ranking_metrics import tau_of_finite
from wpl_jax.evaluation.truth_from_table import FromTable
from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import Columns, Searched
from wpl_jax.reports.sections.derived_accuracy import find_truths
from wpl_jax.reports.sections.section import Report, Section, mean, spread
from wpl_jax.reports.sections.tau_curves import Curves, tau_curves
from wpl_jax.runs.run_files import NUMBER, NUMBER_OR_NULL, Kind, below, list_of
from wpl_jax.supernet import Space, num_choices

HELD_OUT = "strategy/held_out"
_PREDICTED, _MEASURED = "strategy/predicted", "strategy/measured"
_ROUNDS = "strategy/rounds"
_PAIRS = ("predicted, measured", "predicted, table", "measured, table")


def _columns(space: Space) -> Mapping[str, Kind]:
    """The held-out architectures of the last round."""
    return {
        HELD_OUT: list_of(below(num_choices(space.decisions))),
        _PREDICTED: list_of(NUMBER_OR_NULL),
        _MEASURED: list_of(NUMBER_OR_NULL),
        _ROUNDS: NUMBER,
    }


class Taus(NamedTuple):
    """Kendall's tau of held-out architectures in each round, ``float64[rounds]``.

    Attributes:
      measured: Of predicted and of measured rewards.
      predicted_true: Of predicted rewards and accuracies by a table; nan without one.
      measured_true: Of measured rewards and accuracies by a table; nan without one.
    """

    measured: np.ndarray
    predicted_true: np.ndarray
    measured_true: np.ndarray


def _show(page: Page, report: Report) -> None:
    arms = [(arm, seeds) for arm, seeds, _ in report.recording(HELD_OUT)]
    try:
        truths = find_truths(report)
    except UserError:  # The section of derived architectures has a warning.
        truths = {}
    title, truth = next(iter(truths.items()), ("", None))
    found = {arm: [taus(one, truth) for one in seeds] for arm, seeds in arms}
    found = {arm: seeds for arm, seeds in found.items() if len(seeds[0].measured)}
    if not found:
        return
    page.heading("The predictor's order")
    pairs = _PAIRS if truth else _PAIRS[:1]
    by_table = f" and, by the table, the test accuracy ({title})" if truth else ""
    page.figure(
        curves(report, found, pairs),
        "predictor",
        "Kendall's tau of held-out architectures of the pool, in each round of the "
        "strategy's learning. Compared are the reward that the predictor expects, the "
        f"reward measured with the shared weights{by_table}. The predictor has not "
        "learned the rewards of held-out architectures. A thin line for each seed, "
        "and a thick line for their mean.",
    )
    rows = []
    for arm, seeds in found.items():
        of_last = [[each[i][-1] for each in seeds] for i in range(len(pairs))]
        number = len(report.arms[arm][0].metrics[-1][HELD_OUT])
        columns = (spread(values, 3) for values in of_last)
        rows.append((arm, *columns, str(number), str(len(seeds))))
    page.table(("arm", *pairs, "held out", "seeds"), rows)
    page.text(
        "Kendall's tau in the last round, mean over seeds ± standard error. The "
        "predictor leads the search to new architectures. What ranks them is the "
        "measured reward, and at the end the validation error."
    )


def taus(one: Searched, truth: FromTable | None) -> Taus:
    """Kendall's tau in each round of a search, without pairs that are not finite."""
    found: list[list[float]] = []
    rounds = 0
    for row in one.metrics:
        if row[_ROUNDS] == rounds:
            continue
        rounds = row[_ROUNDS]
        predicted = np.array(row[_PREDICTED], float)
        measured = np.array(row[_MEASURED], float)
        there = np.isfinite(predicted) & np.isfinite(measured)
        true = np.full(len(predicted), np.nan)
        if truth is not None:
            choices = np.array(row[HELD_OUT])
            true[there] = 100 - np.array(truth.of(one.space, choices[there], None))
        pairs = ((predicted, measured), (predicted, true), (measured, true))
        found.append([tau_of_finite(*pair) for pair in pairs])
    return Taus(*np.array(found, float).reshape(-1, len(_PAIRS)).T)


def curves(
    report: Report, found: Mapping[str, list[Taus]], pairs: tuple[str, ...]
) -> Figure:
    """Kendall's tau over the rounds, a panel for each pair of rankings."""
    arms = [
        Curves(arm, color, np.array(found[arm]).swapaxes(0, 1))
        for arm, _, color in report.colored()
        if arm in found
    ]

    def means(values):
        return np.array([mean(column) for column in values.T])

    return tau_curves(arms, pairs, "round", 2 + 3.1 * len(pairs), means, "o-")


SECTION = Section(_show, Columns(of_some=_columns))
