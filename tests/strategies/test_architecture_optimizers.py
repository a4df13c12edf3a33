"""Distributions of architecture weights, against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.strategies.architecture_optimizers import AdamOnConcentrations


def test_concentrations_are_trained_through_draws():
    """Chen et al., 2021: a draw's gradient is that of the mean, on average."""
    optimizer, there = AdamOnConcentrations(), np.array([[1, 1, 1], [1, 1, 0]], bool)
    theta = jnp.array([[-0.5, 0.2, 1.0], [0.3, -1.0, 4.0]])
    c = np.where(there, np.where(theta > 0, theta + 1, np.exp(theta)), 0)
    total = c.sum(-1, keepdims=True)
    found = optimizer.probabilities(theta, there)
    np.testing.assert_allclose(found, c / total, rtol=1e-6)
    values = np.array([[1.0, 2.0, -1.0], [0.5, 3.0, 9.0]])

    def draw(theta, key):
        weights = optimizer.weights(theta, there, key)
        return jnp.sum(values * weights), weights

    keys = jax.random.split(jax.random.key(0), 20000)
    of_draws = jax.vmap(jax.grad(draw, has_aux=True), (None, 0))
    slopes, weights = jax.jit(of_draws)(theta, keys)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(weights[:, 1, 2], 0)
    np.testing.assert_allclose(weights.mean(0), c / total, atol=0.01)
    mean = np.sum(values * c / total, -1, keepdims=True)
    of_c = np.where(there, values - mean, 0) / total
    expected = of_c * np.where(theta > 0, 1, c)
    error = 4 * slopes.std(0) / np.sqrt(len(keys)) + 1e-6
    assert np.all(np.abs(slopes.mean(0) - expected) < error)


def test_concentrations_that_are_nearly_0_have_a_mean_and_a_gradient():
    optimizer, there = AdamOnConcentrations(), np.ones((3, 3), bool)
    theta = jnp.array([[-18.0, 0.0, -40.0], [-200.0, 2.0, -1e6], [-20.0, -30.0, -40.0]])
    c = np.where(theta > 0, theta + 1, np.maximum(np.exp(np.float64(theta)), 1e-6))
    found = optimizer.probabilities(theta, there)
    np.testing.assert_allclose(found, c / c.sum(-1, keepdims=True), rtol=1e-5)

    @jax.jit
    def draw(theta, key):
        return jax.vjp(lambda theta: optimizer.weights(theta, there, key), theta)

    for key in jax.random.split(jax.random.key(0), 20):
        weights, pull = draw(theta, key)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
        for row in np.eye(3):
            (slope,) = pull(jnp.broadcast_to(jnp.float32(row), (3, 3)))
            assert np.all(np.isfinite(slope))
