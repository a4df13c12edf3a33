"""What searches are measured by: a row for each search, and a CSV file of them."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wpl_jax.errors import UserError
from wpl_jax.evaluation.rank_disorder import estimate_of
from wpl_jax.evaluation.ranking_metrics import tau_of_finite
from wpl_jax.evaluation.truth_from_table import FromTable
from wpl_jax.reports.searched import Searched
from wpl_jax.reports.sections import true_order
from wpl_jax.reports.sections.derived_accuracy import find_truths
from wpl_jax.reports.sections.section import Report, mean
from wpl_jax.runs.run_files import write_atomically
from wpl_jax.tasks import Evaluation

SEARCHES_FILE = "searches.csv"
TAU, ACCURACY = "Kendall's tau", "accuracy"  # of a data set: "accuracy, CIFAR-10"
_FORGOTTEN = "forgotten, "
# Of a measure of forgetting: the column of the metrics. The first is of the loss.
_FORGETTING = {
    _FORGOTTEN + "{loss}": "forgetting/loss_mean",
    "forgotten by the best 5, {loss}": "forgetting/loss_best_mean",
    "most forgotten, {loss}": "forgetting/loss_max",
    _FORGOTTEN + "{error}": "forgetting/error_mean",
}
_OF_RANKING = ("P@", "BR@", "WR@", "regret")  # how names of metrics begin


class Row(NamedTuple):
    """A search and its values, by what is measured."""

    arm: str
    seed: int
    values: Mapping[str, float]


def rows_of(report: Report) -> list[Row]:
    """The rows of all searches of a report.

    Forgetting is the mean over the epochs after the first with a penalty. Where the
    architectures have been ranked, or a table has their true accuracies, there are the
    metrics of the ranking; Kendall's tau of each data set, of the order by the error
    and of that by the loss; the test accuracies of what was selected; and Kendall's tau
    of the children's losses (:mod:`wpl_jax.reports.sections.true_order`).
    """
    try:
        truths = find_truths(report)
    except UserError:  # A table that has moved; the report warns of it.
        truths = {}
    return [
        Row(one.arm, one.seed, _values(report, one, truths)) for one in report.searches
    ]


def _values(
    report: Report,
    one: Searched,
    truths: Mapping[str, FromTable],
) -> dict[str, float]:
    error = report.error_name
    found = {
        name.format(loss=report.loss_name, error=error): mean(
            report.under_penalty(one.curve(column))
        )
        for name, column in _FORGETTING.items()
    }
    found[f"validation {error}"] = float(one.results["valid_error"])
    selected = np.array(one.results["architecture"])[None]
    for title, truth in truths.items():
        found[f"{ACCURACY}, {title}"] = 100 - truth.of(one.space, selected, None)[0]
    if report.ranks is not None:
        table = report.config.get("ranking", {}).get("table", {})
        by_test = table.get("split") == "test"
        found |= _of_ranking(one, truths, report.ranks, by_test)
    if truths and true_order.CHOICES in one.metrics[0]:
        taus = true_order.orders(one, next(iter(truths.values())))
        for name, each in taus._asdict().items():
            found[f"{TAU}, {name}"] = true_order.of_last(each)
    return found


def _of_ranking(
    one: Searched,
    truths: Mapping[str, FromTable],
    ranks: dict[str, Any],
    by_test: bool,
) -> dict[str, float]:
    """Of its ranking, whose own truth may be another than the test accuracies."""
    of_search = ranks["searches"][one.folder]
    metrics = of_search["metrics"]
    found = {
        name: math.nan if metrics[name][0] is None else metrics[name][0]
        for name in metrics
        if name.startswith(_OF_RANKING)
    }
    if metrics and not (truths and by_test):
        tau = metrics[TAU][0]
        found[f"{TAU}, {ranks['truth']}"] = math.nan if tau is None else tau
    scores = Evaluation(of_search["losses"], of_search["errors"])
    by_loss = np.asarray(scores.loss, float)
    orders = {TAU: estimate_of(scores), f"{TAU} by the loss": by_loss}
    true = {
        title: np.array(truth.of(one.space, ranks["choices"], None))
        for title, truth in truths.items()
    }
    for name, order in orders.items():
        for title, errors in true.items():
            found[f"{name}, {title}"] = tau_of_finite(errors, order)
    return found


def forgotten(rows: Sequence[Row]) -> str:
    """The name of the measure of forgetting: the mean difference of the loss."""
    return next(name for name in rows[0].values if name.startswith(_FORGOTTEN))


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes a CSV file with a line for each search; :func:`read` reads it."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["arm", "seed", *names])
    for row in rows:
        values = (row.values.get(name, math.nan) for name in names)
        cells = (f"{v:.6g}" if math.isfinite(v) else "" for v in values)
        writer.writerow([row.arm, row.seed, *cells])
    write_atomically(path, file.getvalue())


def read(path: Path) -> list[Row]:
    """The rows of a file that :func:`write` has written.

    Raises:
      UserError: If there is no such file, or it is another one.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = csv.reader(file)
        if header[:2] != ["arm", "seed"]:
            raise ValueError(f"its first columns are {header[:2]}")
        return [
            Row(
                arm,
                int(seed),
                {
                    name: float(cell) if cell else math.nan
                    for name, cell in zip(header[2:], cells, strict=True)
                },
            )
            for arm, seed, *cells in lines
        ]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is no {SEARCHES_FILE} that a report has written, with the columns "
            f"arm and seed: {error}."
        ) from error
