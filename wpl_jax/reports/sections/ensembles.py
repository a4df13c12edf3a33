"""What the mean of the predictions of several children of a search is worth."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wpl_jax.evaluation.ensemble import Growing
from wpl_jax.reports.page import Page, band, new_figure
from wpl_jax.reports.sections.section import Report, Section, spread


def of_arms(report: Report) -> dict[str, list[Growing]]:
    """On the test data, by arm, of those searches whose ensembles were evaluated."""
    found: dict[str, list[Growing]] = {}
    for one in report.searches:
        if one.ensembles is not None:
            found.setdefault(one.arm, []).append(one.ensembles["test"])
    return found


def _show(page: Page, report: Report) -> None:
    found = of_arms(report)
    if not found:  # --mode=ensemble evaluates them.
        return
    error = report.error_name
    page.heading("Ensembles of children")
    page.figure(
        curves(report, found),
        "ensembles",
        f"Test {error} of the mean of the probabilities of the best children, with "
        "the shared weights, over the number of children. Mean over seeds, with a band "
        "of one standard deviation.",
    )
    rows = []
    for arm, seeds in found.items():
        last = min(len(each.together.error) for each in seeds) - 1
        best = [float(each.together.error[0]) for each in seeds]
        together = [float(each.together.error[last]) for each in seeds]
        alone = [float(np.mean(each.alone.error[: last + 1])) for each in seeds]
        gained = np.subtract(alone, together).tolist()
        cells = (spread(values, 2) for values in (best, alone, together, gained))
        rows.append((arm, *cells, str(last + 1), str(len(seeds))))
    page.table(
        ("arm", "the best", "mean of members", "together", "gain", "members", "seeds"),
        rows,
    )
    page.text(
        f"Test {error} with the shared weights, mean over seeds ± standard error. The "
        "members are the best candidates of the selection by validation, one of each "
        "isomorphism class. Gain: the mean of the members' errors minus that of the "
        "ensemble."
    )


def curves(report: Report, found: dict[str, list[Growing]]) -> Figure:
    """The error of an ensemble over the number of its members."""
    figure = new_figure(6, 4)
    ax = figure.subplots()
    for arm, _, color in report.colored():
        if arm in found:
            last = min(len(each.together.error) for each in found[arm])
            errors = np.array([each.together.error[:last] for each in found[arm]])
            band(ax, np.arange(1, last + 1), errors, color, arm)
    ax.set(xlabel="children", ylabel=f"test {report.error_name}")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.legend(fontsize="small")
    return figure


SECTION = Section(_show)
