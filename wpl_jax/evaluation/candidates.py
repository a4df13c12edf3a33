"""The candidates of a search's selection, with their errors, in a file."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from wpl_jax.engine.state import Selection
from wpl_jax.runs.run_files import (
    NUMBER_OR_NULL,
    below,
    check_fields,
    finite,
    list_of,
    read_json,
    to_json,
    write_atomically,
)
from wpl_jax.supernet import Space, num_choices

CANDIDATES_FILE = "candidates.json"


class Evaluated(NamedTuple):
    """Candidates, and their validation errors with the shared weights."""

    choices: np.ndarray  # int[n, decisions]
    errors: np.ndarray  # float64[n]; nan where not finite


def write(folder: Path, selection: Selection) -> None:
    """Writes the candidates.

    Args:
      folder: Of the search.
      selection: After it has ended, on the host.
    """
    found = {
        "choices": np.asarray(selection.architectures.choice).tolist(),
        "errors": finite(selection.screened.error),
    }
    write_atomically(folder / CANDIDATES_FILE, to_json(found))


def read(folder: Path, space: Space) -> Evaluated | None:
    """What :func:`write` has written; None if there is nothing.

    Raises:
      UserError: If the file is something else.
    """
    path = folder / CANDIDATES_FILE
    if not path.exists():
        return None
    remedy = "Delete it; --mode=derive writes it again."
    found = read_json(
        path, {"choices": list_of(below(num_choices(space.decisions)))}, remedy
    )
    number = len(found["choices"])
    check_fields(found, {"errors": list_of(NUMBER_OR_NULL, number)}, path, remedy)
    choices = np.array(found["choices"], int).reshape(number, len(space.decisions))
    return Evaluated(choices, np.array(found["errors"], float))
