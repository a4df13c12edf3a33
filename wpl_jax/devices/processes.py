"""Several processes that run one search: agreement, start, end, and lost processes.

The search uses the devices of all processes (:mod:`wpl_jax.devices.parallel`). Process
0 is the primary process. It alone reads and writes files, and sends what it has read to
the others.
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

# Errors of the runtime mean that another process is lost if they have one of these
# statuses, or contain one of these words.
_LOST_STATUSES = ("ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE")
_LOST_WORDS = "Gloo|NCCL|RCCL|coordination|heartbeat|connection|peer"
# Program of the watchdog: prints its argument if its standard input is closed before
# "done" was written to it.
_WATCHDOG = """
import sys
if sys.stdin.read() != "done":
    sys.stderr.write(sys.argv[1] + "\\n")
"""


def is_distributed() -> bool:
    """Whether there are several processes. Does not initialize JAX's devices."""
    return jax.distributed.is_initialized()


def is_primary() -> bool:
    """Whether this is the primary process, which reads and writes files."""
    return jax.process_index() == 0


def broadcast(value: int) -> int:
    """Returns the value of the primary process on all processes."""
    return int(from_primary(np.int32(value), np.int32(0)))


def any_process(value: bool) -> bool:
    """Whether the value is true on at least one process."""
    if jax.process_count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.int32(value))))


def from_primary(tree: Any, like: Any) -> Any:
    """Sends the arrays of the primary process to all processes.

    Args:
      tree: The arrays. Only those of the primary process are used.
      like: Arrays or ``jax.ShapeDtypeStruct`` of the same shapes and dtypes.

    Returns:
      The arrays of the primary process, on every process.
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
    """The exact sum over all processes, ``int64[...]``.

    Args:
      numbers: Those of this process, ``int64[...]``, of the same shape on each.
    """
    if jax.process_count() == 1:
        return numbers
    # Sent as bytes, because JAX would convert int64 to int32.
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
    """Connects this process to the others of a search.

    Must be called before any other function of JAX. Without arguments, JAX takes them
    from the cluster: SLURM, Open MPI, Cloud TPU, GKE.

    If a process does not start, or is lost later, JAX may abort the others and print
    only a stack trace. A watchdog process then prints what to do.

    Args:
      coordinator: ``host:port`` of process 0.
      count: Number of processes.
      index: Number of this process, from 0.
      wait_seconds: Time limit for all processes to connect.
      heartbeat_seconds: A process that does not respond for so long is lost. The others
        end within twice this time.

    Raises:
      UserError: If the processes cannot connect.
    """
    print(
        f"Waiting for the other processes, {wait_seconds} seconds at most. If one of "
        f"them is lost, the others end within {2 * heartbeat_seconds} seconds; the "
        "same command continues from the last checkpoint.",
        file=sys.stderr,
        flush=True,
    )
    which = "" if index is None else f" {index}"
    _start_watchdog(
        f"Error: Process{which} ended before it was finished. Unless it was killed, "
        "JAX aborted it, because another process did not connect within "
        f"{wait_seconds} seconds or did not respond for {heartbeat_seconds} seconds. "
        "Check that all processes were started, and what they printed. The same "
        "command continues from the last checkpoint, with the same number of processes "
        "or another one."
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
            f"The processes could not connect ({error}). Give all the same "
            "--coordinator=HOST:PORT, a port that process 0 can open and the others "
            "can reach, the same --processes, and each its own --process=0, 1, ... "
            "--wait is the time limit in seconds."
        ) from error


# The watchdog of this process. It is module state because a process connects to the
# others once, and because handlers of signals and exits stop it, without arguments.
_watchdog: subprocess.Popen[str] | None = None


def _start_watchdog(message: str) -> None:
    """Starts a process that prints a message if this one ends unexpectedly.

    Args:
      message: Printed to standard error, unless this process exits, or calls
        :func:`end` or :func:`leave`.
    """
    global _watchdog
    _watchdog = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHDOG, message],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C must not end it.
    )
    # JAX registers its own handler later. It runs first, and may wait for the others.
    atexit.register(_stop_watchdog)


def _stop_watchdog() -> None:
    """Ends the watchdog without its message."""
    if _watchdog and _watchdog.stdin and not _watchdog.stdin.closed:
        with contextlib.suppress(BrokenPipeError):
            _watchdog.communicate("done")


def end(code: int) -> NoReturn:
    """Ends this process with an exit code.

    Of several processes it ends at once: at a normal exit JAX waits for the others.
    """
    if is_distributed():
        sys.stdout.flush()
        sys.stderr.flush()
        leave(code)
    sys.exit(code)


def leave(code: int) -> NoReturn:
    """Ends this process at once with an exit code. May be called in any thread."""
    _stop_watchdog()
    os._exit(code)


@contextlib.contextmanager
def explain_lost_processes() -> Iterator[None]:
    """A context in which the loss of another process raises a clear error.

    Raises:
      UserError: In place of the errors that JAX raises if another process is lost.
        Other errors are left as they are.
    """
    try:
        yield
    except UserError:
        raise
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        # Errors of the runtime begin with a status, such as "UNKNOWN: Gloo ...".
        status = re.match("([A-Z_]+): ", reason)
        lost = status and (
            status[1] in _LOST_STATUSES or re.search(_LOST_WORDS, reason, re.IGNORECASE)
        )
        if jax.process_count() == 1 or not lost:
            raise
        raise UserError(
            f"Process {jax.process_index()} of {jax.process_count()} has lost another "
            f"process ({reason}). Check what that one printed. The same command "
            "continues from the last checkpoint, with the same number of processes or "
            "another one."
        ) from error
