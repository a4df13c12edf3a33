"""What the controller is compared with: its equations in float64 numpy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from wpl_jax import controller

COUNTS = (3, 1, 4, 2)
HIDDEN = 3
ALL = np.array(list(itertools.product(*map(range, COUNTS))))
PADDED = np.arange(max(COUNTS)) >= np.array(COUNTS)[:, None]
PRIOR = np.where(PADDED, np.nan, np.random.default_rng(0).normal(size=PADDED.shape))
PRIOR[2, 1] = -np.inf
# What the tests ask for where the value does not matter: far from uniform.
SHARP = {"temperature": 1.5, "tanh_constant": 2.5, "prior": None}
POLICIES = {
    "default": {"temperature": 5.0, "tanh_constant": 2.5, "prior": None},
    "sharp": SHARP,
    "no tanh": {"temperature": 0.5, "tanh_constant": None, "prior": None},
    "prior": {"temperature": 1.5, "tanh_constant": 1.1, "prior": PRIOR},
}


def draw_params(seed, size=1.0, counts=COUNTS):
    """Float64 values that float32 represents exactly, in the padding too."""
    decisions, choices = len(counts), max(counts)
    shapes = {
        "embedding": (decisions, choices, HIDDEN),
        "input_kernel": (HIDDEN, 4 * HIDDEN),
        "hidden_kernel": (HIDDEN, 4 * HIDDEN),
        "bias": (4 * HIDDEN,),
        "decoder_kernel": (decisions, HIDDEN, choices),
        "decoder_bias": (decisions, choices),
    }
    rng = np.random.default_rng(seed)
    return controller.Params(
        **{
            name: (size * rng.normal(size=shape)).astype(np.float32).astype(float)
            for name, shape in shapes.items()
        }
    )


def to_jax(tree, dtype=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(params, architectures, *, temperature, tanh_constant, prior):
    """Log-probabilities and entropies, both [architectures, decisions]; by gates."""
    lanes = len(architectures)
    inputs, h, c = (np.zeros((lanes, HIDDEN)) for _ in range(3))
    log_probs, entropies = [], []
    for k, count in enumerate(COUNTS):

        def gate(position, inputs=inputs, h=h):
            units = slice(position * HIDDEN, (position + 1) * HIDDEN)
            return (
                np.einsum("bi,iu->bu", inputs, params.input_kernel[:, units])
                + np.einsum("bi,iu->bu", h, params.hidden_kernel[:, units])
                + params.bias[units]
            )

        c = sigmoid(gate(1)) * c + sigmoid(gate(0)) * np.tanh(gate(2))
        h = sigmoid(gate(3)) * np.tanh(c)
        logits = h @ params.decoder_kernel[k, :, :count]
        logits = (logits + params.decoder_bias[k, :count]) / temperature
        if tanh_constant is not None:
            logits = tanh_constant * np.tanh(logits)
        weights = np.exp(logits)
        if prior is not None:
            weights = weights * np.exp(prior[k, :count])
        p = weights / weights.sum(axis=1, keepdims=True)
        chosen = architectures[:, k]
        with np.errstate(divide="ignore"):
            log_probs.append(np.log(p[np.arange(lanes), chosen]))
        entropies.append(scipy.stats.entropy(p, axis=1))
        inputs = params.embedding[k, chosen]
    return np.stack(log_probs, axis=1), np.stack(entropies, axis=1)


def probabilities(params, policy=SHARP):
    """Of all architectures."""
    return np.exp(reference(params, ALL, **policy)[0].sum(axis=1))


def assert_close(actual, expected, rtol=2e-5, atol=2e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x, float), y, rtol, atol)


def assert_identical(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
