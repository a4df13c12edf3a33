"""What finished searches have found, read from the folders of several runs."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wpl_jax.errors import UserError, shorten
from wpl_jax.evaluation.retrained import RETRAINED_FILE, read_retrained
from wpl_jax.evaluation.truth_from_table import is_truth_of
from wpl_jax.reports.searched import (
    ARCHITECTURE_FILE,
    RESULTS_FILE,
    search_folder,
)
from wpl_jax.runs.loggers.tensorboard import wall_seconds
from wpl_jax.runs.run_directory import CONFIG_FILE, differing_fields
from wpl_jax.runs.run_files import NUMBER, OBJECT, TEXT, list_of, read_json

_OF_SEEDS = ("seed", "num_seeds")  # what runs of one method may differ in
_REMEDY = "Restore it from a copy, or run the search again."


class Found(NamedTuple):
    """The architecture that one search has found.

    Attributes:
      method: As :func:`read` names it.
      seed: Of the search.
      space: Name of its space.
      decisions: Name of each decision's choice.
      choice: The same as numbers.
      error_name: Name of the task's error.
      valid_error: Error on the validation data with the shared weights.
      test_error: Error on the test data after training from scratch; None without it.
      seconds: Wall-clock time of the search; None where no record of it is left.
      by_table: Whether a table tells the accuracy of the architecture on the run's
        data.
    """

    method: str
    seed: int
    space: str
    decisions: dict[str, str]
    choice: list[int]
    error_name: str
    valid_error: float
    test_error: float | None
    seconds: float | None
    by_table: bool


class Runs(NamedTuple):
    """Several runs, as far as they have finished.

    Attributes:
      found: Of each finished search, in the order of the runs.
      configs: Of each method, the configuration of its first run.
      notes: What is missing or inconsistent, in sentences.
    """

    found: list[Found]
    configs: dict[str, dict[str, Any]]
    notes: list[str]


def read(
    folders: Sequence[tuple[str | None, Path]], all_by_table: bool = False
) -> Runs:
    """Reads all finished searches of several runs.

    The method is the label of the run, and the arm if the run has several. Without a
    label it is the arm if there are several, and else the name of the folder.

    Args:
      folders: Label and folder of each run. Runs with the same label are seeds of one
        method.
      all_by_table: Whether a table judges all of them. If not, it judges those whose
        configuration takes a table for the truth (``ranking.truth``).

    Raises:
      UserError: If no search has finished.
    """
    runs, asked = Runs([], {}, []), dict[str, _Asked]()
    for label, folder in folders:
        try:
            _read_run(label, folder, runs, asked, all_by_table)
        except UserError as error:
            name = folder.name if label is None else label
            runs.notes.append(f"{name} is left out. {error}")
    for method, (of_method, seeds, missing) in asked.items():
        if missing:
            runs.notes.append(
                f"{method}: {len(seeds) - len(missing)} of {len(seeds)} searches in "
                f"{', '.join(map(str, of_method))} have finished, without seeds "
                f"{', '.join(map(str, sorted(missing)))}."
            )
    if not runs.found:
        raise UserError(" ".join(["No search has finished.", *runs.notes]))
    return runs


class _Asked(NamedTuple):
    """The searches of a method that its configurations ask for.

    Attributes:
      folders: Of the runs of the method.
      seeds: Of the searches of all of them.
      missing: Those that have finished in none of the folders.
    """

    folders: list[Path]
    seeds: set[int]
    missing: set[int]


def _read_run(
    label: str | None,
    folder: Path,
    runs: Runs,
    asked: dict[str, _Asked],
    all_by_table: bool,
) -> None:
    """Adds what the searches of a run have found."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"There is no run in {folder}.")
    config = read_json(path, {}, _REMEDY)
    fields = {"arms": OBJECT, "seed": NUMBER, "num_seeds": NUMBER}
    for field, kind in fields.items():
        if not kind.holds(config.get(field)):
            raise UserError(f"{path} is not that of a search: it lacks {field}.")
    by_table = all_by_table or is_truth_of(config)
    for arm, changes in config["arms"].items():
        method = _method(label, folder, arm, len(config["arms"]) > 1)
        own = {k: v for k, v in config.items() if k not in _OF_SEEDS}
        own["arms"] = changes
        first = runs.configs.setdefault(method, own)
        if fields_that_differ := [name for name, *_ in differing_fields(first, own)]:
            runs.notes.append(
                f"Runs of {method} have different configurations: {folder} differs in "
                f"{', '.join(fields_that_differ)}."
            )
        seeds = range(int(config["seed"]), int(config["seed"] + config["num_seeds"]))
        of_method = asked.setdefault(method, _Asked([], set(), set()))
        of_method.folders.append(folder)
        of_method.missing.update(set(seeds) - of_method.seeds)
        of_method.seeds.update(seeds)
        for seed in seeds:
            of_search = search_folder(folder, arm, seed)
            if not (of_search / RESULTS_FILE).is_file():
                continue
            of_method.missing.discard(seed)
            if (method, seed) in [(one.method, one.seed) for one in runs.found]:
                runs.notes.append(
                    f"{method} has seed {seed} twice; that of {folder} is left out."
                )
                continue
            try:
                runs.found.append(_read_search(method, seed, of_search, by_table))
            except UserError as error:
                runs.notes.append(f"{method}, seed {seed} is left out. {error}")


def _method(label: str | None, folder: Path, arm: str, several: bool) -> str:
    if label is None:
        return arm if several else folder.resolve().name
    return f"{label}, {arm}" if several else label


def _read_search(method: str, seed: int, folder: Path, by_table: bool) -> Found:
    results = read_json(
        folder / RESULTS_FILE,
        {"architecture": list_of(NUMBER), "error_name": TEXT, "valid_error": NUMBER},
        _REMEDY,
    )
    path = folder / ARCHITECTURE_FILE
    architecture = read_json(path, {"space": TEXT, "decisions": OBJECT}, _REMEDY)
    decisions, choice = architecture["decisions"], results["architecture"]
    texts = all(TEXT.holds(name) for name in decisions.values())
    if not texts or len(decisions) != len(choice):
        raise UserError(f"{path} is damaged: found {shorten(decisions)}. {_REMEDY}")
    scratch = folder / "retrain" / RETRAINED_FILE
    retrained = read_retrained(scratch) if scratch.is_file() else None
    return Found(
        method,
        seed,
        architecture["space"],
        decisions,
        choice,
        results["error_name"],
        results["valid_error"],
        None if retrained is None else retrained["test_error"],
        wall_seconds(folder),
        by_table,
    )


def by_method(found: Sequence[Found]) -> Iterator[tuple[str, list[Found]]]:
    """The searches of each method, methods in order."""
    for method in dict.fromkeys(one.method for one in found):
        yield method, [one for one in found if one.method == method]
