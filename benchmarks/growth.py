"""How costs grow: five sizes each, and the exponent that fits them.

Seconds are fitted by ``c * size^exponent``, by least squares of their logarithms; the
ratio that is printed is the exponent, beside the time of each size as a multiple of the
first one's. Expected: a step grows with the nodes as the number of products, 1; with
the hidden size as their size, up to 2 where products fill the machine; evaluation with
the architectures and a Fisher with the examples, 1. What does not grow, the softmax,
the optimizer and the calls, makes it less.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from benchmarks import measure, models
from configs import enas_rnn_pydoc
from wpl_jax import per_example_fisher
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.jobs.search_config import make_search
from wpl_jax.supernet import Architecture

NODES = (4, 6, 8, 12, 16)
HIDDEN = (32, 64, 128, 256, 512)
EXAMPLES = (250, 500, 1000, 2000, 4000)
EVALUATED = (1, 2, 4, 8, 16)


def rows() -> list[dict]:
    """The benchmark's figures."""
    studies: dict[str, tuple[tuple[int, ...], Callable[[int], Any]]] = {
        "a child's training, with its nodes": (NODES, _train_nodes),
        "a child's training, with its hidden size": (HIDDEN, _train_hidden),
        "evaluation, with the architectures": (EVALUATED, _evaluate),
        "per-example Fisher, with the examples": (EXAMPLES, _fisher),
    }
    found = []
    for name, (sizes, make) in studies.items():
        calls = {str(size): make(size) for size in sizes}
        seconds = measure.interleaved_seconds(calls, rounds=5)
        rounds = np.array([seconds[str(size)] for size in sizes])
        slopes = [
            float(np.polyfit(np.log(sizes), np.log(each), 1)[0]) for each in rounds.T
        ]
        low, middle, high = np.quantile(slopes, (0.25, 0.5, 0.75))
        times = np.median(rounds / rounds[0], axis=1)
        found.append(
            {
                "benchmark": "growth: exponent",
                "figure": f"{name}, {_listed(sizes)}: {_listed(times)} times",
                "sizes": list(sizes),
                "times": times.tolist(),
                "ratio": float(middle),
                "low": float(low),
                "high": float(high),
            }
        )
    return found


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{n:,.0f}" if n >= 100 else f"{n:.3g}" for n in numbers)


def _search(**space: int) -> Any:
    config = enas_rnn_pydoc.get_config()
    config.space.recurrent_cell.update({"hidden": 48, "num_nodes": 8} | space)
    config.task.data.max_vocabulary = 200
    search, data, _ = make_search(config)
    return search, data, search.init(jax.random.key(0))


def _train(**space: int) -> Callable[[], Any]:
    search, data, state = _search(**space)
    running = [state]

    def train() -> Any:
        zero = np.int32(0)
        running[0] = search.train_and_protect(running[0], data, zero, zero)
        return running[0].shared.params

    return train


def _train_nodes(nodes: int) -> Callable[[], Any]:
    return _train(num_nodes=nodes)


def _train_hidden(hidden: int) -> Callable[[], Any]:
    return _train(hidden=hidden, num_nodes=4)


def _evaluate(count: int) -> Callable[[], Any]:
    search, data, state = _search()
    keys = jax.random.split(jax.random.key(1), count)
    architectures = Architecture(jax.vmap(search.task.space.sample)(keys))
    evaluator, batches = Evaluator(search.task), np.int32(5)

    def evaluate() -> Any:
        return evaluator.validate(state.shared.params, architectures, data, batches)

    return evaluate


def _fisher(count: int) -> Callable[[], Any]:
    params, loss = models.mlp(jax.random.key(0))
    examples = models.examples(jax.random.key(1), count)
    fisher = jax.jit(functools.partial(per_example_fisher, loss))
    return lambda: fisher(params, examples)
