"""Times and memory of methods on one model, each in a process of its own."""

import math
import selectors
import statistics
import subprocess
import tempfile
import time
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
SMALL = 1e4  # weights of the models that laplax gets
SMALL_EXAMPLES = 32  # at most, for laplax
MORE = 4  # times as many examples, for memory


class StoppedError(Exception):
    """A method took longer than its limit."""


class Worker:
    """A process of one method (``benchmarks.field.worker``).

    Attributes:
      problem: Why there is nothing to measure; None if there is.
    """

    def __init__(
        self,
        python: str,
        method: str,
        model: str,
        count: float,
        n: int,
        limit: float = math.inf,
    ):
        """Starts the process, and waits until it is ready.

        Args:
          python: Path of a Python.
          method: What is computed.
          model: A name in ``MODELS``.
          count: Number of weights.
          n: Number of examples.
          limit: Seconds that the process may take in all: imports, compilation and
            calls. Waiting for other processes does not count.
        """
        command = [python, "-m", "benchmarks.field.worker"]
        self._limit = self._left = limit
        # A file, as a pipe that nobody reads blocks a process that warns a lot.
        self._messages = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [*command, method, model, str(count), str(n)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            text=True,
            bufsize=1,
        )
        try:
            answer = self._read()
        except StoppedError as error:
            answer = str(error)
        self.problem = None if answer == "ready" else answer

    def _read(self) -> str:
        """The next line; ends the process where its time is up."""
        start = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            left = None if math.isinf(self._left) else max(self._left, 0)
            if not selector.select(left):
                self._process.kill()
                raise StoppedError(f"stopped after {self._limit:g} s")
        answer = self._process.stdout.readline().strip()
        self._left -= time.monotonic() - start
        return answer or f"failed: {self._last_message()}"

    def _last_message(self) -> str:
        self._process.wait()
        self._messages.seek(0)
        lines = self._messages.read().strip().splitlines()
        return lines[-1] if lines else f"exit status {self._process.returncode}"

    def ask(self, what: str) -> str:
        """Its answer to a line.

        Raises:
          StoppedError: The method failed, or took longer than its limit.
        """
        try:
            self._process.stdin.write(what + "\n")
        except BrokenPipeError:
            raise StoppedError(f"failed: {self._last_message()}") from None
        answer = self._read()
        if answer.startswith("failed: "):
            raise StoppedError(answer)
        return answer

    def stop(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._messages.close()


def compare(
    pythons: dict[str, str],
    methods: tuple[str, ...],
    model: str,
    count: float,
    n: int,
    rounds: int,
    limit: float = math.inf,
) -> Iterator[dict[str, Any]]:
    """Measures all methods on one model; yields a row for each.

    A method that has no such diagonal, fails, or takes more than ``limit`` seconds has
    a row with its ``problem``. After a method is stopped, the others go on.
    """
    weights = sum(w.size for w in make_weights(MODELS[model], int(count)).values())
    about = {"model": model, "weights": weights, "examples": n}
    workers: dict[str, Worker] = {}
    seconds: dict[str, list[float]] = {}
    values: dict[str, dict[str, np.ndarray]] = {}
    memory: dict[str, float] = {}
    try:
        for method in methods:
            python = pythons[ENVIRONMENTS.get(method, method)]
            worker = Worker(python, method, model, count, n, limit)
            if worker.problem:
                worker.stop()
                yield {**about, "method": method, "problem": worker.problem}
            else:
                workers[method] = worker
                seconds[method] = []
        with tempfile.TemporaryDirectory() as folder:
            for step in [*["time"] * rounds, "values", "memory"]:
                for method, worker in list(workers.items()):
                    try:
                        if step == "time":
                            seconds[method].append(float(worker.ask(step)))
                        elif step == "values":
                            path = Path(folder, "it.npz")
                            values[method] = _values(worker, path)
                        else:
                            memory[method] = float(worker.ask(step))
                    except StoppedError as error:
                        workers.pop(method).stop()
                        yield {**about, "method": method, "problem": str(error)}
        for method in workers:
            row = {**about, "method": method, "rounds": rounds}
            row["seconds"] = min(seconds[method])
            row["mebibytes"] = memory[method]
            unit = "gradient in PyTorch" if method == "BackPACK" else "gradient"
            reference = REFERENCES.get(method, "wpl_jax")
            if not method.startswith("gradient") and unit in workers:
                row |= _ratio(seconds[method], seconds[unit])
            if not method.startswith("gradient") and reference in workers:
                row["difference"] = _difference(values[method], values[reference])
            yield row
    finally:
        for worker in workers.values():
            worker.stop()


def _ratio(seconds: list[float], unit: list[float]) -> dict[str, float]:
    """The ratio of the shortest times, and the quartiles of those of the rounds."""
    ratios = [a / b for a, b in zip(seconds, unit, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {"ratio": min(seconds) / min(unit), "low": low, "high": high}


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
    pythons: dict[str, str], model: str, count: float, limit: float = math.inf
) -> Iterator[dict[str, Any]]:
    """Memory with :data:`MORE` times as many examples."""
    n = MODELS[model].examples
    for method in ("gradient", "wpl_jax"):
        worker = Worker(pythons[method], method, model, count, MORE * n, limit)
        row = {"model": model, "weights": int(count), "examples": MORE * n}
        row |= {"method": method, "problem": worker.problem}
        if not worker.problem:
            try:
                row["mebibytes"] = float(worker.ask("memory"))
            except StoppedError as error:
                row["problem"] = str(error)
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
    if "difference" in row:
        line += f" {row['difference']:.0e}"
    return line
