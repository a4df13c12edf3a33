"""The discretization gap: what a search loses by keeping one choice of a mixture."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wpl_jax.common.counted import counted
from wpl_jax.reports.page import Page, band, new_figure
from wpl_jax.reports.searched import Columns
from wpl_jax.reports.sections.section import Report, Section, span
from wpl_jax.runs.run_files import NUMBER_OR_NULL, Kind
from wpl_jax.supernet import Space

# Of a measure: the columns of the metrics with the gap, and with that of mixtures.
COLUMNS = {
    "loss": ("children/discretization_gap_loss", "children/err2"),
    "error": ("children/discretization_gap_error", "children/error"),
}
_GAP = COLUMNS["error"][0]


def _columns(space: Space) -> Mapping[str, Kind]:
    del space
    return {gap: NUMBER_OR_NULL for gap, _ in COLUMNS.values()}


def _show(page: Page, report: Report) -> None:
    arms = [arm for arm, *_ in report.recording(_GAP)]
    if not arms:
        return
    batches = span(report.of_search("eval_batches", arms))
    page.heading("Discretization gap")
    page.figure(
        curves(report),
        "discretization_gap",
        f"Loss and {report.error_name} at the end of each epoch, on "
        f"{counted(batches, 'validation batch', 'validation batches')} with the "
        "shared weights. Dashed: the mixtures that were trained, mean over the epoch. "
        "Solid: the architectures to which they are discretized. The gap is the solid "
        "line minus the dashed one. "
        "Mean over seeds, with a band of one standard deviation.",
    )


def curves(report: Report) -> Figure:
    """Losses and errors of both, and the gap in the error."""
    figure = new_figure(11.5, 3.8)
    *both, of_gap = figure.subplots(1, len(COLUMNS) + 1)
    titles = {"loss": report.loss_name, "error": report.error_name}
    for arm, seeds, color in report.recording(_GAP):
        for ax, (measure, (of_gaps, of_mixtures)) in zip(
            both, COLUMNS.items(), strict=True
        ):
            gap = np.array([one.curve(of_gaps) for one in seeds])
            mixture = np.array([one.curve(of_mixtures) for one in seeds])
            mixture = mixture.reshape(*gap.shape, -1).mean(-1)  # over an epoch's
            epochs = np.arange(1, gap.shape[1] + 1)
            band(ax, epochs, mixture + gap, color, arm)
            band(ax, epochs, mixture, color, "", "--")
            ax.set_title(titles[measure])
        band(of_gap, epochs, gap, color, arm)
    of_gap.axhline(0, color="0.6", lw=0.8)
    of_gap.set_title(f"gap, {report.error_name}")
    for ax in (*both, of_gap):
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = of_gap.get_legend_handles_labels()
    figure.legend(*handles, fontsize="small", loc="outside right center")
    return figure


SECTION = Section(_show, Columns(of_some=_columns))
