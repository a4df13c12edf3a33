"""Methods compared over the same seeds, with bootstrap intervals."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wpl_jax.common.bootstrap import CONFIDENCE, Interval, interval_of
from wpl_jax.errors import UserError, shorten
from wpl_jax.reports.comparison import markdown
from wpl_jax.reports.measures import ACCURACY, TAU, Row, forgotten
from wpl_jax.reports.page import COLORS, Page, new_figure

_SHOWN = (TAU, "P@top", "BR@", "regret", ACCURACY)
_MARKERS = "osD^v<>PX*"


class Compared(NamedTuple):
    """A measure of one method.

    Attributes:
      mean: Over its seeds.
      more: Mean difference from the main method, over the seeds that both have; None
        without such seeds, and of the main method.
      seeds: Number of its seeds with a value.
    """

    mean: Interval
    more: Interval | None
    seeds: int


def compare(rows: Sequence[Row], measure: str, main: str) -> dict[str, Compared]:
    """Compares methods by one measure.

    Args:
      rows: Of all searches.
      measure: A name of their values.
      main: The arm that the others are compared with.

    Returns:
      By arm, in the order of the rows; arms without a finite value are left out.
    """
    of_arms: dict[str, dict[int, float]] = {}
    for row in rows:
        value = row.values.get(measure, np.nan)
        if np.isfinite(value):
            of_arms.setdefault(row.arm, {})[row.seed] = value
    base = of_arms.get(main, {})
    return {
        arm: Compared(
            interval_of(np.mean, np.array(list(found.values()))),
            None if arm == main else _more(found, base),
            len(found),
        )
        for arm, found in of_arms.items()
    }


def _more(found: Mapping[int, float], base: Mapping[int, float]) -> Interval | None:
    both = [seed for seed in found if seed in base]
    if not both:
        return None
    return interval_of(np.mean, np.array([found[s] - base[s] for s in both]))


def measures_of(rows: Sequence[Row]) -> list[str]:
    """The measures that are shown: of forgetting, of the order, of the selected."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    starts = forgotten(rows), *_SHOWN
    return [name for start in starts for name in names if name.startswith(start)]


def add(page: Page, rows: Sequence[Row], main: str) -> list[list[tuple[str, ...]]]:
    """Adds the comparison of methods to a page: a figure and two tables.

    Args:
      page: What it is added to.
      rows: Of all searches.
      main: The arm that the others are compared with.

    Returns:
      The tables; the first row of each is its header.
    """
    names = measures_of(rows)
    found = {name: compare(rows, name, main) for name in names}
    arms = list(dict.fromkeys(row.arm for row in rows))
    seeds = {arm: len({row.seed for row in rows if row.arm == arm}) for arm in arms}
    means: list[tuple[str, ...]] = [("arm", "seeds", *names)]
    means += [
        (arm, str(seeds[arm]), *(_mean(found[name].get(arm)) for name in names))
        for arm in arms
    ]
    differences: list[tuple[str, ...]] = [(f"minus {main}", *names)]
    differences += [
        (arm, *(_difference(found[name].get(arm)) for name in names))
        for arm in arms
        if arm != main
    ]
    if any(name.startswith((TAU, ACCURACY)) for name in names):
        page.figure(
            scatter(rows, main),
            "methods",
            f"Each method's forgetting (err2 - err1 of the loss) against {TAU} of its "
            "ranking and the test accuracy of what it selects, by the truth of the "
            f"first data set. Mean over seeds; lines are {CONFIDENCE:.0%} bootstrap "
            "intervals over seeds. Dashed: the main arm.",
        )
    for table in (means, differences):
        page.table(table[0], table[1:])
    page.text(
        f"Means over seeds with {CONFIDENCE:.0%} bootstrap intervals over seeds. In "
        f"the second table, mean differences from {main} over the same seeds; a star "
        "marks an interval without 0."
    )
    return [means, differences]


def write(path: Path, rows: Sequence[Row], main: str) -> str:
    """Writes a page that compares methods, with its figure beside it.

    Args:
      path: Of the page.
      rows: Of all searches, perhaps of several runs.
      main: The arm that the others are compared with.

    Returns:
      The tables in Markdown.

    Raises:
      UserError: If a search is there twice, or the main arm is not there.
    """
    keys = [(row.arm, row.seed) for row in rows]
    if twice := [key for key in keys if keys.count(key) > 1]:
        arm, seed = twice[0]
        raise UserError(f"Seed {seed} of {shorten(arm)} is in two of the files.")
    arms = list(dict.fromkeys(row.arm for row in rows))
    if main not in arms:
        known = ", ".join(map(shorten, arms))
        raise UserError(f"There is no arm {shorten(main)} in the files, but {known}.")
    page = Page("Methods compared", path.parent)
    tables = add(page, rows, main)
    page.write(path)
    return "\n\n".join(map(markdown, tables))


def _mean(found: Compared | None) -> str:
    return "-" if found is None else in_brackets(found.mean)


def _difference(found: Compared | None) -> str:
    if found is None or found.more is None:
        return "-"
    differs = found.more.low > 0 or found.more.high < 0
    return in_brackets(found.more, "+") + ("*" if differs else "")


def in_brackets(found: Interval, sign: str = "") -> str:
    """A value and its interval.

    Examples:
      >>> in_brackets(Interval(0.25, 0.2, 0.3), "+")
      '+0.250 [+0.200, +0.300]'
      >>> in_brackets(Interval(94.0, np.nan, np.nan))
      '94.00'
    """
    digits = 2 if abs(found.value) >= 10 else 3
    value, low, high = (f"{x:{sign}.{digits}f}" for x in found)
    return value if np.isnan(found.low) else f"{value} [{low}, {high}]"


def scatter(rows: Sequence[Row], main: str) -> Figure:
    """Forgetting against the order and the accuracy of what is selected."""
    names = measures_of(rows)
    shown = [
        name
        for start in (TAU, ACCURACY)
        for name in [n for n in names if n.startswith(start)][:1]
    ]
    figure = new_figure(1.5 + 4 * len(shown), 4.2)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    loss = forgotten(rows)
    across = compare(rows, loss, main)
    for ax, name in zip(panels, shown, strict=True):
        _draw(ax, across, compare(rows, name, main), main)
        ax.set(xlabel=loss, ylabel=name)
        ax.locator_params(axis="x", nbins=5)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize="x-small", loc="outside right center")
    return figure


def _draw(
    ax: Axes,
    across: Mapping[str, Compared],
    up: Mapping[str, Compared],
    main: str,
) -> None:
    styles = zip(itertools.cycle(COLORS), itertools.cycle(_MARKERS), strict=False)
    for arm, (color, marker) in zip(up, styles, strict=False):
        if arm not in across:
            continue
        x, y = across[arm].mean, up[arm].mean
        bars: dict[str, Any] = {
            f"{axis}err": [[of.value - of.low], [of.high - of.value]]
            for axis, of in (("x", x), ("y", y))
            if not np.isnan(of.low)
        }
        ax.errorbar(
            *(x.value, y.value), **bars, fmt=marker, color=color, ms=5, lw=1, label=arm
        )
        if arm == main:
            ax.axhline(y.value, color="0.5", ls="--", lw=0.8)
            ax.axvline(x.value, color="0.5", ls="--", lw=0.8)
