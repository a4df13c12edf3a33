"""What a step on NAS-Bench-201's space takes: of a child, with gates, of a mixture.

A step is the gradient of the loss on one batch and a step of SGD, inside a loop, as a
search takes it. A mixture is compared with the sum of its parts: operations, stem and
reductions. Each of them is alone in such a loop, with its gradients, its ReLU and its
normalization.

Expected before measuring, with c channels: an edge of a mixture multiplies each pixel
with 10 c^2 weights. That of a random child has 2.5 c^2 on average, as one operation in
four has 9 c^2 and one has c^2. So a mixture takes up to four times a child, and less
where the stem, the reductions and what is not a product count. Edges from the same node
share ReLU, neighbours and pooled image, so it takes at most the sum of its parts.
Gates add a sum over an image for each edge, some per cent. The gradient of the weights
alone leaves out the third of the products that are gradients of kernels. A convolution
in a loop should take XLA's CPU backend 8 to 30 times as long as a product of patches,
and an accelerator less.
"""

import functools
import importlib.util
import statistics
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import optax

from benchmarks import measure
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.spaces import nasbench201_operations as operations
from wpl_jax.spaces.nasbench201 import STAGES, NasBench201
from wpl_jax.spaces.nasbench201_architectures import EDGES
from wpl_jax.spaces.nasbench201_operations import ON_ONE_EDGE
from wpl_jax.supernet import Architecture, gather

SIZES = ((16, 8, 1, 32),)  # pixels of a side, channels, cells of a stage, batch
CHILDREN = 3  # random ones
STEPS = 5  # in a call
ROUNDS = 5
RATE = 1e-3  # so small that numbers stay what they are


def rows() -> Iterator[dict]:
    """The benchmark's figures."""
    for size in SIZES:
        yield from _rows(*size)


def _rows(side: int, channels: int, cells: int, batch: int) -> Iterator[dict]:
    space = NasBench201((side, side, 3), 10, channels, cells, exclude_none=True)
    calls: dict[str, Callable[[], Any]] = {}
    for child in range(CHILDREN):
        choice = space.sample(jax.random.key(child))
        gates = jax.nn.one_hot(choice, len(space.operations))
        calls[f"child {child}"] = _training(space, Architecture(choice), batch)
        gated = Architecture(choice, gates=gates)
        calls[f"gates {child}"] = _training(space, gated, batch)
    shape = len(EDGES), len(space.operations)
    weights = jnp.full(shape, 1 / len(space.operations))
    mixture = Architecture(jnp.zeros(len(EDGES), jnp.int32), weights)
    calls["mixture"] = _training(space, mixture, batch)
    calls["joint"] = _training(space, mixture, batch, of_weights=True)
    calls["weights"] = _training(
        space, mixture, batch, of_parameters=False, of_weights=True
    )
    for way in ("product", "convolution"):
        calls[way] = _convolving(way, _training(space, mixture, batch, way=way))
    for stage in range(STAGES):
        for operation in space.operations:
            shape = (channels * 2**stage, *[side // 2**stage] * 2, batch)
            calls[f"alone {stage} {operation}"] = _alone_on_an_edge(operation, shape)
    for name, block in _alone_between_cells(space, batch).items():
        calls[f"once {name}"] = block
    kinds = {"mixture": (1, 0), "joint": (1, 1), "weights": (0, 1)}
    if importlib.util.find_spec("torch") is not None:
        from benchmarks import pytorch_nasbench201

        theirs = pytorch_nasbench201.Steps(side, channels, cells, batch, RATE)
        for name, moved in kinds.items():
            take = functools.partial(theirs.take, *moved, STEPS)
            calls[f"PyTorch, {name}"] = take
    seconds = measure.interleaved_seconds(calls, ROUNDS)

    def total(kind: str, times: float) -> list[float]:
        """Of each round, the sum over what begins so."""
        each = [s for name, s in seconds.items() if name.startswith(kind)]
        return [times * sum(of_round) for of_round in zip(*each, strict=True)]

    child = total("child", 1 / CHILDREN)
    each_alone = total("alone", cells * len(EDGES)), total("once", 1)
    parts = [sum(both) for both in zip(*each_alone, strict=True)]
    pairs = {
        "mixture / its parts, each alone": (seconds["mixture"], parts),
        "gradient of weights and parameters / the same": (seconds["joint"], parts),
        "mixture / child, mean of random ones": (seconds["mixture"], child),
        "child with gates / child": (total("gates", 1 / CHILDREN), child),
        "mixture, convolutions / products of patches": (
            seconds["convolution"],
            seconds["product"],
        ),
        "gradient of the weights / of weights and parameters": (
            seconds["weights"],
            seconds["joint"],
        ),
        "gradient of weights and parameters / of parameters": (
            seconds["joint"],
            seconds["mixture"],
        ),
    }
    names = ("of parameters", "of weights and parameters", "of the weights")
    for name, said in zip(kinds, names, strict=True):
        if f"PyTorch, {name}" in seconds:
            unit = seconds[f"PyTorch, {name}"]
            pairs[f"gradient {said} / that of PyTorch"] = seconds[name], unit
    for figure, (some, unit) in pairs.items():
        yield {
            "benchmark": f"NAS-Bench-201, {batch}x{side}x{side}, {channels} channels",
            "figure": figure,
            **measure.ratio(some, unit),
            "seconds": statistics.median(some) / STEPS,
        }


def _training(
    space: NasBench201,
    architecture: Architecture,
    batch: int,
    of_parameters: bool = True,
    of_weights: bool = False,
    way: str = "",
) -> Callable[[], Any]:
    """Steps in a loop, that move what the gradient is taken of."""
    keys = jax.random.split(jax.random.key(0), 3)
    data = (
        jax.random.normal(keys[0], (batch, *space.image_shape)),
        jax.random.randint(keys[1], (batch,), 0, space.num_classes),
    )
    child = gather(space.init(keys[2]), space.rows(architecture))
    # What has gates is differentiated in them.
    of_weights |= architecture.gates is not None
    train = _train(space, of_parameters, of_weights, way)
    theta = architecture.weights, architecture.gates
    return lambda: train(child, theta, architecture.choice, data)


def _convolving(way: str, call: Callable[[], Any]) -> Callable[[], Any]:
    """The call, compiled with the variant ``way`` of 3x3 convolutions."""

    def chosen(*arguments, **variants):
        return variants[way](*arguments)

    def run():
        with mock.patch.object(operations, "product_or_convolution", chosen):
            return call()

    return run


@functools.cache
def _train(space: NasBench201, of_parameters: bool, of_weights: bool, way: str) -> Any:
    """The compiled loop, which all children share; one for each ``way``."""
    del way
    moved = tuple(i for i, m in enumerate((of_parameters, of_weights)) if m)

    def loss(child, theta, choice, data):
        images, labels = data
        logits = space.apply(child, Architecture(choice, *theta), images).logits
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(losses)

    def descend(both, slopes):
        return jax.tree.map(lambda x, s: x - RATE * s, both, slopes)

    @jax.jit
    def train(child, theta, choice, data):
        def step(both, _):
            slopes = jax.grad(loss, moved)(*both, choice, data)
            stepped = descend(tuple(both[i] for i in moved), slopes)
            now = dict(zip(moved, stepped, strict=True))
            return tuple(now.get(i, x) for i, x in enumerate(both)), None

        return jax.lax.scan(step, (child, theta), length=STEPS)[0]

    return train


def _alone_on_an_edge(operation: str, shape: tuple[int, ...]) -> Callable[[], Any]:
    c, key = shape[0], jax.random.key(0)
    kernels = {
        "conv_1x1": jax.random.normal(key, (c, c)),
        "conv_3x3": jax.random.normal(key, (9 * c, c)),
    }
    return _alone(functools.partial(ON_ONE_EDGE[operation], NO_AXIS), shape, kernels)


def _alone_between_cells(
    space: NasBench201, batch: int
) -> dict[str, Callable[[], Any]]:
    """The stem and the reductions."""
    parameters, (side, _, colours) = space.init(jax.random.key(0)), space.image_shape
    found = {}
    for stage in range(STAGES):
        name, block = f"reduction_{stage}", operations.reduce
        shape = (space.channels * 2 ** (stage - 1), *[side // 2 ** (stage - 1)] * 2)
        if stage == 0:
            name, block, shape = "stem", operations.convolve, (colours, side, side)

        def apply(x, child, given, block=block):
            return block(x, child, given, NO_AXIS)

        found[name] = _alone(apply, (*shape, batch), parameters[name])
    return found


def _alone(
    apply: Callable[..., Any], shape: tuple[int, ...], parameters: Any
) -> Callable[[], Any]:
    """A part of the network with its gradients."""
    x = jax.random.normal(jax.random.key(0), shape)
    gradient = jax.random.normal(
        jax.random.key(1), jax.eval_shape(apply, x, parameters, None)[0].shape
    )

    @jax.jit
    def run(x, parameters, gradient):
        def step(both, _):
            _, backward = jax.vjp(lambda *a: apply(*a, None)[0], *both)
            slopes = backward(gradient)
            return jax.tree.map(lambda a, s: a - RATE * s, both, slopes), None

        return jax.lax.scan(step, (x, parameters), length=STEPS)[0]

    return lambda: run(x, parameters, gradient)
