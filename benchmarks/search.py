"""What a step of the recurrent search costs, at the sizes of the published code.

12 nodes, batches of 64 by 35 words, 10,000 words. A step is measured as it runs, as
a share of the compiled training of a child; beside it the same child written out by
hand: its architecture in Python, its weights in arrays of their own, plain autodiff.

Expected before measuring, at 200 units: the decoder's products are 64 * 35 * 200 *
10,000 * 2 * 3 = 27 GFLOP a step and the cell's 12 * 64 * 35 * 200 * 400 * 2 * 3 = 13
GFLOP, at 60 to 140 GFLOP/s on two cores some 0.4 s; the penalty touches each of the
child's 3 million weights a few times, some per cent. At 1000 units five times the
decoder and 25 times the cell.
"""

import dataclasses
import functools
import importlib.util
import statistics
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from configs import enas_rnn_ptb
from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.jobs.build import build_chosen
from wpl_jax.protections import PENALTIES
from wpl_jax.search import Search
from wpl_jax.spaces.highway_scan import ACTIVATIONS, flat
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.spaces.words import Dropout
from wpl_jax.strategies import STRATEGIES
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.language_model import LanguageModel
from wpl_jax.tasks.text_streams import Data

WORDS, NODES, BATCH, LENGTH = 10_000, 12, 64, 35
LEARNED = 5  # steps of the controller in a call
# A step is the difference of two calls, which evaluate too, by their steps. Neither has
# one step: XLA compiles that without a loop, and it were no part of the longer call.
TRAINED = (2, 5)
# Seconds of the authors' PyTorch code, patched to run, on two CPU cores (PyTorch
# 2.13, 2 threads): a shared step, a Fisher pass and a controller step. These cores
# multiplied matrices at PEAK GFLOP/s; others are told beside it.
PEAK = 143
PYTORCH = {
    200: {"shared step": 0.80, "Fisher update": 0.84, "controller step": 0.31},
    1000: {"shared step": 5.2, "Fisher update": 5.25, "controller step": 1.9},
}


def rows(sizes: tuple[int, ...] = (200, 1000)) -> Iterator[dict]:
    """The benchmark's figures."""
    yield _peak()
    for hidden in sizes:
        yield from _rows_of(hidden)


def _peak() -> dict:
    """How fast the machine is, beside the one that the authors' code was timed on."""
    size = 1000
    square = jnp.ones((size, size))
    product = jax.jit(lambda x: x @ x)
    seconds = measure.interleaved_seconds({"": lambda: product(square)}, rounds=50)[""]
    gflops = 2e-9 * size**3 / min(seconds)
    return {
        "benchmark": "search, this machine",
        "figure": f"{gflops:.0f} GFLOP/s of a product of {size}^3 / {PEAK}",
        "ratio": gflops / PEAK,
    }


def _rows_of(hidden: int) -> list[dict]:
    data = make_data()
    searches = {
        (name, steps): Running(hidden, name, steps, data)
        for name in ("wpl", "none")
        for steps in TRAINED
    }
    static = {steps: _static(hidden, steps, data) for steps in TRAINED}
    wpl = searches["wpl", TRAINED[0]]
    pytorch = _pytorch(hidden)
    seconds = measure.interleaved_seconds(
        {
            **{
                f"{name} {steps}": running.train
                for (name, steps), running in searches.items()
            },
            **{f"static {steps}": call for steps, call in static.items()},
            "Fisher update": wpl.fisher,
            "controller": wpl.learn,
            **{f"PyTorch {name}": call for name, call in pytorch.items()},
        },
        rounds=5 if hidden < 500 else 3,
    )

    def step(name):
        few, many = TRAINED
        pairs = zip(seconds[f"{name} {few}"], seconds[f"{name} {many}"], strict=True)
        return [(b - a) / (many - few) for a, b in pairs]

    found = [
        {
            "benchmark": f"search step, hidden {hidden}",
            "figure": f"{label} / the same child written statically",
            **measure.ratio(step(name), step("static")),
            "seconds": statistics.median(step(name)),
        }
        for name, label in (("wpl", "with WPL"), ("none", "without a penalty"))
    ]
    found.append(
        {
            "benchmark": f"search, hidden {hidden}",
            "figure": "Fisher update / shared step",
            **measure.ratio(seconds["Fisher update"], step("wpl")),
        }
    )
    ours = {
        "shared step": step("wpl"),
        "Fisher update": seconds["Fisher update"],
        "controller step": [s / LEARNED for s in seconds["controller"]],
    }
    theirs = [
        (name, [seconds] * len(ours[name]), "the authors' code")
        for name, seconds in PYTORCH[hidden].items()
    ] + [(name, seconds[f"PyTorch {name}"], "PyTorch here") for name in pytorch]
    for name, unit, whose in theirs:
        mine, other = statistics.median(ours[name]), statistics.median(unit)
        found.append(
            {
                "benchmark": f"search, hidden {hidden}",
                "figure": f"{name}, {mine:.2f} s / {other:.2f} s of {whose}",
                **measure.ratio(ours[name], unit),
                "seconds": mine,
            }
        )
    return found


def _pytorch(hidden: int) -> dict[str, Callable[[], None]]:
    """The same steps in PyTorch, where it is installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    from benchmarks import pytorch

    rates = dataclasses.asdict(make_task(hidden).dropout)
    steps = pytorch.Steps(
        WORDS,
        hidden,
        NODES,
        BATCH,
        LENGTH,
        rates,
        ([ACTIVATIONS.index(name) for name in CHILD.activations], CHILD.parents),
    )
    return {
        "shared step": steps.train,
        "Fisher update": steps.estimate,
        "controller step": steps.learn,
    }


def make_data() -> Data:
    """Random words, as many as the Penn Treebank has."""
    rng = np.random.default_rng(0)
    return Data(
        *(
            jnp.asarray(rng.integers(0, WORDS, (BATCH, words // BATCH)), jnp.int32)
            for words in (929_589, 73_760, 82_430)
        )
    )


class Running:
    """A search whose next call can be made again and again."""

    def __init__(self, hidden: int, penalty: str, steps: int, data: Data):
        config = enas_rnn_ptb.get_config()
        config.penalty.name = penalty
        config.penalty.wpl.start_epoch = 1  # No Fisher in the epoch that is measured.
        task = make_task(hidden)
        self.search = Search(
            task,
            build_chosen(STRATEGIES, config, "strategy", space=task.space),
            build_chosen(PENALTIES, config, "penalty"),
            build_chosen(OPTIMIZERS, config, "optimizer"),
            children=2,
            batches=steps,
            eval_batches=1,
        )
        self._data, self.state = data, self.search.init(jax.random.key(0))

    def train(self) -> Any:
        """One child."""
        zero = np.int32(0)
        self.state = self.search.train_child(self.state, self._data, zero, zero)
        return self.state

    def learn(self) -> Any:
        """Some steps of the controller."""
        zero = np.int32(0)
        self.state = self.search.learn(self.state, self._data, zero, zero, LEARNED)
        return self.state

    def fisher(self) -> Any:
        """Of the last child."""
        task = self.search.task
        architecture = Architecture(self.state.epoch.architectures.choice[0])
        return _fisher(task)(self.state.shared.params, architecture, self._data)


@functools.cache
def _fisher(task: LanguageModel):
    @jax.jit
    def fisher(params, architecture, data):
        child = gather(params, task.space.rows(architecture))
        gradient = jax.grad(task.fisher_loss)(child, architecture, data, "valid", 0)
        return jax.tree.map(jnp.square, gradient)

    return fisher


def make_task(hidden: int) -> LanguageModel:
    space = RecurrentCell(WORDS, hidden, NODES, init_scale=0.025)
    dropout = Dropout(embedding=0.1, input=0.65, output=0.4, recurrent=0.5)
    return LanguageModel(space, LENGTH, BATCH, dropout)


class _Child(NamedTuple):
    """The architecture that is written out: a chain with some branches."""

    activations: tuple[str, ...]
    parents: tuple[int, ...]


CHILD = _Child(
    tuple(ACTIVATIONS[i % 4] for i in range(NODES)),
    (0, 0, 1, 2, 2, 4, 5, 5, 7, 8, 8),
)


def _static(hidden: int, steps: int, data: Data):
    train, params = static_program(hidden, steps, data)
    return lambda: train(params)


def static_program(hidden: int, steps: int, data: Data):
    """The child as one would write it alone, trained by the same optimizer."""
    task = make_task(hidden)
    sizes = {"input": hidden, "recurrent": hidden}
    sizes |= {f"edge_{j}": hidden for j in range(1, NODES)}
    keys = iter(jax.random.split(jax.random.key(0), NODES + 2))

    def uniform(*shape):
        return jax.random.uniform(next(keys), shape, minval=-0.025, maxval=0.025)

    params = {name: uniform(size, 2 * hidden) for name, size in sizes.items()}
    params["embedding"] = uniform(WORDS, hidden)
    params |= {"bias": jnp.zeros(2 * hidden), "output_bias": jnp.zeros(WORDS)}
    sgd = build_chosen(OPTIMIZERS, enas_rnn_ptb.get_config(), "optimizer")
    optimizer = sgd.transform(sgd.learning_rate)

    def loss(params, tokens, state, key):
        logits, state = _static_forward(params, tokens[:, :-1], state, key, task)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return jnp.mean(nats), state

    def step(carry, i):
        params, opt_state, state = carry
        tokens = jax.lax.dynamic_slice_in_dim(data.train, i * LENGTH, LENGTH + 1, 1)
        key = jax.random.fold_in(jax.random.key(1), i)
        gradient, state = jax.grad(loss, has_aux=True)(params, tokens, state, key)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, state), None

    @jax.jit
    def train(params):
        carry = params, optimizer.init(params), task.init_carry()
        (params, _, _), _ = jax.lax.scan(step, carry, jnp.arange(steps))
        # As a search does after training a child: one evaluation.
        tokens, start = data.valid[:, : LENGTH + 1], task.init_carry()
        logits, _ = _static_forward(params, tokens[:, :-1], start, None, task)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
        return params, jnp.mean(nats)

    return train, params


def _static_forward(params, tokens, state, key, task):
    rates = task.dropout
    functions = {
        "tanh": jnp.tanh,
        "relu": jax.nn.relu,
        "identity": lambda x: x,
        "sigmoid": jax.nn.sigmoid,
    }
    keys = [None] * 4 if key is None else list(jax.random.split(key, 4))

    def drop(i, x, rate, shape):
        if keys[i] is None:
            return x
        kept = jax.random.bernoulli(keys[i], 1 - rate, shape)
        return jnp.where(kept, x / (1 - rate), 0)

    def mix(parent, pre, name):
        gate, value = jnp.split(pre, 2, -1)
        return parent + jax.nn.sigmoid(gate) * (functions[name](value) - parent)

    table = drop(0, params["embedding"], rates.embedding, (WORDS, 1))
    x = table[tokens.T]
    x = drop(1, x, rates.input, (1, *x.shape[1:]))
    # Flat, as the supernet has it: the gradient of a product over two axes is slow.
    x = flat(x) @ params["input"] + params["bias"]
    x = x.reshape(*tokens.T.shape, -1)
    shape = params["recurrent"].shape
    recurrent = drop(2, params["recurrent"], rates.recurrent, shape)
    leaves = [j for j in range(NODES) if j not in CHILD.parents]

    def cell(previous, x):
        nodes = [mix(previous, x + previous @ recurrent, CHILD.activations[0])]
        for j, i in enumerate(CHILD.parents, 1):
            pre = nodes[i] @ params[f"edge_{j}"]
            nodes.append(mix(nodes[i], pre, CHILD.activations[j]))
        output = sum(nodes[j] for j in leaves) / len(leaves)
        norm = jnp.linalg.norm(output, axis=-1, keepdims=True)
        scale = jax.lax.stop_gradient(jnp.minimum(1, 25 / jnp.maximum(norm, 1e-12)))
        return output * scale, output

    state, outputs = jax.lax.scan(cell, state, x)
    outputs = drop(3, outputs, rates.output, (1, *outputs.shape[1:]))
    logits = flat(outputs.swapaxes(0, 1)) @ params["embedding"].T
    logits = (logits + params["output_bias"]).reshape(*tokens.shape, -1)
    return logits, jax.lax.stop_gradient(state)
