"""Several processes that search together: what they agree on, and who speaks.

The devices of all of them are those of one search (:mod:`wpl_jax.parallel`); the first
process alone reads and writes files, and tells the others what it has found.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wpl_jax.errors import UserError
from wpl_jax.trees import is_key, without_keys

# Of the runtime, which have nothing to do with other processes.
_OWN_ERRORS = ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED")
_PATIENCE = 60  # seconds for processes to find each other


def several() -> bool:
    """Whether there are several processes; does not start JAX to find out."""
    return jax.distributed.is_initialized()


def leads() -> bool:
    """Whether this is the process that reads and writes files: the first."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """What the first process says, to all."""
    return int(from_leader(np.int32(value), np.int32(0)))


def any_process(value: bool) -> bool:
    """Whether it is so on any process."""
    if jax.process_count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.int32(value))))


def from_leader(tree: Any, like: Any) -> Any:
    """Arrays of the first process, to all.

    Args:
      tree: The arrays; of the other processes what they please.
      like: Arrays or ``jax.ShapeDtypeStruct``, of the same shapes and types.

    Returns:
      The arrays on every process.
    """
    if jax.process_count() == 1:
        return tree
    if not leads():
        tree = jax.tree.map(_zeros, like)
    data = multihost_utils.broadcast_one_to_all(without_keys(tree))

    def restore(x, one):
        if is_key(one):
            return jax.random.wrap_key_data(x)
        return x

    return jax.tree.map(restore, data, tree)


def _zeros(x: Any) -> Any:
    if is_key(x):
        return jax.random.split(jax.random.key(0), x.shape)
    return np.zeros(x.shape, x.dtype)


def total(numbers: np.ndarray) -> np.ndarray:
    """The sum of what all processes have, ``int64[...]``; exact."""
    if jax.process_count() == 1:
        return numbers
    # As bytes: JAX would make 32 bits of them.
    of_all = multihost_utils.process_allgather(numbers.reshape(-1).view(np.uint8))
    return np.asarray(of_all).view(np.int64).sum(0).reshape(numbers.shape)


def start(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    *,
    heartbeat_seconds: int = 30,
) -> None:
    """Makes this process one of several that search together.

    To be called before anything else of JAX. Without arguments all is taken from the
    cluster, where JAX knows it: SLURM, Open MPI, Cloud TPU, GKE.

    Args:
      coordinator: ``host:port`` of the first process.
      count: Number of processes.
      index: Of this one, from 0.
      heartbeat_seconds: After so long without a sign of a process the others end.

    Raises:
      UserError: If they do not find each other. Where one of them is lost later, JAX
        may end the others before they can say so; what to do then is said here.
    """
    print(
        f"Waiting for the other processes, {_PATIENCE} seconds at most. Where one of "
        f"them is lost, the others end within {2 * heartbeat_seconds} seconds; the "
        "same command goes on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=heartbeat_seconds,
            initialization_timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes did not find each other ({error}). Give all the same "
            "--coordinator=HOST:PORT, which the first must be able to open and the "
            "others to reach, the same --processes, and --process=0, 1, ... each."
        ) from error


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Says it clearly where another of several processes is lost.

    Raises:
      UserError: In place of what JAX raises then.
    """
    try:
        yield
    except UserError:
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        # Errors of the runtime begin with their status: "UNKNOWN: Gloo ...".
        status = re.match("([A-Z_]+): ", reason)
        if jax.process_count() == 1 or not status or status[1] in _OWN_ERRORS:
            raise
        raise UserError(
            f"Process {jax.process_index()} of {jax.process_count()} has lost another "
            f"one ({reason}). Look at what that one said. All is saved up to the last "
            "checkpoint: the same command goes on from there, with as many processes "
            "or with others."
        ) from error
