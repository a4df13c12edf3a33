"""The comparison of several runs: accuracies of what they found, by a table."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wpl_jax.errors import UserError
from wpl_jax.evaluation.baselines import baselines
from wpl_jax.evaluation.table import TITLES, Table
from wpl_jax.reports.found import Found, Runs, by_method
from wpl_jax.reports.page import COLORS, Page, new_figure
from wpl_jax.reports.sections.section import spread
from wpl_jax.runs.run_directory import differing_fields
from wpl_jax.runs.run_files import write_atomically

PAGE, MARKDOWN = "comparison.html", "comparison.md"
_ABSENT = "-"


class Judged(NamedTuple):
    """Accuracies by a table.

    Attributes:
      titles: Of the columns of the table, what they are called.
      of_methods: By method and column, ``float64[seeds]``.
      of_baselines: By baseline and column, ``float64[n]``.
    """

    titles: Mapping[str, str]
    of_methods: Mapping[str, Mapping[str, np.ndarray]]
    of_baselines: Mapping[str, Mapping[str, np.ndarray]]


def judge(
    runs: Runs, table: Table, budgets: Sequence[float], split: str = "test"
) -> Judged:
    """Looks up what searches have found, and the baselines.

    Args:
      runs: The finished searches.
      table: Of the space of some of them; others have no accuracies.
      budgets: Seconds of random searches.
      split: ``"test"`` or ``"valid"``.
    """
    ending = f"_{split}"
    columns = [name for name in table.columns if name.endswith(ending)]
    titles = {
        name: TITLES.get(name.removesuffix(ending), name.removesuffix(ending))
        for name in columns
    }
    of_methods = {}
    for method, seeds in by_method(runs.found):
        rows = [row for one in seeds if (row := row_of(one, table)) is not None]
        if rows and columns:
            of_methods[method] = {c: table.values(c)[rows] for c in columns}
    return Judged(titles, of_methods, baselines(table, columns, budgets))


def row_of(one: Found, table: Table) -> int | None:
    """The row of what a search has found; None if the table does not tell of it.

    It is of another space, or the run has a truth of its own: the same architecture
    has other accuracies on the images of a user.
    """
    if one.space != table.space or not one.by_table:
        return None
    return table.number(list(one.decisions.values()), one.choice)


def write(
    workdir: Path, runs: Runs, table: Table, budgets: Sequence[float] = (12_000.0,)
) -> str:
    """Writes ``comparison.html``, ``comparison.md`` and ``figures/``.

    Args:
      workdir: Where to.
      runs: The finished searches of several runs.
      table: Of the accuracies.
      budgets: Seconds of random searches, as the table counts them.

    Returns:
      The tables in Markdown.

    Raises:
      UserError: If the table lacks an architecture of its space.
    """
    test, valid = (judge(runs, table, budgets, split) for split in ("test", "valid"))
    page = Page("Comparison of searches", workdir)
    parts = []
    for note in runs.notes:
        page.warning(note)

    def add(title: str, text: str, rows: list[tuple[str, ...]]) -> None:
        page.heading(title)
        page.table(rows[0], rows[1:])
        page.text(text)
        parts.append(f"### {title}\n\n{markdown(rows)}\n\n{text}\n")

    if test.of_methods:
        page.heading("Test accuracy")
        page.figure(
            bars(test),
            "accuracies",
            "Test accuracy of the architectures found, by the table: the mean over "
            "seeds, each seed as a dot, and the standard error as a line. A bar begins "
            "at the mean of all architectures of the table. Grey: baselines from the "
            "table alone. Dashed: the highest accuracy in the table.",
        )
    for name, judged in (("Test", test), ("Validation", valid)):
        if judged.of_methods:
            add(
                f"{name} accuracy by method",
                "Accuracy in per cent by the table, mean over seeds ± standard error. "
                "Baselines from the table alone have the standard deviation over "
                "architectures or trials in brackets. A random search trains "
                "architectures for 12 epochs until it has used the given seconds of "
                "the table.",
                _accuracies(judged),
            )
    add(
        "Searches by method",
        "Means over seeds ± standard error. Seconds: wall-clock time of a search with "
        "its compilation, which later seeds of a run reuse. A column with the name of "
        "a choice counts the decisions for it.",
        _costs(runs.found, table),
    )
    add(
        "Searches",
        "The architecture that each search has found, and its test accuracy.",
        _searches(runs.found, table, test.titles),
    )
    differences = _differences(runs)
    if len(differences) > 1:
        page.heading("Different settings")
        page.table(differences[0], differences[1:])
    if runs.notes:
        notes = "\n".join(f"- {note}" for note in runs.notes)
        parts.append(f"### Missing or different runs\n\n{notes}\n")
    text = "\n".join(parts)
    page.write(workdir / PAGE)
    write_atomically(workdir / MARKDOWN, text)
    return text


def markdown(rows: Sequence[Sequence[str]]) -> str:
    r"""A table in Markdown; the first row is its header.

    Examples:
      >>> print(markdown([("method", "a|b"), ("GAEA", "1")]))
      | method | a\|b |
      |---|---|
      | GAEA | 1 |
    """

    def line(cells: Iterable[str]) -> str:
        escaped = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(escaped)} |"

    rule = f"|{'---|' * len(rows[0])}"
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:])])


def _accuracies(judged: Judged) -> list[tuple[str, ...]]:
    """A row for each method and each baseline."""
    rows: list[tuple[str, ...]] = [("method", *judged.titles.values(), "seeds")]
    for method, found in judged.of_methods.items():
        cells = [spread(list(found[column]), 2) for column in judged.titles]
        rows.append((method, *cells, str(len(found[next(iter(found))]))))
    for title, found in judged.of_baselines.items():
        rows.append((title, *map(_deviating, found.values()), ""))
    return rows


def _deviating(values: np.ndarray) -> str:
    """The mean and the standard deviation, if there are several values."""
    there = values[np.isfinite(values)]
    deviation = f" ({there.std():.2f})" if len(there) > 1 else ""
    return f"{there.mean():.2f}{deviation}"


def _costs(found: Sequence[Found], table: Table) -> list[tuple[str, ...]]:
    """A row for each method: its seeds, seconds, errors and choices."""
    names = [
        name
        for name in table.names
        if any(name in one.decisions.values() for one in found)
    ]
    error = " or ".join(dict.fromkeys(one.error_name for one in found))
    rows: list[tuple[str, ...]] = [
        (
            *("method", "seeds", "seconds", f"validation {error}, shared weights"),
            f"test {error}, from scratch",
            *map(_short, names),
        )
    ]
    for method, seeds in by_method(found):
        counts = [
            _mean([list(one.decisions.values()).count(name) for one in seeds], 1)
            for name in names
        ]
        rows.append(
            (
                method,
                str(len(seeds)),
                _mean([one.seconds for one in seeds], 0),
                _mean([one.valid_error for one in seeds], 2),
                _mean([one.test_error for one in seeds], 2),
                *counts,
            )
        )
    return rows


def _mean(values: Sequence[float | None], digits: int) -> str:
    """The mean and standard error of what is known."""
    known = [value for value in values if value is not None]
    return spread(known, digits) if known else _ABSENT


def _searches(
    found: Sequence[Found], table: Table, titles: Mapping[str, str]
) -> list[tuple[str, ...]]:
    """A row for each search."""
    header = ("method", "seed", *titles.values(), "seconds", "number", "architecture")
    rows: list[tuple[str, ...]] = [header]
    for one in found:
        row = row_of(one, table)
        accuracies = [_ABSENT] * len(titles)
        number, text = _ABSENT, " ".join(one.decisions.values())
        if row is not None:
            accuracies = [f"{table.values(column)[row]:.2f}" for column in titles]
            number, text = str(row), table.to_text(table.choices[row])
        seconds = _mean([one.seconds], 0)
        rows.append((one.method, str(one.seed), *accuracies, seconds, number, text))
    return rows


def _differences(runs: Runs) -> list[tuple[str, ...]]:
    """The settings in which methods differ from the first one."""
    rows: list[tuple[str, ...]] = [("method", "setting", "there", "first method")]
    (_, first), *others = runs.configs.items()
    for method, config in others:
        for name, ours, theirs in differing_fields(first, config):
            rows.append((method, name, str(theirs), str(ours)))
    return rows


def _short(name: str) -> str:
    """A choice as a column's title.

    Examples:
      >>> _short("nor_conv_3x3")
      'conv 3x3'
    """
    return name.removeprefix("nor_").replace("_", " ")


class _Bar(NamedTuple):
    """What one bar shows: accuracies by the column of the table."""

    title: str
    found: Mapping[str, np.ndarray]
    color: str
    searched: bool  # or from the table alone


def bars(judged: Judged) -> Figure:
    """Mean accuracies, one panel for each data set, one bar for each method."""
    (_, origin), *between, (_, best) = judged.of_baselines.items()
    shown = [
        _Bar(method, found, color, True)
        for (method, found), color in zip(
            judged.of_methods.items(), itertools.cycle(COLORS), strict=False
        )
    ]
    shown += [_Bar(title, found, "0.6", False) for title, found in between]
    figure = new_figure(10, 1.2 + 0.34 * len(shown))
    panels = figure.subplots(1, len(judged.titles), sharey=True, squeeze=False)[0]
    for ax, (column, title) in zip(panels, judged.titles.items(), strict=True):
        start = float(np.nanmean(origin[column]))
        for place, bar in enumerate(shown):
            _draw(ax, bar, bar.found[column], place, start)
        ax.axvline(start, color="0.4", lw=0.8)
        ax.axvline(float(best[column][0]), color="0.4", ls="--", lw=0.8)
        ax.set(title=title, xlabel="test accuracy, %")
    panels[0].set_yticks(
        range(len(shown)), [bar.title for bar in shown], fontsize="small"
    )
    panels[0].invert_yaxis()
    return figure


def _draw(ax: Axes, bar: _Bar, values: np.ndarray, place: int, start: float) -> None:
    """One bar from ``start``, with its seeds and its standard error."""
    mean = float(np.nanmean(values))
    ax.barh(place, mean - start, left=start, height=0.6, color=bar.color, alpha=0.5)
    if bar.searched:
        ax.plot(values, [place] * len(values), "o", color=bar.color, ms=3, alpha=0.7)
    if bar.searched and len(values) > 1:
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        ax.errorbar(mean, place, xerr=error, color="black", capsize=2, lw=1)
    ax.annotate(
        f"{mean:.2f}",
        (1.0, place),
        xytext=(3, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize="x-small",
    )


def check_table(table: Table) -> None:
    """Refuses a table without test accuracies.

    Raises:
      UserError: If no column ends in ``_test``.
    """
    if not any(name.endswith("_test") for name in table.columns):
        raise UserError(
            f"The table of {table.space} lacks test accuracies: none of its columns "
            f"({', '.join(table.columns)}) is named DATA_test."
        )
