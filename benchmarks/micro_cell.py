"""What a step of the search on images takes, of time and memory, and its operations.

A step is measured as it runs, as a share of the compiled training of a child, what is
done once for all its steps included; beside it the same child written out by hand: its
architecture in Python, its weights in arrays of their own, the same operations, plain
autodiff. The children are random.

Expected before measuring, for 32 images of 32x32 with 20 filters: a separable 3x3
convolution, applied twice, is 2 * 32 * 1024 * 20 * (9 + 20) * 2 = 76 MFLOP forward and
three times that with its gradients, some 40 ms at the 5 GFLOP/s that sums of shifted
images reach; a child has some 30 convolutions. The choice itself costs two copies of
what a branch makes, 2.6 MB each, some per cent. Memory: plain autodiff remembers the
inside of every convolution, some ten arrays of 2.6 MB; the space remembers a node.
"""

import dataclasses
import functools
import statistics
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure
from configs import enas_cnn_cifar10
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.engine.optimizers import OPTIMIZERS
from wpl_jax.jobs.build import build_chosen
from wpl_jax.protections import PENALTIES
from wpl_jax.search import Search
from wpl_jax.spaces.batch_normalization import EPSILON
from wpl_jax.spaces.depthwise import average_pool, depthwise, max_pool, shifts
from wpl_jax.spaces.micro_cell import STAGES, MicroCell
from wpl_jax.strategies.strategy import Candidates, Strategy
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.augmentation import augment
from wpl_jax.tasks.image_classification import ImageClassification
from wpl_jax.tasks.image_data import Data, Images

SIZE, FILTERS, LAYERS, BATCH, CLASSES = 32, 20, 6, 32, 10
STEPS = 5  # in a call
# Random children and their batches; the last is the batch of the paper's configuration.
CHILDREN = ((0, BATCH), (1, BATCH), (2, BATCH), (0, 160))


def rows() -> Iterator[dict]:
    """The benchmark's figures."""
    yield from _operations()
    for child in CHILDREN:
        yield from _child(*child)


def _operations() -> list[dict]:
    """XLA's own operations as multiples of ours, forward and with gradients."""
    x, gradient = jax.random.normal(jax.random.key(0), (2, BATCH, SIZE, SIZE, FILTERS))
    pairs: dict[str, tuple[Any, Any, tuple[jax.Array, ...]]] = {
        "max pooling 3x3": (max_pool, _window(jax.lax.max, -jnp.inf), (x,)),
        "average pooling 3x3": (average_pool, _mean, (x,)),
    }
    for size in (3, 5):
        kernel = jax.random.normal(jax.random.key(size), (size, size, FILTERS))
        pairs[f"depthwise {size}x{size}"] = (depthwise, _grouped, (x, kernel))
    found = []
    for name, (ours, theirs, arguments) in pairs.items():
        calls = {}
        for label, function in (("ours", ours), ("XLA's", theirs)):
            both = jax.jit(lambda g, *a, f=function: jax.vjp(f, *a)[1](g))
            calls[f"{label} forward"] = functools.partial(jax.jit(function), *arguments)
            calls[f"{label} gradients"] = functools.partial(both, gradient, *arguments)
        seconds = measure.interleaved_seconds(calls, rounds=5)
        found += [
            {
                "benchmark": f"{name}, {BATCH}x{SIZE}x{SIZE}x{FILTERS}",
                "figure": f"XLA's {way} / sums of shifted images",
                **measure.ratio(seconds[f"XLA's {way}"], seconds[f"ours {way}"]),
            }
            for way in ("forward", "gradients")
        ]
    return found


def _grouped(x, kernel):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (1, 1),
        "SAME",
        feature_group_count=x.shape[-1],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _window(reduce, start):
    return lambda x: jax.lax.reduce_window(
        x, start, reduce, (1, 3, 3, 1), (1,) * 4, "SAME"
    )


def _mean(x):
    add = _window(jax.lax.add, 0.0)
    return add(x) / add(jnp.ones((1, *x.shape[1:3], 1)))


def _child(number: int, batch: int) -> list[dict]:
    space = MicroCell((SIZE, SIZE, 3), CLASSES, filters=FILTERS, layers=LAYERS)
    choice = space.sample(jax.random.key(number))
    data = make_data(batch)
    programs = {
        "wpl": _searching(space, choice, "wpl", data, batch),
        "none": _searching(space, choice, "none", data, batch),
        "static": _static(space, choice, data, batch),
    }
    seconds = measure.interleaved_seconds(
        {name: call for name, (call, _) in programs.items()}, rounds=7
    )
    memory = {
        name: program.memory_analysis().temp_size_in_bytes
        for name, (_, program) in programs.items()
    }
    arms = (("wpl", "with WPL"), ("none", "without a penalty"))
    child = f"child {number + 1}, batch {batch}"
    return [
        {
            "benchmark": f"search step on images, {child}",
            "figure": f"{label} / the same child written statically",
            **measure.ratio(seconds[name], seconds["static"]),
            "seconds": statistics.median(seconds[name]) / STEPS,
        }
        for name, label in arms
    ] + [
        {
            "benchmark": f"temporary memory of the step on images, {child}",
            "figure": f"{label} / the same child written statically",
            "ratio": memory[name] / memory["static"],
        }
        for name, label in arms
    ]


def make_data(batch: int) -> Data:
    """Noise, for a batch of some size."""
    rng = np.random.default_rng(0)

    def images(count):
        return Images(
            jnp.asarray(rng.integers(0, 256, (count, SIZE, SIZE, 3)), jnp.uint8),
            jnp.asarray(rng.integers(0, CLASSES, count), jnp.int32),
        )

    splits = images(20 * batch), images(batch), images(batch)
    return Data(*splits, jnp.full(3, 128.0), jnp.full(3, 74.0))


def _searching(space, choice, penalty, data, batch):
    """The search's training of a child, with a strategy that proposes always it."""
    config = enas_cnn_cifar10.get_config()
    config.penalty.name = penalty
    config.penalty.wpl.start_epoch = 1  # No Fisher in the epoch that is measured.
    search = Search(
        ImageClassification(space, batch),
        _Always(len(space.decisions)),
        build_chosen(PENALTIES, config, "penalty"),
        build_chosen(OPTIMIZERS, config, "optimizer"),
        children=1,
        batches=STEPS,
        eval_batches=1,
    )
    # A copy: a call takes over the arrays of the state that it is given.
    own = jnp.array(choice)
    state = [search.init(jax.random.key(0))._replace(strategy=own)]
    zero = np.int32(0)
    program = search.train_and_protect.lower(state[0], data, zero, zero).compile()

    def train():
        state[0] = program(state[0], data, zero, zero)
        return state[0]

    return train, program


@dataclasses.dataclass(frozen=True)
class _Always(Strategy):
    """Proposes what its state is: a choice, as data."""

    decisions: int
    candidates = Candidates(1, 1, 1)

    def init(self, key):
        """To be replaced."""
        del key
        return jnp.zeros(self.decisions, jnp.int32)

    def propose(self, state, key):
        """The architecture."""
        del key
        return Architecture(state)


def _static(space, choice, data, batch):
    """The child as one would write it alone, trained by the same optimizer."""
    params = gather(space.init(jax.random.key(0)), space.rows(Architecture(choice)))
    chosen = np.asarray(choice).reshape(2, space.num_nodes, 2, 2)
    network = _Network(space, chosen)
    params = network.take(params)
    config = enas_cnn_cifar10.get_config()
    sgd = build_chosen(OPTIMIZERS, config, "optimizer")
    optimizer = sgd.transform(sgd.learning_rate)
    task = ImageClassification(space, batch)

    def loss(params, i):
        key = jax.random.fold_in(jax.random.key(1), i)
        places = task.batches.shuffled(i, len(data.train.labels), NO_AXIS)
        images, labels = (x[places] for x in data.train)
        images = augment(key, images, task.augmentation, data, NO_AXIS)
        logits = network.apply(params, images)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def step(carry, i):
        params, opt_state = carry
        updates, opt_state = optimizer.update(
            jax.grad(loss)(params, i), opt_state, params
        )
        return (optax.apply_updates(params, updates), opt_state), None

    @jax.jit
    def train(params):
        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, jnp.arange(STEPS))[0]

    program = train.lower(params).compile()
    return lambda: program(params), program


class _Network:
    """One child, without a choice at run time."""

    def __init__(self, space, chosen):
        self._space, self._chosen = space, chosen

    def _cells(self):
        for stage in range(STAGES):
            for cell, kind in enumerate(self._space.cells_of_stage(stage)):
                yield stage, cell, self._chosen[kind]

    def take(self, child):
        """The parameters that it uses, and no others."""
        nodes = self._space.num_nodes
        found = {k: v for k, v in child.items() if not k.startswith("stage")}
        for stage in range(STAGES):
            for name in ("first", "second"):
                found[f"{stage} {name}"] = child[f"stage_{stage}"][name]
        for stage, cell, chosen in self._cells():
            stacks = child[f"stage_{stage}"]["cells"]
            for node, (_, operations) in enumerate(chosen):
                for side, operation in enumerate(operations):
                    row = (cell * nodes + node) * 2 + side
                    if operation < 2:
                        size = ("depthwise_3x3", "depthwise_5x5")[operation]
                        found[f"{stage} {cell} {node} {side}"] = [
                            stacks[name][row]
                            for name in (size, "pointwise", "scale", "offset")
                        ]
            output = stacks["output"]
            for node in self._unused(chosen):
                kernel = output["kernel"][cell * nodes + node]
                found[f"{stage} {cell} {node} out"] = kernel
            found[f"{stage} {cell} out"] = output["scale"][cell], output["offset"][cell]
        return found

    def _unused(self, chosen):
        used = set(chosen[:, 0].ravel() - 2)
        return [n for n in range(self._space.num_nodes) if n not in used]

    def apply(self, params, images):
        """The forward pass."""
        patches = jnp.concatenate([s for *_, s in shifts(images, 3, 0)], -1)
        x = _product(patches, params["stem"])
        for stage, cell, chosen in self._cells():
            if cell == 0:
                multiply = _halved if stage else jnp.matmul
                inputs = [
                    _product(y, params[f"{stage} {name}"], multiply)
                    for name, y in (
                        ("first", jax.nn.relu(x)),
                        ("second", x if stage else jax.nn.relu(x)),
                    )
                ]
            states = list(inputs)
            for node, (places, operations) in enumerate(chosen):
                branches = (
                    self._branch(
                        states[place],
                        operation,
                        params.get(f"{stage} {cell} {node} {side}"),
                    )
                    for side, (place, operation) in enumerate(
                        zip(places, operations, strict=True)
                    )
                )
                states.append(sum(branches))
            x = sum(
                jax.nn.relu(states[node + 2]) @ params[f"{stage} {cell} {node} out"]
                for node in self._unused(chosen)
            )
            x = _normalize(x, *params[f"{stage} {cell} out"])
            inputs = [inputs[1], x]
        classifier = params["classifier"]
        features = jnp.mean(jax.nn.relu(x), (1, 2))
        return features @ classifier["kernel"] + classifier["bias"]

    def _branch(self, x, operation, params):
        if operation == 2:
            return average_pool(x)
        if operation == 3:
            return max_pool(x)
        if params is not None:
            for kernel, pointwise, scale, offset in zip(*params, strict=True):
                x = depthwise(jax.nn.relu(x), kernel) @ pointwise
                x = _normalize(x, scale, offset)
        return x


def _product(x, params, multiply=jnp.matmul):
    x = multiply(x, params["kernel"])
    return _normalize(x, params["scale"], params["offset"])


def _halved(x, kernel):
    half = kernel.shape[1] // 2
    even, odd = x[:, ::2, ::2], x[:, 1::2, 1::2]
    return jnp.concatenate([even @ kernel[:, :half], odd @ kernel[:, half:]], -1)


def _normalize(x, scale, offset):
    mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON) * scale + offset
