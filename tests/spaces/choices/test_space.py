"""Children of networks with choices, against the same networks written by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.choosing import (
    CLASSES,
    SHAPE,
    Modular,
    modular_by_hand,
    plain,
    plain_by_hand,
)

from wpl_jax.spaces.architecture_json import names_of_choices
from wpl_jax.supernet import Architecture, gather, mask, num_choices

PLAIN, MODULAR = plain(SHAPE, CLASSES), Modular(SHAPE, CLASSES)
BOTH = pytest.mark.parametrize(
    ("space", "by_hand"),
    [(PLAIN, plain_by_hand), (MODULAR, modular_by_hand)],
    ids=["function", "module"],
)
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


@functools.cache
def params_of(space):
    return jax.jit(space.init)(jax.random.key(0))


def images():
    return jax.random.normal(jax.random.key(1), (5, *SHAPE))


def some(space):
    """Architectures, among them each branch of each choice, as rows."""
    sizes = num_choices(space.decisions)
    rows = [[(i + 2 * j) % size for j, size in enumerate(sizes)] for i in range(4)]
    return np.array(rows, np.int32)


def weighted(logits):
    """A loss whose gradient differs in all logits."""
    return jnp.sum(logits * jnp.sin(jnp.arange(logits.size).reshape(logits.shape)))


def runner(space, traces=None):
    """Logits, and gradients in the shared parameters, weights and gates."""

    @jax.jit
    def run(params, architecture):
        if traces is not None:
            traces.append(1)

        def loss(params, weights, gates):
            own = Architecture(architecture.choice, weights, gates)
            child = gather(params, space.rows(own))
            logits = space.apply(child, own, images()).logits
            return weighted(logits), logits

        found = jax.grad(loss, (0, 1, 2), has_aux=True)
        return found(params, architecture.weights, architecture.gates)

    return run


run_plain, run_modular = runner(PLAIN), runner(MODULAR)


def run_on(space, architecture):
    return (run_plain if space is PLAIN else run_modular)(
        params_of(space), architecture
    )


@pytest.mark.slow_except("module")
@BOTH
def test_children_have_outputs_and_gradients_of_the_network_by_hand(space, by_hand):
    params, traces = params_of(space), []
    run = runner(space, traces)
    own = space.params_of(params, whole=True)
    for choice in some(space):
        (gradient, _, _), logits = run(params, Architecture(jnp.asarray(choice)))
        chosen = names_of_choices(space, choice)

        def loss(own, chosen=chosen):
            logits = by_hand(own, images(), chosen)
            return weighted(logits), logits

        expected, expected_logits = jax.grad(loss, has_aux=True)(own)
        close(logits, expected_logits)
        found = space.params_of(gradient, whole=True)
        jax.tree.map(close, found, expected)
        # Exactly: what a child does not use does not move.
        used = mask(params, space.rows(Architecture(choice)))
        rest = jax.tree.map(lambda g, m: g * (1 - m), gradient, used)
        assert not any(np.any(x) for x in jax.tree.leaves(rest))
    assert len(traces) == 1


@BOTH
def test_a_child_has_the_parameters_that_it_reads(space, by_hand):
    """Counted by the gradient of the network by hand, of all its inputs."""
    own = space.params_of(params_of(space), whole=True)
    for choice in some(space):
        chosen = names_of_choices(space, choice)
        run = functools.partial(by_hand, images=images(), chosen=chosen)
        jaxpr = jax.make_jaxpr(run)(own).jaxpr
        read = {id(v) for e in jaxpr.eqns for v in e.invars}
        expected = sum(v.aval.size for v in jaxpr.invars if id(v) in read)
        assert int(space.costs(Architecture(choice))["parameters"]) == expected


def hot(space, choice):
    sizes = num_choices(space.decisions)
    return jnp.float32(np.eye(max(sizes))[choice])


@pytest.mark.parametrize(
    "space",
    [PLAIN, pytest.param(MODULAR, marks=pytest.mark.slow)],
    ids=["function", "module"],
)
def test_a_mixture_of_one_branch_is_the_child_with_its_gradients(space):
    for choice in some(space)[:2]:
        (of_child, _, _), logits = run_on(space, Architecture(jnp.asarray(choice)))
        gates = Architecture(jnp.asarray(choice), gates=hot(space, choice))
        (of_gated, _, of_gates), gated = run_on(space, gates)
        mixture = Architecture(jnp.asarray(choice), weights=hot(space, choice))
        (of_mixed, of_weights, _), mixed = run_on(space, mixture)
        for found in (gated, mixed):
            close(found, logits)
        jax.tree.map(close, of_gated, of_child)
        jax.tree.map(close, of_mixed, of_child)
        rows = mask(params_of(space), space.rows(Architecture(choice)))
        rest = jax.tree.map(lambda g, m: g * (1 - m), of_mixed, rows)
        assert not any(np.any(x) for x in jax.tree.leaves(rest))
        places = np.arange(len(choice)), choice
        close(of_gates[places], of_weights[places], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_mixture_is_the_weighted_sum():
    rng = np.random.default_rng(0)
    weights = np.zeros((4, 4), np.float32)
    for row, size in enumerate(num_choices(PLAIN.decisions)):
        weights[row, :size] = rng.dirichlet(np.ones(size))
    names = [d.name for d in PLAIN.decisions]
    assert names == ["first", "second", "inner", "inputs"]
    mixture = Architecture(jnp.zeros(4, jnp.int32), weights=jnp.asarray(weights))
    (_, of_weights, _), logits = run_on(PLAIN, mixture)

    def expected(weights):
        own = PLAIN.params_of(params_of(PLAIN), whole=True)
        own = jax.tree.map(lambda x: np.asarray(x, np.float64), own)
        first, second = own["first"], own["second"]

        def product(x, kernel):
            if kernel.shape[0] == 1:
                return x @ kernel[0, 0]
            padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            return sum(
                padded[:, i : i + 4, j : j + 4] @ kernel[i, j]
                for i in range(3)
                for j in range(3)
            )

        def mixed(row, *terms):
            return sum(w * t for w, t in zip(weights[row], terms, strict=False))

        x = product(np.asarray(images(), np.float64), own["stem"])
        y = mixed(
            0,
            np.tanh(product(x, first["one"])),
            np.sin(product(x, first["three"])),
            product(np.cos(x), first["other"]),
            x,
        )
        nested = second["all"] * mixed(2, np.sin(y), product(y, second["inner"]))
        z = mixed(
            1,
            nested,
            y + second["both"] + second["all"],
            y * second["both"] - second["all"],
        )
        a, b = mixed(3, x, x, y), mixed(3, y, z, z)
        return (a + 2 * b).mean((1, 2)) @ own["last"]

    close(logits, expected(weights), rtol=1e-4, atol=1e-4)
    factors = np.sin(np.arange(15.0)).reshape(5, 3)
    for place in [(0, 1), (1, 0), (2, 1), (3, 2)]:
        step = np.zeros((4, 4))
        step[place] = 1e-5
        higher, lower = expected(weights + step), expected(weights - step)
        slope = np.sum((higher - lower) / 2e-5 * factors)
        close(of_weights[place], slope, rtol=1e-3, atol=1e-3)
