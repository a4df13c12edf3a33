"""The files of a ranking: scores of all architectures, and what they come to."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wpl_jax.errors import UserError
from wpl_jax.evaluation import table
from wpl_jax.evaluation.rank_disorder import (
    Ranking,
    estimate_of,
    measure,
    without_search,
)
from wpl_jax.evaluation.truth import RandomSearch
from wpl_jax.runs.run_files import (
    NUMBER,
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    Kind,
    check_fields,
    damaged,
    finite,
    list_of,
    read_json,
    to_json,
    write_atomically,
)
from wpl_jax.supernet import Space
from wpl_jax.tasks import Evaluation

RANKS_FILE = "rank_disorder.json"
SCORES_FILE = "rank_disorder.csv"
FOLDER = "ranking"  # in that of a search, with which it is deleted
_SCORES_OF_SEARCH = f"{FOLDER}/scores.csv"
_REMEDY = "Delete it, or run with --mode=rank, which makes it anew."
_INTERVAL = list_of(NUMBER_OR_NULL, 3)
_SELECTED = Kind(
    "an object or null", "objects or nulls", lambda v: v is None or OBJECT.holds(v)
)
_LIST = Kind("a list", "lists", lambda v: isinstance(v, list))


def is_ranked(folder: Path) -> bool:
    """Whether the folder of a search has the scores of all ranked architectures."""
    return (folder / _SCORES_OF_SEARCH).exists()


def write_scores(
    folder: Path, space: Space, choices: np.ndarray, scores: Evaluation
) -> None:
    """Writes the scores of architectures with the shared weights of one search.

    Args:
      folder: Of the search.
      space: Its space.
      choices: ``int32[n, decisions]``.
      scores: Of ``float32[n]``.
    """
    columns = {name: np.asarray(each) for name, each in scores._asdict().items()}
    _write_columns(folder / _SCORES_OF_SEARCH, space, choices, columns)


def read_scores(folder: Path, choices: np.ndarray) -> Evaluation:
    """The scores that :func:`write_scores` has written.

    Args:
      folder: Of the search.
      choices: ``int32[n, decisions]``, which must be those of the file.

    Raises:
      UserError: If the file is damaged, or has other architectures.
    """
    path = folder / _SCORES_OF_SEARCH
    there, column = _read_columns(path)
    if not np.array_equal(there, choices):
        damaged(path, "it has scores of other architectures", _REMEDY)
    found: Any = [column(name).astype(np.float32) for name in Evaluation._fields]
    return Evaluation(*found)


class Ranked(NamedTuple):
    """A search and its ranking."""

    scores: Evaluation  # of float32[n]; with the shared weights
    selected: float | None  # true error of what it selected; None or nan if unknown
    seconds: float | None  # that it took; None if unknown
    random_search: list[RandomSearch]


def write(
    workdir: Path,
    space: Space,
    ranking: Ranking,
    choices: np.ndarray,
    true_errors: Sequence[float],
    searches: Mapping[str, Ranked],
) -> None:
    """Writes ``rank_disorder.csv``, the scores, and ``rank_disorder.json``, metrics.

    The CSV file is a table as :func:`wpl_jax.evaluation.table.read` reads it.

    Args:
      workdir: Of the run.
      space: The space of the searches.
      ranking: How architectures were ranked.
      choices: ``int32[n, decisions]``.
      true_errors: Of these.
      searches: By the names of their folders.
    """
    true = np.asarray(true_errors, float)
    others = without_search(space, ranking.truth, choices)
    columns = {"true_error": true}
    for name, values in others.items():
        columns[name.replace(" ", "_")] = values
    for name, ranked in searches.items():
        for part, scores in ranked.scores._asdict().items():
            columns[f"{name}_{part}"] = np.asarray(scores)
    _write_columns(workdir / SCORES_FILE, space, choices, columns)

    def measured(estimate):
        found = measure(true, estimate, ranking.top, ranking.bootstrap)
        return {name: finite(list(value)) for name, value in found.items()}

    found = {
        "truth": ranking.truth.about,
        "which": ranking.which,
        "tuned": ranking.tuning.batches,
        "without_search": {name: measured(each) for name, each in others.items()},
        "searches": {
            name: {
                "metrics": measured(estimate_of(ranked.scores)),
                "selected": _selected(true, ranked.selected),
                "seconds": ranked.seconds,
                "random_search": [
                    {key: _number(value) for key, value in each._asdict().items()}
                    for each in ranked.random_search
                ],
            }
            for name, ranked in searches.items()
        },
    }
    write_atomically(workdir / RANKS_FILE, to_json(found))


def _number(value: float | None) -> float | None:
    return None if value is None else finite(value)


def _selected(true: np.ndarray, error: float | None) -> dict[str, float] | None:
    """What a search selected, among the architectures that are ranked."""
    known = true[np.isfinite(true)]
    if error is None or not np.isfinite(error) or not known.size:
        return None
    return {
        "error": error,
        "regret": float(error - known.min()),
        "better": float(np.mean(known < error)),
    }


def _write_columns(
    path: Path, space: Space, choices: np.ndarray, columns: Mapping[str, np.ndarray]
) -> None:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["space", "choice", *columns])
    for number, choice in enumerate(choices.tolist()):
        values = (f"{values[number]:.9g}" for values in columns.values())
        writer.writerow([space.name, " ".join(map(str, choice)), *values])
    write_atomically(path, file.getvalue())


def read_ranks(workdir: Path, names: Sequence[str]) -> dict[str, Any] | None:
    """What :func:`write` has written; None if there is nothing.

    Args:
      workdir: Of the run.
      names: Those of the searches' folders.

    Returns:
      The content of the JSON file; with ``"choices"``, ``int[n, decisions]``,
      ``"true_errors"``, ``float64[n]``, and in each search ``"errors"`` and
      ``"losses"``, ``float64[n]`` with the shared weights.

    Raises:
      UserError: If it is not what :func:`write` writes.
    """
    path = workdir / RANKS_FILE
    if not path.exists():
        return None

    def check(value: Any, fields: Mapping[str, Kind], where: str) -> None:
        check_fields(value, fields, path, _REMEDY, f"in {where}, ")

    fields = {"truth": TEXT, "which": TEXT, "tuned": NUMBER}
    fields |= {"without_search": OBJECT, "searches": OBJECT}
    found = read_json(path, fields, _REMEDY)
    check(found["searches"], dict.fromkeys(names, OBJECT), "the field 'searches'")
    of_all = dict(found["without_search"])
    for name in names:
        one = found["searches"][name]
        check(one, {"metrics": OBJECT, "selected": _SELECTED}, repr(name))
        check(one, {"random_search": _LIST, "seconds": NUMBER_OR_NULL}, repr(name))
        for random in one["random_search"]:
            numbers = dict.fromkeys(RandomSearch._fields, NUMBER_OR_NULL)
            check(random, numbers, f"random_search of {name!r}")
        if one["selected"]:
            numbers = dict.fromkeys(("error", "regret", "better"), NUMBER)
            check(one["selected"], numbers, f"selected of {name!r}")
        of_all[name] = one["metrics"]
    for name, metrics in of_all.items():
        check(metrics, dict.fromkeys(metrics, _INTERVAL), f"metrics of {name!r}")
    found["choices"], column = _read_columns(workdir / SCORES_FILE)
    found["true_errors"] = column("true_error")
    for name in names:
        found["searches"][name]["errors"] = column(f"{name}_error")
        found["searches"][name]["losses"] = column(f"{name}_loss")
    return found


def _read_columns(path: Path) -> tuple[np.ndarray, Callable[[str], np.ndarray]]:
    """Choices, and a function from names of columns to ``float64[n]``."""

    def column(name: str) -> np.ndarray:
        try:
            return scores.values(name)
        except UserError as error:
            damaged(path, str(error), _REMEDY)

    try:
        scores = table.read(path)
    except UserError as error:
        damaged(path, str(error), _REMEDY)
    return scores.choices, column
