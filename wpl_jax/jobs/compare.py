"""The command ``wpl-jax-compare``: one page and one table from several runs.

wpl-jax-compare --out=runs/comparison runs/gaea "DARTS=runs/darts" "DARTS=runs/darts_2"

Each run is a folder (``--workdir``) of a search, finished or not. ``python -m
wpl_jax.jobs.compare`` is the same command. With files ``searches.csv``, which reports
write, it compares the arms over seeds, also those of several machines:

wpl-jax-compare --out=runs/comparison --main=none seeds_0_to_4.csv seeds_5_to_9.csv
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from wpl_jax.common.paths import as_path
from wpl_jax.errors import UserError, on_command_line, shorten
from wpl_jax.evaluation import table as tables
from wpl_jax.reports import comparison, found, measures, paired
from wpl_jax.runs import console
from wpl_jax.runs.run_files import make_folder, write_atomically

_MOST_SECONDS = 1e7  # on the whole table 12-epoch trainings take 1.7 million


def labelled(arguments: Sequence[str]) -> list[tuple[str | None, Path]]:
    """Label and folder of each run; see :func:`wpl_jax.reports.found.read`.

    Args:
      arguments: ``FOLDER`` or ``LABEL=FOLDER``. Folders with the same ``LABEL`` are
        seeds of one method.

    Raises:
      UserError: If two folders without a label have the same name.

    Examples:
      >>> labelled(["runs/gaea/", "DARTS, bilevel=runs/darts"])
      [(None, PosixPath('runs/gaea')), ('DARTS, bilevel', PosixPath('runs/darts'))]
    """
    runs: list[tuple[str | None, Path]] = []
    for argument in arguments:
        label, equals, folder = argument.partition("=")
        given = equals and not as_path(argument, "a run").exists()
        path = as_path(folder if given else argument, "a run", "[LABEL=]FOLDER")
        runs.append((label if given else None, path))
    own = [path.resolve().name for label, path in runs if label is None]
    names = own + [label for label, _ in runs if label is not None]
    if twice := [name for name in own if names.count(name) > 1]:
        raise UserError(
            f"Two runs have the name {shorten(twice[0])}. Give them as LABEL=FOLDER, "
            "with the same label if they are seeds of one method."
        )
    return runs


def compare(
    runs: Sequence[tuple[str | None, Path]],
    out: Path,
    table: str | None = None,
    budgets: Sequence[float] = (12_000.0,),
) -> str:
    """Writes the comparison of several runs.

    Args:
      runs: Label or None, and folder of each.
      out: Folder for ``comparison.html``, ``comparison.md`` and ``figures/``.
      table: Path of a table of accuracies; None for NAS-Bench-201, and only for runs
        whose truth is a table (``ranking.truth``).
      budgets: Seconds of random searches to compare with, as the table counts them.

    Returns:
      The tables in Markdown.

    Raises:
      UserError: If no search has finished, or the table is wrong.
    """
    read = tables.nasbench201() if table is None else tables.read(table)
    comparison.check_table(read)
    searches = found.read(runs, all_by_table=table is not None)
    return comparison.write(make_folder(out, "out"), searches, read, budgets)


def compare_rows(files: Sequence[Path], out: Path, main: str | None = None) -> str:
    """Writes the comparison of the arms of several runs over their seeds.

    Args:
      files: ``searches.csv`` of each.
      out: Folder for ``comparison.html``, ``comparison.md`` and ``figures/``.
      main: The arm that the others are compared with; None for the first.

    Returns:
      The tables in Markdown.

    Raises:
      UserError: If a file is another one, or two have the same search.
    """
    rows = [row for path in files for row in measures.read(path)]
    if not rows:
        raise UserError("The files have no searches.")
    folder = make_folder(out, "out")
    text = paired.write(folder / comparison.PAGE, rows, main or rows[0].arm)
    write_atomically(folder / comparison.MARKDOWN, text + "\n")
    return text


def _seconds(text: str) -> float:
    """A budget; argparse reports a ValueError."""
    seconds = float(text)
    if not 0 < seconds <= _MOST_SECONDS:
        raise ValueError(text)
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        "wpl-jax-compare", description="Compares the searches of several runs."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="[LABEL=]FOLDER",
        help="folder of a run; runs with the same label are seeds of one method. Or "
        f"files {measures.SEARCHES_FILE}, whose arms are compared",
    )
    parser.add_argument(
        "--main", help="of files: the arm that others are compared with"
    )
    parser.add_argument(
        "--out", required=True, help="folder for the page and the tables"
    )
    parser.add_argument(
        "--table",
        help="CSV file of accuracies; if not given, NAS-Bench-201 for runs with "
        "ranking.truth=table",
    )
    parser.add_argument(
        "--budget",
        type=_seconds,
        action="append",
        metavar="SECONDS",
        help="of a random search on the table; repeatable, 12000 if not given",
    )
    given = parser.parse_args(argv)
    sys.stdout = console.lasting(sys.stdout)
    try:
        with on_command_line():
            page = _compare(given)
    except UserError as error:
        print(f"Error: {error}", file=console.lasting(sys.stderr))
        sys.exit(2)
    print(f"Comparison: {page}")


def _compare(given: argparse.Namespace) -> Path:
    """Prints the comparison; returns its page."""
    out = as_path(given.out, "--out")
    files = [as_path(run, "a run") for run in given.runs if run.endswith(".csv")]
    if files and len(files) == len(given.runs):
        print(compare_rows(files, out, given.main))
    else:
        budgets = given.budget or [12_000.0]
        print(compare(labelled(given.runs), out, given.table, budgets))
    return out / comparison.PAGE


if __name__ == "__main__":
    main()
