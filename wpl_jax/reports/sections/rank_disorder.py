"""The order of architectures by the shared weights against their true order."""

from collections.abc import Mapping, Sequence
from typing import Any

from wpl_jax.common.counted import counted
from wpl_jax.evaluation.rank_files import SCORES_FILE
from wpl_jax.reports.page import Page, new_figure
from wpl_jax.reports.sections.section import Report, Section

_MOST_POINTS = 1000  # that a figure holds as shapes; more are drawn as an image
# How names of metrics begin, in the order of columns.
_COLUMNS = ("Kendall", "Spearman", "P@top", "P@bottom", "BR@", "WR@", "regret")
_WHICH = {
    "sample": "random architectures",
    "all": "architectures, all of the space",
    "classes": "architectures, one of each isomorphism class",
}


def _show(page: Page, report: Report) -> None:
    found = report.ranks
    if found is None:  # --mode=rank writes it.
        return
    error = report.error_name
    page.heading("Rank disorder")
    _figure(page, found, report)
    rows = [
        (one.folder, *_cells(found["searches"][one.folder]["metrics"]))
        for one in report.searches
    ]
    rows += [(name, *_cells(each)) for name, each in found["without_search"].items()]
    metrics = next(iter(found["searches"].values()))["metrics"]
    page.table(("by", *_ordered(metrics)), rows)
    if found["tuned"]:
        page.text(
            "Before it is evaluated, each architecture is trained on "
            f"{counted(found['tuned'], 'batch', 'batches')} alone, on a copy of the "
            "shared weights, so that nothing of it is overwritten."
        )
    page.text(
        "How well the shared weights of each search, and estimates that need no "
        "search, rank architectures, with 95 % intervals. Shared weights order them "
        f"by the {error} on the same validation batches, those of equal error by the "
        "loss. P@top K: the share of the K best by the shared weights that truly are "
        "among the K best; P@bottom K: the same for the worst. BR@K and WR@K: the best "
        "and the worst true rank of the K best by the shared weights, divided by the "
        "number of architectures. Regret: the true error of the best by the shared "
        "weights, minus the lowest true error.",
        "An interval says how much a value depends on which architectures are ranked. "
        "It does not include the variation between seeds. Architectures with an "
        f"error that is not finite are left out. {SCORES_FILE} has all scores.",
    )
    _selected(page, found)


def _figure(page: Page, found: dict[str, Any], report: Report) -> None:
    true, error = found["true_errors"], report.error_name
    figure = new_figure(4 * len(report.arms), 4)
    grid = figure.subplots(1, len(report.arms), sharey=True, squeeze=False)
    many = len(true) > _MOST_POINTS
    style: Any = {"ms": 4, "alpha": 0.6}
    if many:
        style = {"ms": 1, "alpha": 0.2, "rasterized": True}
    for ax, (arm, seeds, color) in zip(grid[0], report.colored(), strict=True):
        for one in seeds:
            shared = found["searches"][one.folder]["errors"]
            ax.plot(shared, true, "o", color=color, **style)
        ax.set(title=arm, xlabel=f"{error}, shared weights")
    grid[0][0].set_ylabel(f"{error}, {found['truth']}")
    page.figure(
        figure,
        "rank_disorder",
        f"{len(true):,} {_WHICH.get(found['which'], 'architectures')}: with the shared "
        f"weights of the searches, all seeds, and {found['truth']}.",
    )


def _cells(metrics: Mapping[str, Sequence[float | None]]) -> list[str]:
    return [_interval(*metrics[name]) for name in _ordered(metrics)]


def _ordered(metrics: Mapping[str, Any]) -> list[str]:
    """Names of metrics in the order of columns."""
    return sorted(
        metrics,
        key=lambda name: [not name.startswith(start) for start in _COLUMNS],
    )


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return f"{_told(value)} ({_told(low)} to {_told(high)})"


def _told(value: float | None) -> str:
    """Three digits: ranks of the best of many are small."""
    if value is None:
        return "nan"
    return f"{value:.2f}" if abs(value) >= 0.1 or value == 0 else f"{value:.3g}"


def _selected(page: Page, found: dict[str, Any]) -> None:
    """What searches selected, beside random search that trains architectures."""
    selected, random = [], []
    for name, search in found["searches"].items():
        if one := search["selected"]:
            numbers = (f"{one[key]:.2f}" for key in ("error", "regret"))
            better = f"{100 * one['better']:.2g} %"
            selected.append((name, *numbers, better, _seconds(search["seconds"])))
        random += [(name, *_random(each)) for each in search["random_search"]]
    if not selected:
        return
    page.table(("selected by", "true error", "regret", "better", "search"), selected)
    page.text(
        "The architectures that the searches selected at the end: the true error, the "
        "regret (that error minus the lowest true error), the share of architectures "
        "that are better, and the time of the search."
    )
    if random:
        header = ("compared with", "epochs", "trainings in the time of the search")
        equal = "trainings until equal", "their time"
        page.table((*header, "their true error", *equal), random)
        page.text(
            "Random search trains random architectures from scratch and selects by the "
            "validation accuracy; means over all such searches. The times of its "
            "trainings are those in the table, of the machines of the table's authors. "
            "On a slower machine than theirs, the search's time seems to pay for more "
            "trainings than it would. If it pays for less than one training, the true "
            "error is that of one random architecture."
        )


def _random(each: Mapping[str, Any]) -> tuple[str, ...]:
    def number(value, form):
        return "unknown" if value is None else f"{value:{form}}"

    until = each["equal_trainings"]
    return (
        number(each["epochs"], "d"),
        number(each["trainings"], ".3g"),
        number(each["error"], ".2f"),
        "never" if until is None else f"{until:.3g}",
        "never" if until is None else _seconds(each["equal_seconds"]),
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:,.0f} s" if value < 7200 else f"{value / 3600:,.0f} h"


SECTION = Section(_show)
