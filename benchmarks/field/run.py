r"""Compares the per-example Fisher with those of other libraries.

    python -m benchmarks.field.run --output=field.json \
        --python=kfac-jax=ENV/bin/python --python=BackPACK=OTHER/bin/python

Each method runs in a process of its own, with the Python that ``--python`` names for
it; without one, with this Python. A library that is not installed there is reported as
missing. All processes have one core and take turns, one call each in every round.

Expected before measuring, in batched gradients of the same model. A gradient has three
products of a layer's size (two in the first layer), a diagonal has them too:

- **MLP**: the same products, of squares. 1.0 to 1.2.
- **convnet**: the same products, one for each example, whose result is squared and
  added. A weight takes 6 operations at each place of the image, and three more and
  12 bytes for the square. With 64 to 1,024 places that is little: 1.0 to 1.2. XLA's
  convolutions on a CPU are slower than products, so it may be less.
- **weight standardization**: each example's gradient in a kernel goes back through the
  standardization, about 10 operations a weight: 1.1 to 1.3.
- **transformer block**, 32 rows: 192 operations a weight and example, and the 12 bytes
  of a buffer of the weight's size. In the cache that is 1.1, from memory (10 GB/s
  beside 50 GFLOP/s) 1.3.
- **GRU**, 16 steps: 96 operations for the same bytes: 1.1, from memory 1.6.
- **optax** writes, squares and adds the gradient of every example: 8 to 16 bytes a
  weight, beside 6 operations in an MLP: 5 to 15 there, and about what ours takes where
  a weight meets many rows.
- **kfac-jax**: as ours in an MLP. It differentiates a convolution for each image.
- **BackPACK** computes the gradient as well: 4/3 in an MLP; 1.3 and the patches
  (9 times an image) in a convnet.
- **laplax** takes a forward and a backward derivative for each weight: 10,000 weights
  are some 20,000 gradients.

Memory: the squares of a tree of weights twice (sum and chunk), and the buffer of one
example. Activations are those of 128 examples, however many there are.
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

from benchmarks.field.models import MODELS, make_weights

UNITS = {"wpl_jax": "gradient", "BackPACK": "gradient in PyTorch"}
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
REFERENCES = {"laplax": "wpl_jax, exact"}  # whose values a method should have
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


_MODELS = flags.DEFINE_multi_enum("model", list(MODELS), list(MODELS), "Models.")
_SIZES = flags.DEFINE_multi_float("size", [1e5, 1e6, 1e7], "Numbers of weights.")
_METHODS = flags.DEFINE_multi_enum(
    "method", list(METHODS), [*METHODS, "laplax"], "What is compared."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.")
_PYTHONS = flags.DEFINE_multi_string("python", [], "METHOD=PATH of a Python.")
_OUTPUT = flags.DEFINE_string("output", "", "File for the figures as JSON.")


def main(argv: list[str]) -> None:
    """Runs what was asked for."""
    del argv
    pythons = dict.fromkeys((*METHODS, *EXACT), sys.executable)
    pythons |= dict(pair.split("=", 1) for pair in _PYTHONS.value)
    rows: list[dict[str, Any]] = []

    def add(row):
        rows.append(row)
        print(describe(row), flush=True)
        if _OUTPUT.value:
            Path(_OUTPUT.value).write_text(json.dumps(rows, indent=1) + "\n", "utf-8")

    run = functools.partial(compare, pythons, rounds=_ROUNDS.value)
    chosen = tuple(m for m in METHODS if m in _METHODS.value)
    for model in _MODELS.value:
        for size in _SIZES.value:
            for row in run(chosen, model, size, MODELS[model].examples):
                add(row)
        for row in memory_of_more(pythons, model, max(_SIZES.value)):
            add(row)
    if "laplax" in _METHODS.value and "MLP" in _MODELS.value:
        for row in run(EXACT, "MLP", SMALL, 32):
            add(row)


if __name__ == "__main__":
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    app.run(main)
