"""Mixtures of recurrent cells, against numpy and against children."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.spaces.highway_mixture import _run, edge
from wpl_jax.spaces.highway_scan import ACTIVATIONS
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import Architecture, gather, is_choice

VOCABULARY, HIDDEN, NODES, BATCH, TIME = 7, 4, 4, 3, 3
SPACE = RecurrentCell(VOCABULARY, HIDDEN, NODES, output="all", init_scale=0.6)
FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "identity": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


def inputs(space=SPACE):
    keys = jax.random.split(jax.random.key(0), 3)
    params = space.init(keys[0])
    params["bias"] = jax.random.normal(keys[2], params["bias"].shape)
    tokens = jax.random.randint(keys[1], (BATCH, TIME), 0, VOCABULARY)
    state = 0.3 * jax.random.normal(keys[2], (BATCH, HIDDEN))
    return params, tokens, state


def random_weights(seed):
    there = is_choice(SPACE.groups)
    weights = np.random.default_rng(seed).uniform(0.1, 1, there.shape) * there
    return np.float32(weights / weights.sum(1, keepdims=True))


def numpy_mixture(space, params, weights, tokens, state):
    """The mixture written out, in float64: outputs and the last state."""
    p = {name: np.asarray(value, np.float64) for name, value in params.items()}
    names = {group.name: row for row, group in enumerate(space.groups)}

    def mixed(parent, pre, row, choices):
        gate = FUNCTIONS["sigmoid"](pre[..., :HIDDEN])
        total = 0
        for weight, name in zip(row, choices, strict=False):
            if name != "none":
                value = FUNCTIONS[name](pre[..., HIDDEN:])
                total = total + weight * (parent + gate * (value - parent))
        return total

    outputs, h = [], np.asarray(state, np.float64)
    for t in range(TIME):
        x = p["embedding"][tokens[:, t]] @ p["input"].T + p["bias"]
        row = weights[names["activation_0"]]
        nodes = [mixed(h, x + h @ p["recurrent"].T, row, ACTIVATIONS)]
        for node in range(1, NODES):
            total = 0
            for parent in range(node):
                kernel = p["edges"][node * (node - 1) // 2 + parent]
                row = weights[names[f"edge_{parent}_{node}"]]
                pre = nodes[parent] @ kernel.T
                total += mixed(nodes[parent], pre, row, ("none", *ACTIVATIONS))
            nodes.append(total)
        outputs.append(np.mean(nodes, 0))
        h = outputs[-1]
        if space.max_norm is not None:
            norm = np.linalg.norm(h, axis=-1, keepdims=True)
            h = h * np.minimum(1, space.max_norm / norm)
    return np.stack(outputs, 1), h


@functools.partial(jax.jit, static_argnums=0)
def run(space, params, architecture, tokens, state):
    """Outputs, the last state, and gradients in parameters and weights."""

    def total(params, weights):
        own = Architecture(architecture.choice, weights)
        child = gather(params, space.rows(own))
        found = space.apply(child, own, tokens, state=state)
        return jnp.sum(jnp.sin(found.raw)) + jnp.sum(jnp.cos(found.state)), found

    gradient = jax.grad(total, (0, 1), has_aux=True)
    slopes, found = gradient(params, architecture.weights)
    return (found.raw, found.state), slopes


@pytest.mark.slow
def test_a_mixture_is_the_sum_in_numpy_and_its_slopes_finite_differences():
    space = RecurrentCell(
        VOCABULARY, HIDDEN, NODES, output="all", init_scale=0.6, max_norm=None
    )
    params, tokens, state = inputs(space)
    weights = random_weights(0)
    mixture = Architecture(np.zeros(7, np.int32), weights)
    (raw, last), (of_params, of_weights) = run(space, params, mixture, tokens, state)
    outputs, expected = numpy_mixture(space, params, weights, tokens, state)
    np.testing.assert_allclose(raw, outputs, atol=1e-5)
    np.testing.assert_allclose(last, expected, atol=1e-5)

    def total(params, weights):
        outputs, last = numpy_mixture(space, params, weights, tokens, state)
        return np.sum(np.sin(outputs)) + np.sum(np.cos(last))

    step = 1e-5
    for row in range(7):
        moved = np.zeros_like(weights, np.float64)
        moved[row, row % 4] = step
        slope = total(params, weights + moved) - total(params, weights - moved)
        np.testing.assert_allclose(
            of_weights[row, row % 4], slope / (2 * step), rtol=1e-3, atol=1e-4
        )
    for name, index in (
        ("edges", (0, 1, 2)),
        ("edges", (4, 6, 0)),
        ("recurrent", (5, 1)),
        ("input", (2, 3)),
        ("bias", (7,)),
    ):
        both = [dict(params), dict(params)]
        for changed, sign in zip(both, (1, -1), strict=True):
            value = np.asarray(params[name], np.float64).copy()
            value[index] += sign * step
            changed[name] = value
        slope = (total(both[0], weights) - total(both[1], weights)) / (2 * step)
        np.testing.assert_allclose(of_params[name][index], slope, rtol=1e-3, atol=1e-4)


def only(choice):
    """The weights of the mixture that is a child."""
    names = {group.name: row for row, group in enumerate(SPACE.groups)}
    table = np.zeros((len(names), 5), np.float32)
    table[0, choice[0]] = 1
    for node in range(1, NODES):
        parent, activation = choice[2 * node - 1 : 2 * node + 1]
        table[names[f"edge_{parent}_{node}"], 1 + activation] = 1
    return table


@pytest.mark.slow
def test_a_mixture_of_one_edge_a_node_is_the_child_with_its_gradients():
    params, tokens, state = inputs()
    for seed in range(3):
        choice = np.asarray(SPACE.sample(jax.random.key(seed)))
        weights = only(choice)
        np.testing.assert_array_equal(SPACE.discretize(weights), choice)
        found = run(SPACE, params, Architecture(choice, weights), tokens, state)
        expected = run(SPACE, params, Architecture(choice), tokens, state)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
        jax.tree.map(close, found[0], expected[0])
        jax.tree.map(close, found[1][0], expected[1][0])
        unused = [
            edge(parent, node)
            for node in range(1, NODES)
            for parent in range(node)
            if parent != choice[2 * node - 1]
        ]
        np.testing.assert_array_equal(found[1][0]["edges"][np.array(unused)], 0)


@pytest.mark.slow
@pytest.mark.parametrize("carry", ["output", "last"])
def test_the_backward_pass_is_autodiffs(carry):
    space = RecurrentCell(VOCABULARY, HIDDEN, NODES, output="all", carry=carry)
    params, tokens, state = inputs(space)
    weights = jnp.asarray(random_weights(1))
    architecture = Architecture(np.zeros(7, np.int32), weights)
    _, (of_params, of_weights) = run(space, params, architecture, tokens, state)

    def plain(params, weights):
        x = params["embedding"][tokens.T] @ params["input"].T + params["bias"]
        (outputs, last), _ = _run(
            *(x, state, params["recurrent"], params["edges"], weights[0, :4]),
            *(weights[1:, 1:], None, carry, 25.0),
        )
        return jnp.sum(jnp.sin(outputs)) + jnp.sum(jnp.cos(last))

    expected = jax.jit(jax.grad(plain, (0, 1)))(params, weights)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, (of_params, of_weights), expected)


def test_the_strongest_edge_of_a_node_is_kept_with_any_activation_but_none():
    weights = random_weights(2)
    weights[1:, 0] = 2  # none
    weights[1 + edge(1, 3), 2] = 1.5
    choice = SPACE.discretize(weights)
    assert choice.shape == (7,)
    assert (int(choice[5]), int(choice[6])) == (1, 1)  # parent 1, relu
    assert int(choice[0]) == np.argmax(weights[0, :4])


def test_cells_that_output_their_leaves_have_no_mixtures():
    assert not RecurrentCell(VOCABULARY, HIDDEN, NODES).mixes
    assert SPACE.mixes
    assert not SPACE.draws
