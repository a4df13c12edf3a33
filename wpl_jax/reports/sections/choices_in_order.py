"""Which choices the shared weights rank too high or too low."""

import collections
from typing import NamedTuple

import numpy as np

from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.derived_operations import counts
from wpl_jax.reports.sections.section import Report, Section, spread
from wpl_jax.supernet import Space

_SHARED = ("errors", "losses")  # with the shared weights


class Favour(NamedTuple):
    """What an order of architectures owes to the number of times a choice is made.

    Attributes:
      slopes: By choice, the ranks that it gains an architecture, in per cent of all,
        where it takes the place of an average choice.
      explained: Share of the variance of the ranks that these numbers explain.
    """

    slopes: dict[str, float]
    explained: float


def favour(
    space: Space, choices: np.ndarray, errors: np.ndarray, ties: np.ndarray
) -> Favour:
    """Least squares of ranks by how often each choice is made.

    Of the sets of choices the one counts that most decisions have, such as operations.
    The slopes have a mean of 0.

    Args:
      space: Of the architectures.
      choices: ``int[n, decisions]``.
      errors: ``float[n]``; lower ranks higher. Those that are not finite are left out.
      ties: ``float[n]``; what orders equal errors.
    """
    sets = collections.Counter(decision.choices for decision in space.decisions)
    names, _ = sets.most_common(1)[0]
    finite = np.isfinite(errors) & np.isfinite(ties)
    order = np.lexsort((ties[finite], errors[finite]))
    if len(order) < 2:
        return Favour(dict.fromkeys(names, float("nan")), float("nan"))
    ranks = np.empty(len(order))
    ranks[order] = -100 * np.arange(len(order)) / len(order)
    ranks -= ranks.mean()
    made = counts(space, choices)[names][finite] * 1.0
    made -= made.mean(0)
    # The counts sum to a constant: of all solutions the shortest has a mean of 0.
    slopes = np.linalg.lstsq(made, ranks, rcond=None)[0]
    rest = ranks - made @ slopes
    return Favour(
        dict(zip(names, slopes.tolist(), strict=True)),
        1 - float(rest @ rest) / float(ranks @ ranks),
    )


def _show(page: Page, report: Report) -> None:
    found = report.ranks
    if found is None:  # --mode=rank writes it.
        return
    space, choices = report.searches[0].space, np.asarray(found["choices"])
    true = np.asarray(found["true_errors"], float)
    truth = favour(space, choices, true, np.zeros_like(true))

    def of(one):
        shared = found["searches"][one.folder]
        return favour(space, choices, *(np.asarray(shared[x], float) for x in _SHARED))

    arms = {arm: [of(one) for one in seeds] for arm, seeds in report.arms.items()}
    page.heading("Which choices the order favours")
    rows = [
        (
            name,
            f"{slope:.1f}",
            *(
                spread([one.slopes[name] for one in seeds], 1)
                for seeds in arms.values()
            ),
        )
        for name, slope in truth.slopes.items()
    ]
    explained = (
        spread([100 * one.explained for one in seeds], 0) for seeds in arms.values()
    )
    rows.append(("explained, %", f"{100 * truth.explained:.0f}", *explained))
    page.table(("one more", "true order", *arms), rows)
    page.text(
        "The ranks, in per cent of all architectures, that one gains where a choice is "
        "made once more in place of an average one; least squares, mean over seeds ± "
        "standard error. Positive is towards the best. Where a column differs from the "
        "true order by much more than its standard error, shared weights have a bias. "
        "The last row: the share of the variance of the ranks that the counts explain."
    )


SECTION = Section(_show)
