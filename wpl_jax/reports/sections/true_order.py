"""How well the errors of children rank them, by the accuracies of a table."""

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
from wpl_jax.runs.run_files import Kind, below, list_of
from wpl_jax.supernet import Space, num_choices

CHOICES = "children/choices"
_ERRORS = ("children/err1", "children/err2")
_TITLES = ("after its own training (err1)", "at the end of the epoch (err2)")
_LAST = 4  # The table averages over the last epochs, one in four of all.


def _columns(space: Space) -> Mapping[str, Kind]:
    """The children of an epoch; searches that train mixtures do not record them."""
    return {CHOICES: list_of(below(num_choices(space.decisions)))}


class Orders(NamedTuple):
    """Kendall's tau of true errors and losses of the children of each epoch.

    Attributes:
      err1: Of losses after the child's own training, ``float64[epochs]``.
      err2: Of losses at the end of the epoch, ``float64[epochs]``.
    """

    err1: np.ndarray
    err2: np.ndarray


def _show(page: Page, report: Report) -> None:
    if not any(report.recording(CHOICES)):
        return
    try:
        truths = find_truths(report)
    except UserError:  # The section of derived architectures has a warning.
        return
    if not truths:
        return
    title, truth = next(iter(truths.items()))
    found = {
        arm: [orders(one, truth) for one in seeds]
        for arm, seeds, _ in report.recording(CHOICES)
    }
    page.heading("The children's order by the table")
    page.figure(
        curves(report, found),
        "true_order",
        "Kendall's tau of the children of each epoch: their loss with the shared "
        f"weights against their test error by the table ({title}). Left: each child is "
        "evaluated after its own training, before others overwrite its weights. "
        "Right: all are evaluated at the end of the epoch. A thin line for each seed, "
        "and a thick line for their mean. The search does not use the table.",
    )
    rows = []
    for arm, seeds in found.items():
        err1, err2 = (
            [of_last(taus) for taus in each] for each in zip(*seeds, strict=True)
        )
        lost = np.subtract(err1, err2).tolist()
        columns = (spread(values, 3) for values in (err1, err2, lost))
        rows.append((arm, *columns, str(len(seeds))))
    page.table(("arm", "err1", "err2", "err1 - err2", "seeds"), rows)
    page.text(
        "Kendall's tau, mean over the last quarter of the epochs and over seeds ± "
        "standard error. The difference is what the training of other children takes "
        "from the order."
    )


def orders(one: Searched, truth: FromTable) -> Orders:
    """Kendall's tau in each epoch of a search; nan where all children are equal.

    A loss that is not finite counts as the highest. Children without an error in the
    table are left out.
    """
    choices = np.array([row[CHOICES] for row in one.metrics])
    flat = choices.reshape(-1, choices.shape[-1])
    true = np.array(truth.of(one.space, flat, None)).reshape(choices.shape[:2])
    return Orders(*(_of_epochs(true, one.curve(column)) for column in _ERRORS))


def _of_epochs(true: np.ndarray, losses: np.ndarray) -> np.ndarray:
    # Finite, as all others are of float32.
    losses = np.where(np.isfinite(losses), losses, np.finfo(float).max)
    return np.array([tau_of_finite(*pair) for pair in zip(true, losses, strict=True)])


def of_last(taus: np.ndarray) -> float:
    """The mean over the last quarter of the epochs, at least one."""
    return mean(taus[-max(1, len(taus) // _LAST) :])


def curves(report: Report, found: Mapping[str, list[Orders]]) -> Figure:
    """Kendall's tau over the epochs, a panel for err1 and one for err2."""
    arms = [
        Curves(arm, color, np.array(found[arm]).swapaxes(0, 1))
        for arm, _, color in report.recording(CHOICES)
    ]
    return tau_curves(arms, _TITLES, "epoch", 9, lambda taus: taus.mean(0))


SECTION = Section(_show, Columns(of_some=_columns))
