"""Whether the children keep their order: err1 against err2 in the last epoch."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from wpl_jax.reports.page import Page, new_figure
from wpl_jax.reports.sections.section import Report, Section


def _show(page: Page, report: Report) -> None:
    if not report.has_others:
        return
    page.heading("Whether the children keep their order")
    page.figure(
        _scatter(report),
        "ranks",
        "err1 and err2 of the children of the last epoch, in the first seed. A child "
        "above the line has forgotten.",
    )


def _scatter(report: Report) -> Figure:
    """err1 against err2, one panel for each arm."""
    figure = new_figure(4 * len(report.arms), 4)
    grid = figure.subplots(1, len(report.arms), sharex=True, sharey=True, squeeze=False)
    for ax, (arm, seeds, color) in zip(grid[0], report.colored(), strict=True):
        last = seeds[0].metrics[-1]
        err1, err2 = (
            np.array(last[name], float) for name in ("children/err1", "children/err2")
        )
        ax.plot(err1, err2, "o", color=color)
        there = [x for x in (*err1, *err2) if np.isfinite(x)]
        if there:
            ends = (min(there), max(there))
            ax.plot(ends, ends, color="0.6", lw=0.8)
        # A child whose states explode would leave no room for the others.
        ax.set(
            title=arm, xlabel=f"err1, {report.loss_name}", xscale="log", yscale="log"
        )
        for axis in (ax.xaxis, ax.yaxis):  # Its range is a part of a decade, or many.
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    grid[0][0].set_ylabel(f"err2, {report.loss_name}")
    return figure


SECTION = Section(_show)
