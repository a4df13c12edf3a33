"""Ways to run the one of five operations that a number on the device says.

Each with its gradients, on what a branch of the micro cell sees: 32 images of 32x32
with 20 filters. The unit is the operation itself without any choice; all figures are of
the five operations one after the other.

- ``switch``: a conditional, as the space has it.
- ``masked sum``: all five, of which four are multiplied by zero.
- ``merged kernel``: one 5x5 depthwise kernel, in which a 3x3 kernel lies, the mean of
  3x3 pixels (beyond the border zeros count here), or a one in the middle; the pointwise
  product is with the identity where there is none. Maxima are taken beside it.

Expected before measuring, in products of a pixel: the operations have 2 * 29 and 2 * 45
for the convolutions and 9, 9 and 0; their sum, 166, is what the masked sum does five
times, so a ratio near 5 (less where operations are bound by memory). The merged kernel
does 2 * 45 and maxima, 99, five times: 3. The switch copies.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from benchmarks import measure
from wpl_jax.spaces.batch_normalization import normalize
from wpl_jax.spaces.cell_graph import OPERATIONS
from wpl_jax.spaces.depthwise import average_pool, depthwise, max_pool

BATCH, SIZE, FILTERS = 32, 32, 20

Weights = dict[str, jax.Array]


def rows() -> list[dict]:
    """The benchmark's figures."""
    keys = jax.random.split(jax.random.key(0), 5)
    x, gradient = jax.random.normal(keys[0], (2, BATCH, SIZE, SIZE, FILTERS))
    weights = {
        "3": jax.random.normal(keys[1], (2, 3, 3, FILTERS)),
        "5": jax.random.normal(keys[2], (2, 5, 5, FILTERS)),
        "pointwise": jax.random.normal(keys[3], (2, FILTERS, FILTERS)),
    }

    def with_gradients(run: Callable) -> Callable:
        def both(x, weights, chosen):
            y, backward = jax.vjp(lambda *a: run(*a, chosen), x, weights)
            return y, backward(gradient)

        return jax.jit(both)

    def all_of(run: Callable) -> Callable:
        return lambda: [run(x, weights, jnp.int32(i)) for i in range(len(OPERATIONS))]

    ways = {"switch": _switch, "masked sum": _masked_sum, "merged kernel": _merged}
    calls = {name: all_of(with_gradients(run)) for name, run in ways.items()}
    static = [
        with_gradients(lambda x, weights, chosen, run=run: run(x, weights))
        for run in _OPERATIONS
    ]
    calls["static"] = lambda: [run(x, weights, 0) for run in static]
    seconds = measure.interleaved_seconds(calls, rounds=5)
    return [
        {
            "benchmark": f"choice of 5, {BATCH}x{SIZE}x{SIZE}x{FILTERS}",
            "figure": f"{name} / the operations themselves",
            **measure.ratio(seconds[name], seconds["static"]),
        }
        for name in ways
    ]


def _separable(size: str, x: jax.Array, weights: Weights) -> jax.Array:
    for kernel, pointwise in zip(weights[size], weights["pointwise"], strict=True):
        x = normalize(depthwise(jax.nn.relu(x), kernel) @ pointwise, None)[0]
    return x


_OPERATIONS: tuple[Callable[[jax.Array, Weights], jax.Array], ...] = (
    functools.partial(_separable, "3"),
    functools.partial(_separable, "5"),
    lambda x, weights: average_pool(x),
    lambda x, weights: max_pool(x),
    lambda x, weights: x,
)


def _switch(x: jax.Array, weights: Weights, chosen: jax.Array) -> jax.Array:
    return jax.lax.switch(chosen, _OPERATIONS, x, weights)


def _masked_sum(x: jax.Array, weights: Weights, chosen: jax.Array) -> jax.Array:
    return sum((chosen == i) * run(x, weights) for i, run in enumerate(_OPERATIONS))  # type: ignore[return-value]


def _merged(x: jax.Array, weights: Weights, chosen: jax.Array) -> jax.Array:
    convolves, identity = chosen < 2, jnp.eye(FILTERS)
    mean = jnp.pad(jnp.full((3, 3, 1), 1 / 9), ((1, 1), (1, 1), (0, 0)))
    delta = jnp.zeros((5, 5, 1)).at[2, 2].set(1)
    y = x
    for half in range(2):
        small = jnp.pad(weights["3"][half], ((1, 1), (1, 1), (0, 0)))
        # Pooling in the first half, and nothing in the second.
        kernels = [
            small,
            weights["5"][half],
            mean if half == 0 else delta,
            delta,
            delta,
        ]
        kernel = sum((chosen == i) * k for i, k in enumerate(kernels))
        pointwise = jnp.where(convolves, weights["pointwise"][half], identity)
        z = depthwise(jnp.where(convolves, jax.nn.relu(y), y), kernel) @ pointwise
        y = jnp.where(convolves, normalize(z, None)[0], z)
    return jnp.where(chosen == 3, max_pool(x), y)
