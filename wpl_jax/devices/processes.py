"""Several processes that search together: what they agree on, and who speaks.

The devices of all are those of one search (:mod:`wpl_jax.devices.parallel`); the first
process alone reads and writes files, and tells the others what it has found.
"""

import atexit
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from wpl_jax.common.trees import with_keys, without_keys
from wpl_jax.errors import UserError

# Statuses of the runtime, and words in its other errors, where another is lost.
_LOST = ("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE")
_OF_OTHERS = "Gloo|NCCL|RCCL|coordination|heartbeat|connection|peer"
# Says its argument when its standard input ends without the word for it.
_WITNESS = """
import sys
if sys.stdin.read() != "done":
    sys.stderr.write(sys.argv[1] + "\\n")
"""


def is_distributed() -> bool:
    """Whether there are several processes; does not start JAX to find out."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Whether this is the process that reads and writes files: the first."""
    return jax.process_index() == 0


def broadcast(value: int) -> int:
    """What the first process says, to all."""
    return int(from_primary(np.int32(value), np.int32(0)))


def any_process(value: bool) -> bool:
    """Whether it is so on any process."""
    if jax.process_count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.int32(value))))


def from_primary(tree: Any, like: Any) -> Any:
    """Arrays of the first process, to all.

    Args:
      tree: The arrays; of the other processes what they please.
      like: Arrays or ``jax.ShapeDtypeStruct``, of the same shapes and types.

    Returns:
      The arrays on every process.
    """
    if jax.process_count() == 1:
        return tree
    if is_primary():
        data = without_keys(tree)
    else:
        form = without_keys(like)
        data = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), form)
    return with_keys(multihost_utils.broadcast_one_to_all(data), like)


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
    wait_seconds: int = 60,
    heartbeat_seconds: int = 30,
) -> None:
    """Makes this process one of several that search together.

    To be called before anything else of JAX. Without arguments all is taken from the
    cluster, where JAX knows it: SLURM, Open MPI, Cloud TPU, GKE.

    Args:
      coordinator: ``host:port`` of the first process.
      count: Number of processes.
      index: Of this one, from 0.
      wait_seconds: So long the processes wait for each other.
      heartbeat_seconds: A process of which there is no sign for so long is lost; within
        twice of it the others end.

    Where they do not find each other, or one of them is lost later, JAX may end the
    others with nothing but a stack. A small process beside each says then what to do.

    Raises:
      UserError: If they do not find each other.
    """
    print(
        f"Waiting for the other processes, {wait_seconds} seconds at most. Where one "
        f"of them is lost, the others end within {2 * heartbeat_seconds} seconds; the "
        "same command goes on from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    which = "" if index is None else f" {index}"
    _witness(
        f"Error: Process{which} has ended before it was done. If nobody has killed "
        f"it, JAX has: another one did not come within {wait_seconds} seconds, or "
        f"there was no sign of it for {heartbeat_seconds}. Look at what the others "
        "said, and whether all were started. All is saved up to the last checkpoint: "
        "the same command goes on from there, with as many processes or with others."
    )
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=heartbeat_seconds,
            initialization_timeout=wait_seconds,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"The processes did not find each other ({error}). Give all the same "
            "--coordinator=HOST:PORT, which the first must be able to open and the "
            "others to reach, the same --processes, and --process=0, 1, ... each; "
            "--wait says how many seconds they have."
        ) from error


# The watchdog of this process. It is module state because a process joins the others
# once, and because handlers of signals and exits, which get no arguments, dismiss it.
_beside: subprocess.Popen[str] | None = None


def _witness(words: str) -> None:
    """Has somebody else say something if this process ends before :func:`end`."""
    global _beside
    _beside = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WITNESS, words],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is not for it.
    )
    # JAX's own is registered later and so comes first: it may wait for others.
    atexit.register(_dismiss)


def _dismiss() -> None:
    if _beside and _beside.stdin and not _beside.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            _beside.communicate("done")


def end(code: int) -> NoReturn:
    """Ends this process, at once where JAX would wait for the others."""
    if is_distributed():
        sys.stdout.flush()
        sys.stderr.flush()
        leave(code)
    sys.exit(code)


def leave(code: int) -> NoReturn:
    """Ends this process at once, from whatever thread."""
    _dismiss()
    os._exit(code)


@contextlib.contextmanager
def naming_lost_ones() -> Iterator[None]:
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
        lost = status and (
            status[1] in _LOST or re.search(_OF_OTHERS, reason, re.IGNORECASE)
        )
        if jax.process_count() == 1 or not lost:
            raise
        raise UserError(
            f"Process {jax.process_index()} of {jax.process_count()} has lost another "
            f"one ({reason}). Look at what that one said. All is saved up to the last "
            "checkpoint: the same command goes on from there, with as many processes "
            "or with others."
        ) from error
