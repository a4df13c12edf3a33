"""Timing and memory that can be compared: everything in one run, interleaved."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax


def interleaved_seconds(
    functions: Mapping[str, Callable[[], Any]],
    rounds: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each function, taken in turns so that load falls on all.

    In its turn each is called twice, and the second call is timed. The first finds its
    memory: what other functions have given back the host of a virtual machine may have
    taken, and one that needs more than they do waits for it, up to seconds.

    Args:
      functions: Calls that return arrays; compiled in a first, untimed call.
      rounds: How often each is timed.
      clock: ``time.process_time`` for the CPU time of all threads, which leaves out
        what they wait while other programs have the cores.

    Returns:
      By name, the seconds of each round.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            jax.block_until_ready(function())
            start = clock()
            jax.block_until_ready(function())
            seconds[name].append(clock() - start)
    return seconds


def ratio(seconds: Sequence[float], unit: Sequence[float]) -> dict[str, float]:
    """How many times longer than ``unit``: median and quartiles over the rounds.

    Both are lists of the same rounds; each round is a ratio of its own, so that a
    load that comes and goes falls on both.
    """
    ratios = [a / b for a, b in zip(seconds, unit, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": middle, "low": low, "high": high}


def peak_mebibytes(module: str, *arguments: str) -> float:
    """Peak resident memory of ``python -m module ...``, which prints it last."""
    command = [sys.executable, "-m", module, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def print_own_peak() -> None:
    """Prints this process's peak resident memory in MiB, where Linux tells it."""
    # Not `getrusage`: a child inherits the peak of the process that started it.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
