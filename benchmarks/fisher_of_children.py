"""The per-example Fisher of a search's children, beside the batch Fisher.

Expected before measuring: a recurrent cell's matrix meets a row at each of 35 time
steps, so the gradient of a sequence is one [inputs, 35] x [35, outputs] product, and
all of them are the arithmetic of the batched gradient. Each is written to a buffer of
the matrix's size, squared and added: at 1,000 units 8 MB an edge, which leaves the
cache, so up to 3. The micro cell writes its backward pass out itself, for one image
at a time: up to 3.
"""

import functools
import statistics
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks import measure, micro_cell, search
from wpl_jax.fisher import per_example_fisher, square
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.image_classification import ImageClassification

# Hidden units of the recurrent cell, with the examples that fit into memory at a time.
CELLS = ((20, 64), (200, 16), (1000, 4), (1000, 16))
BATCH = 64  # images


def rows() -> Iterator[dict]:
    """The benchmark's figures."""
    data = search.make_data()
    for hidden, chunk in CELLS:
        task = search.make_task(hidden)
        label = f"recurrent cell, hidden {hidden}, {search.BATCH} sequences"
        yield from _rows(task, data, label, chunk)
    size = micro_cell.SIZE
    space = MicroCell(
        (size, size, 3),
        micro_cell.CLASSES,
        filters=micro_cell.FILTERS,
        layers=micro_cell.LAYERS,
    )
    task = ImageClassification(space, BATCH)
    label = f"micro cell, {BATCH} images"
    yield from _rows(task, micro_cell.make_data(BATCH), label, BATCH)


def _rows(task, data, label: str, chunk: int) -> Iterator[dict]:
    """Of one random child."""
    space = task.space
    architecture = Architecture(space.sample(jax.random.key(1)))
    child = gather(space.init(jax.random.key(0)), space.rows(architecture))

    @jax.jit
    def of_batch(child):
        return square(
            jax.grad(task.fisher_loss)(child, architecture, data, "valid", jnp.int32(0))
        )

    @jax.jit
    def of_examples(child):
        examples = task.fisher_examples(
            child, architecture, data, "valid", jnp.int32(0)
        )
        loss = functools.partial(_example_loss, task, architecture)
        return per_example_fisher(loss, child, examples, chunk_size=chunk)

    seconds = measure.interleaved_seconds(
        {
            "examples": functools.partial(of_examples, child),
            "batch": functools.partial(of_batch, child),
        },
        rounds=5,
    )
    yield {
        "benchmark": f"Fisher, {label}",
        "figure": f"per_example, chunks of {chunk} / batch",
        **measure.ratio(seconds["examples"], seconds["batch"]),
        "seconds": statistics.median(seconds["examples"]),
    }


def _example_loss(task, architecture, child, example):
    return task.example_loss(child, architecture, example)
