"""How much the children forgot: a table of means, and curves over the epochs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from wpl_jax.reports.page import Page, band, new_figure
from wpl_jax.reports.searched import Columns
from wpl_jax.reports.sections.section import Report, Section, mean, spread
from wpl_jax.runs.run_files import NUMBER_OR_NULL, Kind
from wpl_jax.supernet import Space

# Of a column of the metrics: its title in the figure.
PANELS = {
    "forgetting/error_mean": "(a) mean difference",
    "forgetting/error_best_mean": "(b) mean difference of the best 5",
    "forgetting/error_max": "(c) largest difference",
    "children/reward": "(d) mean reward",
}
# Of a column of the table: the column of the metrics, and its digits.
TABLE = {
    "mean difference": ("forgetting/error_mean", 2),
    "best 5": ("forgetting/error_best_mean", 2),
    "largest": ("forgetting/error_max", 1),
    "mean difference, {loss}": ("forgetting/loss_mean", 4),
    "best 5, {loss}": ("forgetting/loss_best_mean", 4),
    "largest, {loss}": ("forgetting/loss_max", 3),
    "rank correlation": ("forgetting/loss_kendall", 3),
}
_LINEAR = 10  # Axes of differences that go beyond are logarithmic there.


def _columns(space: Space) -> Mapping[str, Kind]:
    del space
    names = [*PANELS, *(name for name, _ in TABLE.values())]
    return dict.fromkeys(names, NUMBER_OR_NULL)


def _show(page: Page, report: Report) -> None:
    if not report.has_others:
        return
    error = report.error_name
    columns = (name.format(loss=report.loss_name) for name in TABLE)
    page.heading("How much was forgotten")
    page.table(
        ("arm", *columns, "mean reward, last epoch", f"{error} of the best"),
        _rows(report),
    )
    page.text(
        f"Differences are err2 - err1 of the {error}, or of the loss where the column "
        f"says {report.loss_name}. They are means over the epochs after the first with "
        "the penalty, ± the standard error over seeds. Rank correlation: Kendall's tau "
        "between err1 and err2, 1 where the children keep their order. The best: the "
        f"architecture selected at the end. Its {error} is measured with the shared "
        "weights, on the validation batches of the selection "
        "(candidates.judge_batches; all if None)."
    )
    page.heading("Forgetting over the epochs")
    page.figure(
        curves(report),
        "forgetting",
        f"As figure 3 of the paper: err2 - err1, {error}, over the children of each "
        "epoch, and the mean reward of the epoch's children at its end. Dotted: the "
        "first epoch with the penalty. Mean over seeds, with a band of one standard "
        f"deviation. If an axis of (a) to (c) goes beyond {_LINEAR}, it is logarithmic "
        "there.",
    )


def _rows(report: Report) -> list[tuple[str, ...]]:
    """A row of the table for each arm."""
    rows = []
    for arm, seeds in report.arms.items():
        cells = [
            spread([mean(report.under_penalty(s.curve(name))) for s in seeds], digits)
            for name, digits in TABLE.values()
        ]
        rewards = [s.curve("children/reward")[-1] for s in seeds]
        errors = [s.results["valid_error"] for s in seeds]
        rows.append((arm, *cells, spread(rewards, 3), spread(errors, 1)))
    return rows


def curves(report: Report) -> Figure:
    """The columns of ``PANELS`` over the epochs, one band for each arm."""
    figure = new_figure(10, 7)
    for ax, (name, title) in zip(
        figure.subplots(2, 2).flat, PANELS.items(), strict=True
    ):
        for arm, seeds, color in report.colored():
            of_seeds = np.array([s.curve(name) for s in seeds])
            epochs = np.arange(1, of_seeds.shape[1] + 1)
            band(ax, epochs, of_seeds, color, arm)
        if report.start_epoch is not None:
            ax.axvline(report.start_epoch + 1, color="0.6", ls=":", lw=1)
        ax.set(title=title, xlabel="epoch")
        if name.startswith("forgetting/"):
            ax.axhline(0, color="0.6", lw=0.8)
            if max(map(abs, ax.get_ylim())) > _LINEAR:
                # Children that explode in one epoch would hide all the others.
                ax.set_yscale("symlog", linthresh=_LINEAR)
    figure.axes[0].legend(fontsize="small")
    return figure


SECTION = Section(_show, Columns(_columns))
