"""The results of a two-model run, read from its file and checked."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wpl_jax.common.counted import counted
from wpl_jax.errors import UserError, shorten
from wpl_jax.runs.run_directory import differing_fields
from wpl_jax.runs.run_files import (
    NUMBER,
    NUMBER_OR_NULL,
    OBJECT,
    TRUTH,
    check_fields,
    damaged,
    equal_to,
    list_of,
    read_json,
    to_json,
)
from wpl_jax.tasks.guessing import Guess, check_guess, read_guess
from wpl_jax.two_models.analysis import Outcome, read_outcomes
from wpl_jax.two_models.arms import Arm

REPORT_FILE = "report.html"
RESULTS_FILE = "results.json"


class Results(NamedTuple):
    """What a finished run has found."""

    outcomes: list[Outcome]
    guess: Guess | None  # on the validation images


def read(workdir: Path, config: dict[str, Any], arms: Sequence[Arm]) -> Results:
    """Reads the results of a run.

    Args:
      workdir: Of the run.
      config: Of the run, JSON-like.
      arms: That the configuration asks for.

    Raises:
      UserError: If the run has no results yet, or they are not what a run writes.
    """
    path = workdir / RESULTS_FILE
    if not path.exists():
        raise UserError(
            f"There is no {path}: the run has not finished. Run it without --mode "
            "first; it continues where it stopped."
        )
    remedy = "Delete it and run again: it is made anew from the checkpoint."
    results = read_json(path, {"config": OBJECT, "arms": list_of(OBJECT)}, remedy)
    config = json.loads(to_json(config))
    for name, old, new in differing_fields(results["config"], config):
        what = f"config.{name} is {shorten(old)} there and {shorten(new)} in the run"
        damaged(path, what, remedy)
    seeds = config["num_seeds"]
    curve = list_of(list_of(NUMBER_OR_NULL), seeds)
    pair = list_of(list_of(NUMBER, 2), seeds)
    fields = {
        **dict.fromkeys(("valid_a", "valid_b", "penalty_value"), curve),
        **dict.fromkeys(("final_valid", "final_test"), pair),
        **dict.fromkeys(("start_valid", "start_test"), list_of(NUMBER, seeds)),
        "fisher_spread": list_of(NUMBER_OR_NULL, seeds),
        "finite": list_of(TRUTH, seeds),
    }
    if len(results["arms"]) != len(arms):
        what = f"it has {counted(len(results['arms']), 'arm')}, expected {len(arms)}"
        damaged(path, what, remedy)
    for number, (found, arm) in enumerate(zip(results["arms"], arms, strict=True), 1):
        own = {name: equal_to(value) for name, value in arm._asdict().items()}
        check_fields(found, own | fields, path, remedy, f"arm {number}: ")
    check_guess(results, path, remedy)
    return Results(read_outcomes(results), read_guess(results))
