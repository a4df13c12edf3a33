"""Where choices may be: shared, in branches, in loops and in other transformations."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wpl_jax
from wpl_jax.spaces.architecture_json import names_of_choices
from wpl_jax.spaces.choices.choice import choice, choice_of_inputs
from wpl_jax.supernet import Architecture, gather, norms_of_choices

WAVES = {"sin": jnp.sin, "cos": jnp.cos}


def space_of(network, params=None):
    params = {"w": jnp.ones(3)} if params is None else params
    return wpl_jax.space_of(network, jnp.ones(3), init=lambda key: params)


def applied(space, choice, *inputs):
    architecture = Architecture(choice)
    child = gather(space.init(jax.random.key(0)), space.rows(architecture))
    return space.apply(child, architecture, *inputs)


def run(space, choice, *inputs):
    return np.asarray(applied(space, jnp.int32(choice), *inputs))


compiled = jax.jit(applied, static_argnums=0)


def compile_and_run(space, choice, *inputs):
    """One program for all choices takes less time than each operation by itself."""
    return np.asarray(compiled(space, jnp.int32(choice), *inputs))


def count_of_each(space, choices):
    """How many parameters children have."""

    @jax.jit
    @jax.vmap
    def count(choice):
        return space.costs(Architecture(choice))["parameters"]

    return count(jnp.int32(choices)).tolist()


X = np.linspace(0, 1, 3, dtype=np.float32)


def test_shared_choices_are_one_decision_with_parameters_of_each_call():
    def cells(params, x):
        for w in params["cells"]:
            branches = {"scale": lambda x, w=w: x * w, "skip": lambda x: x}
            x = choice("operation", branches, x, shared=True)
        return x

    space = space_of(cells, {"cells": [jnp.full(3, 2.0), jnp.full(3, 5.0)]})
    assert [d.name for d in space.decisions] == ["operation"]
    np.testing.assert_allclose(run(space, [0], X), 10 * X)
    np.testing.assert_allclose(run(space, [1], X), X)
    shapes = jax.tree.map(jnp.shape, space.init(jax.random.key(0))["choices"])
    assert shapes == {"operation": {"0": (1, 3), "1": (1, 3)}}


def test_parameters_of_different_branches_are_rows_of_one_stack():
    def network(params, x):
        branches = {
            "a": lambda x: x * params["a"]["w"],
            "b": lambda x: x * params["b"]["w"] + params["b"]["v"],
            "c": lambda x: x @ params["c"]["w"],
            "d": lambda x: x,
        }
        return choice("layer", branches, x) * params["after"]

    params = {
        "a": {"w": jnp.full(3, 2.0)},
        "b": {"w": jnp.full(3, 3.0), "v": jnp.full(3, 4.0)},
        "c": {"w": jnp.eye(3) * 5.0},
        "after": jnp.ones(3),
    }
    space = space_of(network, params)
    shapes = jax.tree.map(jnp.shape, space.init(jax.random.key(0)))
    # As many places as the branch with the most arrays of a shape needs.
    assert shapes["shared"] == {"after": (3,)}
    assert sorted(shapes["choices"]["layer"].values()) == [(1, 3), (1, 3, 3), (2, 3)]
    expected = [2 * X, 3 * X + 4, 5 * X, X]
    for number, y in enumerate(expected):
        found = compile_and_run(space, [number], X)
        np.testing.assert_allclose(found, y, rtol=1e-6)
    counts = count_of_each(space, [[i] for i in range(4)])
    assert counts == [3 + 3, 3 + 6, 3 + 9, 3]


def test_a_parameter_of_two_choices_is_used_if_one_of_them_uses_it():
    def network(params, x):
        for i in range(2):
            branches = {"scale": lambda x: x * params["w"], "skip": lambda x: x}
            x = choice(f"layer_{i}", branches, x)
        return x

    space = space_of(network, {"w": jnp.full(3, 2.0)})
    every = [[first, second] for first in range(2) for second in range(2)]
    for own, count in zip(every, count_of_each(space, every), strict=True):
        uses = 2 - sum(own)
        np.testing.assert_allclose(compile_and_run(space, own, X), 2.0**uses * X)
        assert count == (3 if uses else 0)


def test_a_parameter_may_be_an_operand():
    def network(params, x):
        branches = {"add": jnp.add, "first": lambda x, w: x}
        return choice("layer", branches, x, params["w"])

    space = space_of(network)
    assert count_of_each(space, [[0], [1]]) == [3, 0]


def nested(params, x):
    def inner(x):
        return choice("inner", {"w": lambda x: x * params["w"], "v": jnp.cos}, x)

    return choice("outer", {"inner": inner, "sin": jnp.sin}, x) + params["b"]


def test_choices_in_branches_that_do_not_run_do_not_count():
    space = space_of(nested, {"w": jnp.full(3, 2.0), "b": jnp.zeros(3)})
    assert [d.name for d in space.decisions] == ["outer", "inner"]
    np.testing.assert_allclose(compile_and_run(space, [0, 0], X), 2 * X)
    for own, wave in (([0, 1], np.cos), ([1, 0], np.sin)):
        found = compile_and_run(space, own, X)
        np.testing.assert_allclose(found, wave(X), rtol=1e-6)
    forms = [space.canonical_form([i, j]) for i in range(2) for j in range(2)]
    assert len(set(forms)) == 3
    assert forms[2] == forms[3]
    counts = count_of_each(space, [[i, j] for i in range(2) for j in range(2)])
    assert counts == [6, 3, 3, 3]
    nodes = space.graphs([0, 1])["network"].nodes
    assert nodes == {"in": "in", "outer": "outer: inner\ninner: v", "out": "out"}
    assert space.graphs([1, 1])["network"].nodes["outer"] == "outer: sin"


def in_scan(params, x):
    def step(x, w):
        y = choice("wave", {"w": lambda x: x * params["w"], **WAVES}, x)
        return y + w, None

    return jax.lax.scan(step, x, params["steps"])[0]


def in_jit(params, x):
    @jax.jit
    def step(x):
        return choice("wave", {"w": lambda x: x * params["w"], **WAVES}, x)

    x = step(x) + params["steps"][0]
    return step(x) + params["steps"][1]


def in_checkpoint(params, x):
    @jax.checkpoint
    def step(x, w):
        return w + choice(
            "wave", {"w": lambda x: x * params["w"], **WAVES}, x, shared=True
        )

    return step(step(x, params["steps"][0]), params["steps"][1])


@pytest.mark.parametrize("network", [in_scan, in_jit, in_checkpoint])
def test_a_choice_in_a_transformed_body_is_one_decision(network):
    params = {"w": jnp.full(3, 2.0), "steps": jnp.arange(6.0).reshape(2, 3)}
    space = space_of(network, params)
    (decision,) = space.decisions
    assert decision.choices == ("w", "sin", "cos")
    for number, wave in enumerate((lambda x: 2 * x, np.sin, np.cos)):
        expected = wave(wave(X) + np.arange(3)) + np.arange(3, 6)
        for _ in range(2):  # Traced functions are not mistaken for those before.
            np.testing.assert_allclose(run(space, [number], X), expected, rtol=1e-6)
    assert list(space.init(jax.random.key(0))["choices"]["wave"]) == ["w"]


class Passing(nnx.Module):
    """Its parameters are arguments of transformed functions."""

    def __init__(self, rngs):
        self.a, self.b, self.c = (nnx.Linear(3, 3, rngs=rngs) for _ in range(3))

    @nnx.remat
    def block(self, x):
        return self.c(choice("layer", {"a": self.a, "b": self.b}, x))

    def __call__(self, x):
        return nnx.jit(lambda module, x: module.block(x))(self, x)


def test_parameters_that_calls_are_given_belong_to_their_branches():
    space = wpl_jax.space_of(Passing, jnp.ones((1, 3)))
    shapes = jax.tree.map(jnp.shape, space.init(jax.random.key(0)))
    assert shapes == {
        "shared": {"c/bias": (3,), "c/kernel": (3, 3)},
        "choices": {"layer": {"bias": (2, 3), "kernel": (2, 3, 3)}},
    }
    own = space.params_of(space.init(jax.random.key(0)), whole=True)
    for number, name in enumerate("ab"):
        x = X[None]
        for layer in (name, "c"):
            x = x @ own[layer]["kernel"] + own[layer]["bias"]
        np.testing.assert_allclose(run(space, [number], X[None]), x, rtol=1e-5)


def test_inputs_are_chosen_with_their_gradients():
    def network(params, x):
        trees = {name: {"y": f(x), "x": x} for name, f in WAVES.items()}
        one = choice_of_inputs("one", trees)["y"]
        two = choice_of_inputs("two", [x, one, 2 * x, 3 * x], count=3)
        return jnp.stack([one, *two])

    space = space_of(network)
    assert space.decisions[1].choices == ("0+1+2", "0+1+3", "0+2+3", "1+2+3")

    def logits(x, choice):
        return space.apply(space.init(jax.random.key(0)), Architecture(choice), x)

    jacobian = jax.jit(jax.jacobian(logits))
    functions = ((np.sin, np.cos), (np.cos, lambda x: -np.sin(x)))
    for i, j in ((0, 1), (1, 3)):
        wave, slope = functions[i]
        names = space.decisions[1].choices[j].split("+")
        values = [X, wave(X), 2 * X, 3 * X]
        expected = np.stack([wave(X), *(values[int(n)] for n in names)])
        own = jnp.int32([i, j])
        np.testing.assert_allclose(logits(X, own), expected, rtol=1e-5)
        slopes = [np.ones(3), slope(X), np.full(3, 2), np.full(3, 3)]
        expected = np.stack([slope(X), *(slopes[int(n)] for n in names)])
        found = np.einsum("abb->ab", jacobian(X, own))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_choice_touches_the_rows_of_its_branch():
    """PA&DA learns from the norms of their gradients."""

    def network(params, x):
        branches = {"w": lambda x: x * params["w"], "v": lambda x: x * params["v"]}
        return choice("layer", {**branches, "skip": lambda x: x}, x)

    space = space_of(network, {"w": jnp.ones(3), "v": jnp.ones(3)})

    @jax.jit
    def norms(own):
        child = gather(space.init(jax.random.key(0)), space.rows(Architecture(own)))
        gradient = jax.tree.map(lambda c: c * jnp.float32([3, 4, 0]), child)
        return norms_of_choices(space, own, gradient)

    for number, expected in enumerate((5.0, 5.0, 0.0)):
        (found,) = norms(jnp.int32([number]))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_pictures_follow_the_arrays():
    def network(params, x):
        a = choice("a", WAVES, x)
        b = choice("b", WAVES, x)
        c = choice_of_inputs("c", {"a": a, "b": b})
        return c * params["w"]

    found = space_of(network).graphs([0, 1, 1])["network"]
    assert found.nodes == {
        **{"in": "in", "a": "a: sin", "b": "b: cos", "c": "c: b", "out": "out"}
    }
    edges = {edge[:2] for edge in found.edges}
    assert edges == {("in", "a"), ("in", "b"), ("a", "c"), ("b", "c"), ("c", "out")}


def test_spaces_of_the_same_settings_are_equal():
    @wpl_jax.space(init=lambda key, image_shape, num_classes, layers: {})
    def network(params, images, layers):
        x = images.mean((1, 2))
        for i in range(layers):
            x = choice(f"layer_{i}", WAVES, x)
        return x

    one, other = network((4, 4, 3), 3, 2), network((4, 4, 3), 3, layers=2)
    assert one == other
    assert hash(one) == hash(other)
    assert one != network((4, 4, 3), 3, 1)
    assert names_of_choices(one, [0, 1]) == {"layer_0": "sin", "layer_1": "cos"}
    plain = space_of(nested, {"w": jnp.ones(3), "b": jnp.ones(3)})
    assert repr(plain).startswith("space_of(test_structure.nested, test_structure.")
    # Measured latencies are kept by it, and depend on the size of the inputs.
    assert re.search(r", float32\[[\d, ]*\]\)$", repr(plain))
    assert hash(plain)


def test_settings_that_are_functions_have_their_names():
    """So that a folder knows its search again in another process."""

    def draw(key, input_shape, activation=jax.nn.relu, width=2):
        return {"w": jax.random.normal(key, (*input_shape, width))}

    @wpl_jax.space(init=draw)
    def network(params, x, activation):
        branches = {"some": activation, "none": lambda x: x}
        return wpl_jax.choice("layer", branches, x @ params["w"])

    found = repr(network((3,)))
    assert re.fullmatch(
        r"\S*network\(input_shape=\(3,\), activation=jax\.\S*relu, width=2\)", found
    )
    assert found != repr(network((3,), activation=jax.nn.gelu))
    assert network((3,)) == network((3,))
