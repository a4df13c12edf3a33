"""Finished searches, as a report reads them from their folders."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wpl_jax.errors import UserError
from wpl_jax.evaluation import candidates, ensemble
from wpl_jax.evaluation.candidates import Evaluated
from wpl_jax.evaluation.ensemble import Growing
from wpl_jax.evaluation.retrained import RETRAINED_FILE, read_retrained
from wpl_jax.runs.monitor import METRICS_FILE, whole_records
from wpl_jax.runs.resumable import changed_records
from wpl_jax.runs.run_files import (
    NUMBER,
    NUMBER_OR_NULL,
    TEXT,
    Kind,
    below,
    check_fields,
    damaged,
    list_of,
    read_json,
)
from wpl_jax.supernet import Space, num_choices
from wpl_jax.tasks.guessing import check_guess

REPORT_FILE = "report.html"
RESULTS_FILE = "results.json"
ARCHITECTURE_FILE = "architecture.json"
# What to do if a search has learned nothing.
REMEDY = "Lower the learning rate (config.optimizer), or raise config.search.epochs."


def search_name(arm: str, seed: int) -> str:
    """The name of a search in files: that of its folder."""
    return f"{arm}-seed{seed}"


def search_folder(workdir: Path, arm: str, seed: int) -> Path:
    """The folder of a search in that of its run."""
    return workdir / "searches" / search_name(arm, seed)


def baseline_folder(workdir: Path, name: str, seed: int) -> Path:
    """The folder of a baseline that was trained beside the searches of a seed."""
    return workdir / "baselines" / search_name(name, seed)


def no_columns(space: Space) -> Mapping[str, Kind]:
    """No columns of the metrics."""
    del space
    return {}


class Columns(NamedTuple):
    """Columns of the metrics that are read, each a function of the space.

    Attributes:
      of_all: Those that every search records.
      of_some: Those that a search records in each of its epochs, or in none.
    """

    of_all: Callable[[Space], Mapping[str, Kind]] = no_columns
    of_some: Callable[[Space], Mapping[str, Kind]] = no_columns


class Searched(NamedTuple):
    """One finished search."""

    arm: str
    seed: int
    space: Space
    metrics: list[dict[str, Any]]  # a line an epoch
    results: dict[str, Any]
    retrained: dict[str, Any] | None  # what training from scratch gave
    ensembles: dict[str, Growing] | None = None  # of its children, by split
    baselines: Mapping[str, dict[str, Any]] = {}  # trained like it, by name
    candidates: Evaluated | None = None  # of its selection

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return search_name(self.arm, self.seed)

    def curve(self, name: str) -> np.ndarray:
        """A column of the metrics, nan where it was not finite."""
        return np.array([row[name] for row in self.metrics], float)


def read(
    folder: Path,
    arm: str,
    seed: int,
    space: Space,
    epochs: int,
    columns: Iterable[Columns] = (),
) -> Searched:
    """Reads what a search left in its folder.

    Args:
      folder: Of the search.
      arm: Its arm.
      seed: Its seed.
      space: What it searched.
      epochs: How many it had.
      columns: Of the metrics, beside those of the children.

    Raises:
      UserError: If it has not finished, or a file is not what a search writes.
    """
    path = folder / RESULTS_FILE
    if not path.exists():
        raise UserError(
            f"There is no {path}: the search has not finished. Run it without --mode "
            "first; it continues where it stopped."
        )
    fields = {
        "architecture": below(num_choices(space.decisions)),
        "error_name": TEXT,
        "valid_loss": NUMBER,
        "valid_error": NUMBER,
    }
    remedy = "Delete it and run again: it is made anew from the checkpoint."
    results = read_json(path, fields, remedy)
    check_guess(results, path, remedy)
    metrics = _read_metrics(folder, space, epochs, columns)
    scratch = folder / "retrain" / RETRAINED_FILE
    retrained = read_retrained(scratch) if scratch.exists() else None
    together = ensemble.read(folder)
    evaluated = candidates.read(folder, space)
    return Searched(
        *(arm, seed, space, metrics, results, retrained, together),
        candidates=evaluated,
    )


def _read_metrics(
    folder: Path,
    space: Space,
    epochs: int,
    columns: Iterable[Columns],
) -> list[dict[str, Any]]:
    """The records of a finished search, one an epoch."""
    path = folder / METRICS_FILE
    remedy = f"Restore it from a copy, or delete {folder} and run again."
    if not path.exists():
        damaged(path, "there is none", remedy)
    lines = whole_records(path)
    if len(lines) != epochs or b"".join(lines) != path.read_bytes():
        what = f"of its records the first {len(lines)} are whole, expected {epochs}"
        damaged(path, f"{what}, one an epoch, and nothing else", remedy)
    if changed := changed_records(folder, lines):
        damaged(path, changed, remedy)
    records = [json.loads(line) for line in lines]
    fields: dict[str, Kind] = {
        "children/error": NUMBER_OR_NULL,
        "children/reward": NUMBER_OR_NULL,
        "children/best": below(num_choices(space.decisions)),
        "children/err1": list_of(NUMBER_OR_NULL),
    }
    for each in columns:
        fields |= each.of_all(space)
        of_some = each.of_some(space)
        if any(name in record for name in of_some for record in records):
            fields |= of_some
    for number, found in enumerate(records, 1):
        where = f"line {number}: "
        check_fields(found, fields, path, remedy, where)
        again = {"children/err2": list_of(NUMBER_OR_NULL, len(found["children/err1"]))}
        check_fields(found, again, path, remedy, where)
    return records
