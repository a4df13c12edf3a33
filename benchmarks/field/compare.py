"""Times and memory of methods on one model, each in a process of its own."""

import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.field.models import MODELS, make_weights

METHODS = (
    "gradient",
    "wpl_jax",
    "optax micro_grad",
    "kfac-jax",
    "gradient in PyTorch",
    "BackPACK",
)
EXACT = ("gradient", "wpl_jax, exact", "laplax")
ENVIRONMENTS = {"gradient in PyTorch": "BackPACK"}  # whose Python a method shares
REFERENCES = dict.fromkeys(EXACT[1:], "wpl_jax, exact")  # whose values it should have
SMALL = 1e4  # weights of the model that laplax gets
MORE = 4  # times as many examples, for memory


class Worker:
    """A process of one method (``benchmarks.field.worker``).

    Attributes:
      problem: Why there is nothing to measure; None if there is.
    """

    def __init__(self, python: str, method: str, model: str, count: float, n: int):
        """Starts the process, and waits until it is ready."""
        command = [python, "-m", "benchmarks.field.worker"]
        self._process = subprocess.Popen(
            [*command, method, model, str(count), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        answer = self._process.stdout.readline().strip()
        self.problem = None if answer == "ready" else answer
        if not answer:
            said = self._process.stderr.read().strip().splitlines()
            self.problem = f"failed: {said[-1] if said else 'no message'}"

    def ask(self, what: str) -> str:
        """Its answer to a line."""
        self._process.stdin.write(what + "\n")
        return self._process.stdout.readline().strip()

    def stop(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._process.stderr.close()


def compare(
    pythons: dict[str, str],
    methods: tuple[str, ...],
    model: str,
    count: float,
    n: int,
    rounds: int,
) -> Iterator[dict[str, Any]]:
    """Measures all methods on one model; yields a row for each."""
    weights = sum(w.size for w in make_weights(MODELS[model], int(count)).values())
    about = {"model": model, "weights": weights, "examples": n}
    workers: dict[str, Worker] = {}
    try:
        for method in methods:
            python = pythons[ENVIRONMENTS.get(method, method)]
            worker = Worker(python, method, model, count, n)
            if worker.problem:
                worker.stop()
                yield {**about, "method": method, "problem": worker.problem}
            else:
                workers[method] = worker
        seconds: dict[str, list[float]] = {method: [] for method in workers}
        for _ in range(rounds):
            for method, worker in workers.items():
                seconds[method].append(float(worker.ask("time")))
        with tempfile.TemporaryDirectory() as folder:
            values = {m: _values(w, Path(folder, "it.npz")) for m, w in workers.items()}
        for method, worker in workers.items():
            row = {**about, "method": method, "rounds": rounds}
            row["seconds"] = min(seconds[method])
            row["mebibytes"] = float(worker.ask("memory"))
            if method.startswith("gradient"):
                yield row
                continue
            unit = "gradient in PyTorch" if method == "BackPACK" else "gradient"
            row["ratio"] = row["seconds"] / min(seconds[unit])
            ratios = [
                a / b for a, b in zip(*map(seconds.get, (method, unit)), strict=True)
            ]
            row["low"], _, row["high"] = statistics.quantiles(
                ratios, n=4, method="inclusive"
            )
            reference = values[REFERENCES.get(method, "wpl_jax")]
            row["difference"] = _difference(values[method], reference)
            yield row
    finally:
        for worker in workers.values():
            worker.stop()


def _values(worker: Worker, path: Path) -> dict[str, np.ndarray]:
    worker.ask(f"values {path}")
    with np.load(path) as found:
        return dict(found)


def _difference(found: Any, reference: Any) -> float:
    """The largest difference in an array, over its largest entry."""
    return max(
        float(np.max(np.abs(found[k] - f)) / np.max(np.abs(f)))
        for k, f in reference.items()
    )


def memory_of_more(
    pythons: dict[str, str], model: str, count: float
) -> Iterator[dict[str, Any]]:
    """Memory with :data:`MORE` times as many examples."""
    n = MODELS[model].examples
    for method in ("gradient", "wpl_jax"):
        worker = Worker(pythons[method], method, model, count, MORE * n)
        row = {"model": model, "weights": int(count), "examples": MORE * n}
        row |= {"method": method, "problem": worker.problem}
        if not worker.problem:
            row["mebibytes"] = float(worker.ask("memory"))
        worker.stop()
        yield row


def describe(row: dict[str, Any]) -> str:
    """A row of the table, as text."""
    line = f"{row['model']:22} {row['weights']:>11,} {row['examples']:>5} "
    line += f"{row['method']:20}"
    if row.get("problem"):
        return f"{line} {row['problem']}"
    if "seconds" in row:
        line += f" {row['seconds']:9.4f} s"
    line += f" {row['mebibytes']:8.0f} MiB"
    if "ratio" in row:
        line += f" {row['ratio']:9.2f} ({row['low']:.2f} to {row['high']:.2f})"
        line += f" {row['difference']:.0e}"
    return line
