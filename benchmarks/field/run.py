r"""Compares the per-example Fisher with those of other libraries.

    python -m benchmarks.field.run --output=field.json \
        --python=kfac-jax=KFAC/bin/python --python=laplax=LAPLAX/bin/python \
        --python=BackPACK=BACKPACK/bin/python

Each method runs in a process of its own, with the Python that ``--python`` names for
it; without one, with this Python. All processes have one core and take turns, one call
each in every round. ``--size`` sets the number of weights of the models, and may be
given several times.

A process that takes more than ``--limit`` seconds is stopped. A library that is not
installed, has no such diagonal, or is stopped has a row that says so. At the end the
tables are printed as Markdown (``benchmarks.field.tables``), without empty cells.

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
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from benchmarks.field.compare import (
    EXACT,
    METHODS,
    SMALL,
    SMALL_EXAMPLES,
    compare,
    describe,
    memory_of_more,
)
from benchmarks.field.models import MODELS
from benchmarks.field.tables import tables

_MODELS = flags.DEFINE_multi_enum("model", list(MODELS), list(MODELS), "Models.")
_SIZES = flags.DEFINE_multi_float("size", [1e5, 1e6, 1e7], "Numbers of weights.")
_METHODS = flags.DEFINE_multi_enum(
    "method", [*METHODS, "laplax"], [*METHODS, "laplax"], "What is compared."
)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "How often each is timed.")
_LIMIT = flags.DEFINE_float(
    "limit", 600.0, "Seconds of a process: imports, compilation and calls."
)
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

    limits = {"rounds": _ROUNDS.value, "limit": _LIMIT.value}
    run = functools.partial(compare, pythons, **limits)
    chosen = tuple(m for m in METHODS if m in _METHODS.value)
    for model in _MODELS.value:
        if chosen:
            for size in _SIZES.value:
                for row in run(chosen, model, size, MODELS[model].examples):
                    add(row)
            for row in memory_of_more(pythons, model, max(_SIZES.value), _LIMIT.value):
                add(row)
        if "laplax" in _METHODS.value:
            examples = min(MODELS[model].examples, SMALL_EXAMPLES)
            for row in run(EXACT, model, SMALL, examples):
                add({**row, "exact": True})
    print(tables(rows))


if __name__ == "__main__":
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    app.run(main)
