"""Timing and memory that can be compared: everything in one run, interleaved."""

import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def interleaved_seconds(
    functions: Mapping[str, Callable[[], Any]], rounds: int = 15
) -> dict[str, float]:
    """Median seconds of each function, taken in turns so that load falls on all.

    Args:
      functions: Calls that return arrays; compiled in a first, untimed call.
      rounds: How often each is called.

    Returns:
      Seconds by name.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def peak_mebibytes(module: str, *arguments: str) -> float:
    """Peak resident memory of ``python -m module ...``, which prints it last."""
    command = [sys.executable, "-m", module, *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.split()[-1])


def print_own_peak() -> None:
    """Prints this process's peak resident memory in MiB."""
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
