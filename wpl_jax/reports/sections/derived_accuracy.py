"""True accuracy, by a table, of what a search would derive at the end of each epoch."""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wpl_jax.errors import UserError
from wpl_jax.evaluation import architectures
from wpl_jax.evaluation import table as tables
from wpl_jax.evaluation.truth_from_table import FromTable, is_truth_of
from wpl_jax.reports.page import Page, new_figure
from wpl_jax.reports.searched import Columns, Searched
from wpl_jax.reports.sections.derived_operations import DERIVED, columns
from wpl_jax.reports.sections.section import Report, Section, spread


class Lines(NamedTuple):
    """Accuracies to compare with, in per cent.

    Attributes:
      mean: Of all architectures of the space.
      best: Of the best one.
    """

    mean: float
    best: float


def _show(page: Page, report: Report) -> None:
    try:
        truths = find_truths(report)
    except UserError as error:  # A table of one's own that has moved, say.
        page.warning(f"There is no accuracy by a table. {error}")
        return
    if not truths:
        return
    page.heading("Accuracy by the table")
    page.text(
        f"These accuracies are on {_some(truths)}, by a table: of networks that its "
        "authors trained on these data sets. They are not those of the networks that "
        f"this run has trained, on its own data ({report.about}). On other data other "
        "architectures may be the best."
    )
    page.figure(
        curves(report, truths),
        "derived_accuracy",
        "Test accuracy, by the table, of the architecture that would be derived at the "
        "end of each epoch. Of strategies without architecture weights it is the best "
        "child of the epoch. A thin line for each seed, and a thick line for their "
        "mean. Diamonds: the selected architectures. Dashed: the best architecture of "
        f"the space of {next(iter(report.arms))}. Dotted: the mean of all "
        "architectures of that space. Panels do not show the lowest 5 % of the values "
        "if these are below the dotted line. The search does not use these accuracies.",
    )
    rows = [
        (
            arm,
            *(
                spread(_accuracies(truth, seeds, _selected(seeds)).tolist(), 2)
                for truth in truths.values()
            ),
            str(len(seeds)),
        )
        for arm, seeds in report.arms.items()
    ]
    page.table(("arm", *truths, "seeds"), rows)
    page.text(
        "Test accuracy of the selected architectures by the table, mean over seeds ± "
        "standard error."
    )


def find_truths(report: Report) -> dict[str, FromTable]:
    """By title of a data set, the test accuracies of the space's architectures.

    There are none unless a table is the configuration's truth (``ranking.truth``).

    Raises:
      UserError: If the configuration names a table that cannot be read.
    """
    if not is_truth_of(report.config):
        return {}
    path = report.config["ranking"].get("table", {}).get("path")
    table = tables.nasbench201() if path is None else tables.read(path)
    names = [name.removesuffix("_test") for name in table.columns if _is_test(name)]
    truths = {
        tables.TITLES.get(name, name): FromTable(name, "test", path) for name in names
    }
    try:
        for truth, one in itertools.product(truths.values(), report.searches):
            truth.check(one.space)
    except UserError:  # The table is of another space.
        return {}
    return truths


def _some(titles: Iterable[str]) -> str:
    """Titles as in "A, B and C"."""
    *first, last = titles
    return f"{', '.join(first)} and {last}" if first else last


def _is_test(column: str) -> bool:
    return column.endswith("_test")


def curves(report: Report, truths: dict[str, FromTable]) -> Figure:
    """Accuracies over the epochs, a panel for each data set."""
    figure = new_figure(2 + 3.1 * len(truths), 3.8)
    panels = figure.subplots(1, len(truths), squeeze=False)[0]
    for ax, (title, truth) in zip(panels, truths.items(), strict=True):
        every = []
        for arm, seeds, color in report.colored():
            derived = np.array([of_epochs(one) for one in seeds])
            found = _accuracies(truth, seeds, derived)
            epochs = np.arange(1, found.shape[1] + 1)
            for of_seed in found:
                ax.plot(epochs, of_seed, color=color, lw=0.6, alpha=0.6)
            ax.plot(epochs, found.mean(0), color=color, label=arm)
            selected = _accuracies(truth, seeds, _selected(seeds))
            ends = np.full(len(seeds), epochs[-1] + 1)
            ax.plot(ends, selected, "D", color=color, ms=4, alpha=0.7)
            every += [*found.ravel(), *selected]
        _draw_lines(ax, lines(truth, report.searches), np.array(every))
        ax.set(title=title, xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("test accuracy, %")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize="small", loc="outside right center")
    return figure


def of_epochs(one: Searched) -> list[list[int]]:
    """What would be derived at the end of each epoch, ``[epochs][decisions]``."""
    return [row.get(DERIVED, row["children/best"]) for row in one.metrics]


def lines(truth: FromTable, searches: Sequence[Searched]) -> Lines | None:
    """The mean and the best of all architectures of the first search's space.

    Returns:
      None if the space has too many architectures, or the table lacks some.
    """
    try:
        found = _accuracies(truth, searches, architectures.every(searches[0].space))
    except UserError:
        return None
    return Lines(float(np.nanmean(found)), float(np.nanmax(found)))


def _draw_lines(ax: Axes, to_compare: Lines | None, values: np.ndarray) -> None:
    """Draws the lines, and cuts off the lowest values, which hide the others."""
    if to_compare is None:
        return
    ax.axhline(to_compare.best, color="0.4", ls="--", lw=0.8)
    ax.axhline(to_compare.mean, color="0.4", ls=":", lw=1)
    low = min(float(np.nanquantile(values, 0.05)), to_compare.mean)
    margin = 0.05 * (to_compare.best - low)
    ax.set_ylim(low - margin, to_compare.best + margin)


def _selected(seeds: list[Searched]) -> np.ndarray:
    return np.array([one.results["architecture"] for one in seeds])


def _accuracies(
    truth: FromTable, searches: Sequence[Searched], choices: np.ndarray
) -> np.ndarray:
    """In per cent, ``float64[...]``; ``int[..., decisions]`` of the searches' space."""
    flat = choices.reshape(-1, choices.shape[-1])
    errors = np.array(truth.of(searches[0].space, flat, None))
    return 100 - errors.reshape(choices.shape[:-1])


SECTION = Section(_show, Columns(of_some=columns))
