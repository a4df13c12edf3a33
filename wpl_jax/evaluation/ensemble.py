"""Several children of one supernet as an ensemble: the mean of their predictions.

Benyahia et al. (2019) name it as future work: children whose weights are protected may
be worth more together.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_int
from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.runs.run_files import (
    NUMBER_OR_NULL,
    OBJECT,
    check_fields,
    finite,
    list_of,
    read_json,
    to_json,
    write_atomically,
)
from wpl_jax.supernet import Architecture, Space, gather
from wpl_jax.tasks import Data, Evaluation, Task
from wpl_jax.tasks.averaging import averaging_of

ENSEMBLE_FILE = "ensemble.json"
SPLITS = ("valid", "test")
_REMEDY = "Delete it, or run with --mode=ensemble, which makes it anew."
_MOST_MEMBERS = 1000


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """The members of an ensemble.

    Attributes:
      members: How many there are, at most: the best candidates of the selection, of
        isomorphic ones one. Smaller ensembles are evaluated, too.
    """

    members: int = 10

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "members", 1, most=_MOST_MEMBERS)


class Growing(NamedTuple):
    """Evaluations of members and of ensembles, ``float32[members]`` each.

    Attributes:
      together: At ``k``, the mean of the predictions of the first ``k + 1`` members.
      alone: At ``k``, member ``k``.
    """

    together: Evaluation
    alone: Evaluation


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Evaluates children together, with the shared parameters.

    Attributes:
      task: That they were trained on.
      devices: Among which each batch is divided.
    """

    task: Task
    devices: Devices = ONE_DEVICE

    @compiled(static_argnames="split")
    def evaluate(
        self, params: Any, architectures: Architecture, data: Data, split: str
    ) -> Growing:
        """Evaluates the first member, the first two, and so on, on a whole split.

        Args:
          params: The shared parameters.
          architectures: The members, along a leading axis.
          data: Of the task.
          split: ``"valid"`` or ``"test"``.
        """
        task, axis = self.task, self.devices.every
        averaging = averaging_of(task)

        def begin(architecture):
            child = gather(params, task.space.rows(architecture))
            carry = task.begin_split(child, architecture, data, axis)
            return architecture, child, carry

        def score(log_probabilities, index):
            return task.score(log_probabilities, data, split, index, axis)

        def one(carries, index):
            def add(state, member):
                total, count = state
                architecture, child, carry = member
                found, carry = task.predict_batch(
                    child, architecture, data, split, index, carry, axis
                )
                total = averaging.add(total, found)
                count += 1.0
                together = score(averaging.divide(total, count), index)
                return (total, count), (carry, together, score(found, index))

            # One after the other: mapped at once, a choice would become all choices.
            nothing = jnp.full(shape.shape, averaging.start, shape.dtype)
            start = nothing, jnp.float32(0)
            _, (carries, *scores) = jax.lax.scan(add, start, (*members, carries))
            return carries, scores

        *members, carries = jax.lax.map(begin, architectures)
        first = jax.tree.map(lambda x: x[0], (*members, carries))
        shape = jax.eval_shape(
            lambda a, child, carry: task.predict_batch(
                child, a, data, split, jnp.int32(0), carry, axis
            )[0],
            *first,
        )
        batches = jnp.arange(task.batches_of_split(data, split))
        _, scores = jax.lax.scan(one, carries, batches)
        totals = axis.sum(jax.tree.map(lambda x: jnp.sum(x, 0), scores))
        return Growing(*(jax.vmap(task.conclude)(total) for total in totals))


def best_distinct(
    space: Space,
    choices: np.ndarray,
    eligible: np.ndarray,
    most: int,
) -> np.ndarray:
    """The best architectures, of isomorphic ones the best alone.

    Args:
      space: Their space.
      choices: ``int32[n, decisions]``, the best first.
      eligible: ``bool[n]``, such as those with a finite loss. If none is, the best one
        is taken all the same.
      most: How many are taken, at most.

    Returns:
      ``int32[at most most, decisions]``.
    """
    found: dict[Any, np.ndarray] = {}
    for choice in choices[eligible] if eligible.any() else choices[:1]:
        found.setdefault(space.canonical_form(choice), choice)
    return np.array(list(found.values())[:most])


def write(folder: Path, choices: np.ndarray, found: dict[str, Growing]) -> None:
    """Writes what ensembles of a search are worth, by split, to its folder."""

    def numbers(evaluation: Evaluation) -> dict[str, Any]:
        fields = evaluation._asdict().items()
        return {name: finite(np.asarray(x, float).tolist()) for name, x in fields}

    content: dict[str, Any] = {"architectures": choices.tolist()}
    for split, growing in found.items():
        content[split] = {k: numbers(v) for k, v in growing._asdict().items()}
    write_atomically(folder / ENSEMBLE_FILE, to_json(content))


def read(folder: Path) -> dict[str, Growing] | None:
    """What :func:`write` has written, ``float64[members]``; None if nothing.

    Raises:
      UserError: If the file is damaged.
    """
    path = folder / ENSEMBLE_FILE
    if not path.exists():
        return None
    content = read_json(path, dict.fromkeys(SPLITS, OBJECT), _REMEDY)
    found = {}
    for split in SPLITS:
        parts = []
        for part in Growing._fields:
            check_fields(content[split], {part: OBJECT}, path, _REMEDY, f"in {split}, ")
            fields = dict.fromkeys(Evaluation._fields, list_of(NUMBER_OR_NULL))
            where = f"in {split}.{part}, "
            check_fields(content[split][part], fields, path, _REMEDY, where)
            columns = content[split][part]
            arrays: Any = {n: np.array(columns[n], float) for n in Evaluation._fields}
            parts.append(Evaluation(**arrays))
        found[split] = Growing(*parts)
    return found
