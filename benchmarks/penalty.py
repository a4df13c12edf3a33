"""What the penalty adds to a training step.

Expected before measuring: the penalty reads parameters, anchor, Fisher and mask
and touches each entry a few times, an SGD step's own traffic about three times
over; beside the products of a batch of 32 that is some per cent.
"""

import statistics

import jax
import jax.numpy as jnp
import optax

import wpl_jax
from benchmarks import measure, models

RATE, ALPHA, STEPS = 0.1, 10.0, 100


def rows() -> list[dict]:
    """The benchmark's figures."""
    params, loss = models.mlp(jax.random.key(0))
    data = models.examples(jax.random.key(1), 32)
    transforms = {
        "no penalty": optax.sgd(RATE),
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
    unit = seconds.pop("no penalty")
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
