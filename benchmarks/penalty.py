"""What the penalty adds to a training step.

Expected before measuring: the penalty reads parameters, anchor, Fisher and mask
and touches each entry a few times, an SGD step's own traffic about three times
over; beside the products of a batch of 32 that is some per cent.

The worst case is a step without a model: Adam on a tree of gradients that are there.
Adam reads gradient, parameter and both moments, and writes parameter and moments: 7
arrays of the size of the parameters. The penalty reads anchor and Fisher, 2 more: 9 / 7
= 1.29 if XLA fuses all into one loop over each array, and (9 + 3) / 7 = 1.7 if the
update is written and read again. With the anchor in bfloat16 and the Fisher in 8 bits
less is read and more computed. CPU time of all threads is measured here. A size that
the free memory is too small for is left out.
"""

import functools
import statistics
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import optax

import wpl_jax
from benchmarks import measure, models
from wpl_jax.common.host_memory import free_memory

RATE, ALPHA, STEPS = 0.1, 10.0, 100
SIZES = (10**6, 10**7, 10**8)  # parameters of the trees that Adam updates
ARRAYS = 10  # in a tree
MEMORY = 100  # bytes that all transforms together need for a parameter
NONE = "no penalty"


def rows() -> Iterator[dict]:
    """The benchmark's figures."""
    yield from _steps_of_sgd()
    free = free_memory()
    for size in SIZES:
        if free is None or MEMORY * size <= free:
            yield from _steps_of_adam(size)


def _steps_of_sgd() -> list[dict]:
    params, loss = models.mlp(jax.random.key(0))
    data = models.examples(jax.random.key(1), 32)
    transforms = {
        NONE: optax.sgd(RATE),
        "weight_plasticity": optax.chain(
            wpl_jax.weight_plasticity(ALPHA), optax.sgd(RATE)
        ),
        "proximal_weight_plasticity": optax.chain(
            optax.sgd(RATE), wpl_jax.proximal_weight_plasticity(ALPHA, RATE)
        ),
    }
    seconds = measure.interleaved_seconds(
        {name: _steps(tx, loss, params, data) for name, tx in transforms.items()}
    )
    unit = seconds.pop(NONE)
    return [
        {
            "benchmark": "SGD step on a batch of 32, MLP",
            "figure": f"{name} / no penalty",
            **measure.ratio(value, unit),
            "seconds": statistics.median(value) / STEPS,
        }
        for name, value in seconds.items()
    ]


def _steps(tx, loss, params, data):
    def mean_loss(params):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, data))

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(mean_loss)(params)
        updates, state = tx.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def steps(params, state):
        return jax.lax.scan(step, (params, state), length=STEPS)[0]

    state = tx.init(params)
    return lambda: steps(params, state)


def _steps_of_adam(size: int) -> list[dict]:
    proximal = wpl_jax.proximal_weight_plasticity
    transforms = {
        NONE: optax.adam(RATE),
        "weight_plasticity": optax.chain(
            wpl_jax.weight_plasticity(ALPHA), optax.adam(RATE)
        ),
        "proximal_weight_plasticity": optax.chain(
            optax.adam(RATE), proximal(ALPHA, RATE)
        ),
        "the same, bfloat16 and uint8": optax.chain(
            optax.adam(RATE),
            proximal(ALPHA, RATE, anchor_dtype="bfloat16", fisher_dtype="uint8"),
        ),
    }
    gradient = _tree(size, 0.1)
    seconds = measure.interleaved_seconds(
        {name: _adam(tx, gradient, name) for name, tx in transforms.items()},
        clock=time.process_time,
    )
    unit = seconds.pop(NONE)
    return [
        {
            "benchmark": f"step of Adam, {size:.0e} parameters".replace("+0", ""),
            "figure": f"{name} / no penalty",
            **measure.ratio(value, unit),
            "least": min(value) / min(unit),
            "seconds": statistics.median(value),
        }
        for name, value in seconds.items()
    ]


def _tree(size: int, value: float) -> list[jax.Array]:
    return [jnp.full(size // ARRAYS, value) for _ in range(ARRAYS)]


def _adam(tx, gradient, name: str):
    """A step on given gradients; parameters and state are donated, as in training."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, gradient):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    make = functools.partial(_tree, sum(x.size for x in gradient))
    params = make(1.0)
    state = tx.init(params)
    if name != NONE:
        state = wpl_jax.consolidate(state, make(0.5), make(2.0))
    held = [(params, state)]
    del params, state  # They would stay in memory beside those of later steps.

    def call():
        held[0] = step(*held[0], gradient)
        return held[0]

    return call
