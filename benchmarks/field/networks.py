"""The models in JAX, as functions of a batch."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.field.models import EPSILON, HEADS, statistics

Weights = dict[str, Any]


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The loss of each example, ``float[n]``."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[:, None], -1)[:, 0]


def _mlp(p: Weights, x: jax.Array) -> jax.Array:
    for i in range(3):
        x = jax.nn.relu(x @ p[f"w{i}"] + p[f"b{i}"])
    return x @ p["w3"] + p["b3"]


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _pool(x: jax.Array) -> jax.Array:
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _images(p: Weights, x: jax.Array, layer: Callable[[int, Any], Any]) -> jax.Array:
    for i in range(3):
        x = jax.nn.relu(layer(i, x))
        x = _pool(x) if i < 2 else x.mean((1, 2))
    return x @ p["w3"] + p["b3"]


def _convnet(p: Weights, x: jax.Array) -> jax.Array:
    return _images(p, x, lambda i, x: _convolve(x, p[f"w{i}"]) + p[f"b{i}"])


def _normalized(p: Weights, x: jax.Array) -> jax.Array:
    """Batch normalization with running statistics."""

    def layer(i, x):
        y = _convolve(x, p[f"w{i}"])
        mean, variance = statistics(y.shape[-1])
        y = (y - mean) / np.sqrt(variance + EPSILON)
        return y * p[f"scale{i}"] + p[f"offset{i}"]

    return _images(p, x, layer)


def _standardize(w: jax.Array) -> jax.Array:
    """Weight standardization (Qiao et al., 2019)."""
    axes, fan = (0, 1, 2), math.prod(w.shape[:-1])
    return (w - w.mean(axes)) / jnp.sqrt(w.var(axes) * fan + 1e-4)


def _standardized(p: Weights, x: jax.Array) -> jax.Array:
    def layer(i, x):
        return _convolve(x, _standardize(p[f"w{i}"])) + p[f"b{i}"]

    return _images(p, x, layer)


def _transformer(p: Weights, x: jax.Array) -> jax.Array:
    x = x @ p["embed"]
    n, length, width = x.shape

    def normal(i, x):
        return jax.nn.standardize(x, -1) * p[f"scale{i}"] + p[f"offset{i}"]

    def heads(name, x):
        y = (x @ p[name]).reshape(n, length, HEADS, width // HEADS)
        return y.swapaxes(1, 2)

    y = normal(0, x)
    scores = heads("query", y) @ heads("key", y).swapaxes(2, 3)
    mixed = jax.nn.softmax(scores / (width // HEADS) ** 0.5) @ heads("value", y)
    x = x + mixed.swapaxes(1, 2).reshape(n, length, width) @ p["mix"]
    x = x + jax.nn.gelu(normal(1, x) @ p["wide"]) @ p["narrow"]
    return x.mean(1) @ p["out"]


def _gru(p: Weights, x: jax.Array) -> jax.Array:
    def step(state, x):
        from_x = jnp.split(x @ p["x"] + p["b"], 3, -1)
        from_state = jnp.split(state @ p["h"], 3, -1)
        update = jax.nn.sigmoid(from_x[0] + from_state[0])
        reset = jax.nn.sigmoid(from_x[1] + from_state[1])
        value = jnp.tanh(from_x[2] + reset * from_state[2])
        return (1 - update) * state + update * value, None

    start = jnp.zeros((len(x), p["h"].shape[0]))
    state, _ = jax.lax.scan(step, start, x.swapaxes(0, 1))
    return state @ p["out"]


LOGITS: dict[str, Callable[[Weights, jax.Array], jax.Array]] = {
    "MLP": _mlp,
    "convnet": _convnet,
    "batch normalization": _normalized,
    "weight standardization": _standardized,
    "transformer block": _transformer,
    "GRU": _gru,
}
