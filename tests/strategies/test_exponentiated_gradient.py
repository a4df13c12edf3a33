"""The step on the simplex, against its closed form and against what it minimises."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from wpl_jax import exponentiated_gradient

P = np.array([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
G = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])


def step(p, gradient, rate, floor=0.0):
    transform = exponentiated_gradient(rate, floor)
    p, gradient = jnp.asarray(p, jnp.float32), jnp.asarray(gradient, jnp.float32)
    updates, _ = transform.update(gradient, transform.init(p), p)
    return np.asarray(optax.apply_updates(p, updates), float)


def test_a_step_multiplies_and_divides_by_the_sum():
    moved = P * np.exp(-0.4 * G)
    expected = moved / moved.sum(-1, keepdims=True)
    np.testing.assert_allclose(step(P, G, 0.4), expected, rtol=1e-6)


def test_a_step_minimises_the_linear_loss_and_the_divergence():
    def objective(q, p, g):
        return 0.4 * g @ q + np.sum(q * np.log(q / p))

    for p, g, found in zip(P, G, step(P, G, 0.4), strict=True):
        best = scipy.optimize.minimize(
            objective,
            np.full(3, 1 / 3),
            (p, g),
            bounds=[(1e-9, 1)] * 3,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(found, best.x, atol=1e-5)


def test_large_gradients_do_not_overflow():
    found = step(P, [[1e30, -1e30, 0], [-5e4, 5e4, 0]], 1.0)
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 0, 0]])


def test_zero_stays_zero_and_the_floor_is_for_what_is_not():
    p = [[0.0, 0.5, 0.5]]
    found = step(p, [[-9.0, 0, 20]], 1.0, floor=0.01)
    other = 1 / (1 + np.exp(-20))
    np.testing.assert_allclose(found, [[0, other, 0.01] / (other + 0.01)], rtol=1e-6)


def test_the_rate_may_be_a_schedule():
    transform = exponentiated_gradient(lambda count: 0.1 * (count + 1))
    p, state = jnp.asarray(P, jnp.float32), None
    state = transform.init(p)
    expected = P
    for number in (1, 2, 3):
        updates, state = jax.jit(transform.update)(jnp.asarray(G), state, p)
        p = optax.apply_updates(p, updates)
        expected = expected * np.exp(-0.1 * number * G)
        expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(p, expected, rtol=1e-5)


def test_it_needs_the_parameters():
    transform = exponentiated_gradient(0.1)
    with pytest.raises(ValueError, match=r"update\(gradients, state, params\)"):
        transform.update(jnp.asarray(G), transform.init(P))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"learning_rate": -1}, "learning_rate must be a number of at least 0"),
        ({"learning_rate": "x"}, "learning_rate must be a number of at least 0"),
        ({"floor": -3}, r"floor must be a number in \[0, 1\], got -3"),
        ({"floor": 1.5}, "floor must be a number in"),
        ({"floor": lambda count: 0.1}, "floor must be a number"),
    ],
)
def test_a_wrong_number_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        exponentiated_gradient(**{"learning_rate": 0.1} | arguments)


def test_rate_and_floor_may_be_hyperparameters_of_the_state():
    transform = optax.inject_hyperparams(exponentiated_gradient)(0.4, floor=0.0)
    p = jnp.asarray(P, jnp.float32)
    state = optax.tree.set(transform.init(p), floor=jnp.float32(0.25))
    updates, _ = jax.jit(transform.update)(jnp.asarray(G), state, p)
    moved = P * np.exp(-0.4 * G)
    raised = np.maximum(moved / moved.sum(-1, keepdims=True), 0.25)
    expected = raised / raised.sum(-1, keepdims=True)
    np.testing.assert_allclose(optax.apply_updates(p, updates), expected, rtol=1e-6)
