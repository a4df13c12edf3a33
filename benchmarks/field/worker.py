"""One method, in a process of its own, which does what it reads from its input.

    python -m benchmarks.field.worker METHOD MODEL WEIGHTS EXAMPLES

Prints ``ready`` or why there is nothing to measure. Then each line asks for one of:

- ``time``: the CPU seconds of a call on one core. They leave out what the process waits
  while others have the core;
- ``memory``: the memory of a call in MiB: with JAX what XLA says of its results and of
  what is stored in between; with PyTorch the peak, less what was in use before;
- ``values PATH``: the diagonal, as a file of numpy's.
"""

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.field.models import (
    MODELS,
    UnsupportedError,
    make_examples,
    make_weights,
)

PYTORCH = ("gradient in PyTorch", "BackPACK")


def make(method: str, name: str, weights: Any, x: Any, y: Any) -> Callable[[], Any]:
    """A call that returns when all is computed."""
    if method in PYTORCH:
        from benchmarks.field import in_pytorch

        return in_pytorch.make(method, name, weights, x, y)
    import jax

    from benchmarks.field import in_jax

    arrays = jax.device_put((weights, x, y))
    return in_jax.CALLS[method](name, *arrays)


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of a call, of all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def mebibytes(call: Callable[[], Any]) -> float:
    """The memory of a call."""
    if hasattr(call, "mebibytes"):
        return call.mebibytes
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = _status("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    call()
    return (_status("VmHWM:") - before) / 1024


def _status(key: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.split(key)[1].split()[0])


def main(method: str, name: str, weights: str, examples: str) -> None:
    """Serves one method."""
    # One core, before a library counts them.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    model = MODELS[name]
    # What libraries print themselves must not be read as an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        call = make(
            method,
            name,
            make_weights(model, int(float(weights))),
            *make_examples(model, int(examples)),
        )
        call()
    except ImportError as error:
        print("missing:", str(error).splitlines()[0], file=answers)
        return
    except UnsupportedError as error:
        print("unsupported:", error, file=answers)
        return
    print("ready", file=answers)
    for line in sys.stdin:
        asked, _, path = line.strip().partition(" ")
        if asked == "values":
            np.savez(path, **{k: np.asarray(v) for k, v in call().items()})
            print("written", file=answers)
        else:
            print({"time": seconds, "memory": mebibytes}[asked](call), file=answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
