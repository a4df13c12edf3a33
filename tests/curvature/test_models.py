"""Models whose weights are changed, used again or used in loops before the squares."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax import explain_per_example
from wpl_jax.curvature import each_example
from wpl_jax.curvature.squared_gradients import sum_squared_gradients

N = 6  # examples


def normal(*shape):
    rng = np.random.default_rng([len(shape), *shape])
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def whole(*shape, below):
    return jnp.asarray(np.random.default_rng(0).integers(below, size=shape))


def standardized(w):
    return (w - w.mean(0)) / jnp.sqrt(w.var(0) * len(w) + 1e-4)


def dense(change):
    """One layer with a changed weight between two that are not."""
    params = {"a": normal(5, 4), "w": normal(4, 7), "g": normal(7), "s": normal()}

    def loss(p, x):
        return jnp.sum(jnp.sin(jnp.tanh(x @ p["a"]) @ change(p)))

    return loss, params, normal(N, 5)


def used(times):
    params = {"w": normal(4, 4), "b": normal(4)}

    def loss(p, x):
        for _ in range(times):
            x = jnp.tanh(x @ p["w"] + p["b"])
        return jnp.sum(x**2)

    return loss, params, normal(N, 4)


def normalization():
    params = {"scale": normal(4), "offset": normal(4), "w": normal(4, 4)}
    mean, variance = normal(4), jnp.abs(normal(4)) + 1

    def loss(p, x):
        y = x @ p["w"]
        y = (y - mean) * (jax.lax.rsqrt(variance) * p["scale"]) + p["offset"]
        return jnp.sum(jnp.tanh(y))

    return loss, params, normal(N, 3, 4)


def recurrence():
    params = {"x": normal(3, 8), "h": normal(4, 8), "b": normal(8), "start": normal(4)}

    def loss(p, x):
        def step(state, x):
            gate, value = jnp.split(x @ p["x"] + state @ (p["h"] / 2) + p["b"], 2)
            gate = jax.nn.sigmoid(gate)
            return state * gate + jnp.tanh(value) * (1 - gate), jnp.sum(state)

        state, sums = jax.lax.scan(step, p["start"], x, reverse=True)
        return jnp.sum(state) + jnp.sum(jnp.sin(sums))

    return loss, params, normal(N, 5, 3)


def stacked_layers():
    params = {"w": normal(3, 4, 4), "b": normal(3, 4)}

    def loss(p, x):
        x, _ = jax.lax.scan(
            lambda x, layer: (x + jnp.tanh(x @ layer["w"] + layer["b"]), None), x, p
        )
        return jnp.sum(x**2)

    return loss, params, normal(N, 2, 4)


def indexed_layers():
    params = {"w": normal(3, 4, 4), "b": normal(3, 4)}

    def loss(p, x):
        def step(i, x):
            return jnp.tanh(x @ (p["w"][i] / 2) + p["b"][i])

        return jnp.sum(jax.lax.fori_loop(0, 3, step, x))

    return loss, params, normal(N, 4)


def nested_loops():
    params = {"w": normal(2, 3, 3), "u": normal(3, 3), "k": normal()}

    def loss(p, x):
        def outer(state, x):
            def inner(carry, w):
                state, factor = carry
                state = jnp.tanh(state @ w + x @ p["u"] * factor)
                return (state, factor * p["k"]), factor

            (state, _), factors = jax.lax.scan(inner, (state, 1.0), p["w"])
            return state, factors

        state, factors = jax.lax.scan(outer, jnp.zeros(3), x)
        return jnp.sum(state) + jnp.sum(factors) * jnp.sum(x)

    return loss, params, normal(N, 4, 3)


def attention():
    params = {
        "table": normal(9, 4),
        "heads": normal(2, 4, 3),
        "out": normal(2, 3, 4),
        "position": normal(5, 4),
    }

    def loss(p, words):
        x = p["table"][words] + p["position"]
        keys = jnp.einsum("td,hdk->htk", x, p["heads"])
        mixed = jax.nn.softmax(keys @ keys.swapaxes(1, 2)) @ keys
        x = x + jnp.einsum("htk,hkd->td", mixed, p["out"])
        return jnp.sum(jax.nn.log_softmax(x @ p["table"].T)[:, 0])

    return loss, params, whole(N, 5, below=9)


def lookup(mode=None):
    def loss(p, words):
        rows = jnp.take(p["table"] * 2, words, axis=0, mode=mode)
        return jnp.sum(jnp.tanh(rows * jnp.arange(1, 7)[:, None]))

    # Some are read twice in an example, some are out of the table.
    return loss, {"table": normal(7, 3)}, whole(N, 6, below=9) - 1


def one_lookup():
    def loss(p, word):
        return jnp.sum(jnp.tanh(p["table"][word]) ** 2)

    return loss, {"table": normal(7, 3)}, whole(N, below=7)


def low_rank():
    params, base = {"a": normal(4, 2), "b": normal(2, 5)}, normal(4, 5)

    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ (base + p["a"] @ p["b"])) ** 2)

    return loss, params, normal(N, 4)


def branches():
    params = {"w": normal(4, 4), "u": normal(4, 4), "s": normal()}

    def loss(p, x):
        x = jax.lax.switch(
            jnp.int32(1), [lambda x: x @ p["w"], lambda x: x @ p["u"] * p["s"]], x
        )
        x = jax.lax.cond(x[0] > 0, lambda x: x @ p["w"], lambda x: 2 * x, x)
        return jnp.sum(jax.checkpoint(lambda x: jnp.tanh(x @ p["u"]))(x))

    return loss, params, normal(N, 4)


@jax.custom_vjp
def reversed_layer(w, x):
    return jnp.tanh(x @ w)


# Not the derivative, which must be taken as it is all the same.
reversed_layer.defvjp(
    lambda w, x: (reversed_layer(w, x), (w, x)),
    lambda saved, g: (-2 * jnp.outer(saved[1], g), g @ saved[0].T),
)


def custom_rule():
    params = {"v": normal(4, 4), "w": normal(4, 4)}

    def loss(p, x):
        x = jnp.tanh(reversed_layer(p["v"], x) @ p["w"])
        x, _ = jax.lax.scan(
            lambda x, _: (reversed_layer(p["w"], x), None), x, None, length=3
        )
        return jnp.sum(x)

    return loss, params, normal(N, 4)


def regularized():
    def loss(p, x):
        return jnp.sum(x @ p["w"]) + jnp.sum(p["w"] ** 2) + p["unused"][0] * 0

    return loss, {"w": normal(4, 4), "unused": normal(2)}, normal(N, 4)


def without_examples():
    return lambda p, x: jnp.sum(p**3), normal(4), normal(N, 2)


def convolved():
    params = {"w": normal(3, 3, 2, 4), "grouped": normal(3, 3, 1, 4)}

    def loss(p, x):
        w = p["w"] - p["w"].mean((0, 1, 2))
        for kernel, groups in ((w, 1), (p["grouped"], 4)):
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        return jnp.sum(jnp.tanh(x))

    return loss, params, normal(N, 1, 4, 4, 2)


MODELS = {
    "scaled": lambda: dense(lambda p: p["w"] / jnp.sqrt(4.0)),
    "squared entries": lambda: dense(lambda p: p["w"] ** 2 * jnp.sin(p["w"])),
    "transposed twice": lambda: dense(lambda p: p["w"].T.T * 3),
    "symmetric": lambda: dense(lambda p: p["w"][:, :4] + p["w"][:, :4].T),
    "times a scalar": lambda: dense(lambda p: p["w"] * p["s"]),
    "standardized": lambda: dense(lambda p: standardized(p["w"])),
    "centered": lambda: dense(lambda p: p["w"] - jnp.mean(p["w"])),
    "normed": lambda: dense(lambda p: p["w"] / jnp.linalg.norm(p["w"])),
    "weight norm": lambda: dense(
        lambda p: p["g"] * p["w"] / jnp.linalg.norm(p["w"], axis=0)
    ),
    "row norm": lambda: dense(
        lambda p: p["w"] / jnp.linalg.norm(p["w"], axis=1, keepdims=True)
    ),
    "standardized as a whole": lambda: dense(
        lambda p: (p["w"] - p["w"].mean()) / jnp.sqrt(p["w"].var() + 0.1)
    ),
    "linear in entries and sums": lambda: dense(
        lambda p: jnp.sin(p["w"].sum(0)) + p["w"] * jnp.cos((p["w"] ** 2).sum(0))
    ),
    "cubic in entries": lambda: dense(
        lambda p: p["w"] * p["w"].sum(0) + (p["w"] ** 3).sum(0)
    ),
    "softmax of a weight": lambda: dense(lambda p: jax.nn.softmax(p["w"], 0)),
    "used twice": lambda: used(2),
    "used six times": lambda: used(6),
    "normalization": normalization,
    "recurrence": recurrence,
    "stacked layers": stacked_layers,
    "indexed layers": indexed_layers,
    "nested loops": nested_loops,
    "attention, tied": attention,
    "lookup": lookup,
    "lookup, clipped": lambda: lookup("clip"),
    "lookup, filled": lambda: lookup("fill"),
    "one lookup": one_lookup,
    "low rank": low_rank,
    "branches": branches,
    "custom rule": custom_rule,
    "regularized": regularized,
    "without examples": without_examples,
    "convolved": convolved,
}


def assert_squares(loss, params, examples):
    @jax.jit
    def run(params, examples):
        each = jax.vmap(jax.grad(loss), (None, 0))(params, examples)
        return sum_squared_gradients(loss, params, examples), each

    got, each = run(params, examples)
    assert jax.tree.structure(got) == jax.tree.structure(each)
    for have, gradients in zip(
        jax.tree.leaves(got), jax.tree.leaves(each), strict=True
    ):
        want = np.sum(np.square(np.asarray(gradients, np.float64)), 0)
        atol = 3e-6 * np.max(want, initial=0)
        np.testing.assert_allclose(have, want, rtol=3e-5, atol=atol)


@pytest.mark.parametrize("name", MODELS)
def test_equals_the_squares_of_gradients_written_out(name):
    assert_squares(*MODELS[name]())


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["recurrence", "stacked layers", "nested loops", "attention, tied", "convolved"],
)
def test_large_gradients_one_example_after_the_other(name, monkeypatch):
    monkeypatch.setattr(each_example, "LARGE", 1)
    assert_squares(*MODELS[name]())


WAYS = {
    "scaled": {"a": "squares", "w": "squares", "g": "unused", "s": "unused"},
    "symmetric": {"w": "each"},
    "standardized": {"w": "squares"},
    "standardized as a whole": {"w": "squares"},
    "linear in entries and sums": {"w": "squares"},
    "cubic in entries": {"w": "squares"},
    "centered": {"w": "squares"},
    "normed": {"w": "squares"},
    "weight norm": {"w": "squares", "g": "each"},
    "row norm": {"w": "each"},
    "used twice": {"w": "squares", "b": "each"},
    "used six times": {"w": "each"},
    "stacked layers": {"w": "squares"},
    "lookup": {"table": "squares"},
    "one lookup": {"table": "squares"},
    "custom rule": {"v": "each", "w": "each"},
    "normalization": {"scale": "each", "w": "squares"},
}


@pytest.mark.parametrize("name", WAYS)
def test_explanations(name):
    found = explain_per_example(*MODELS[name]())
    assert {k: found[k].name for k in WAYS[name]} == WAYS[name]
    assert all(way.why for way in found.values())


def test_an_explanation_says_how_many_rows_meet_a_weight():
    found = explain_per_example(*recurrence())
    assert found["x"] == ("each", "meets 5 rows of each example")
