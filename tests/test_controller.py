"""The controller against float64 numpy and enumeration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.controller_reference import (
    ALL,
    COUNTS,
    PADDED,
    POLICIES,
    SHARP,
    assert_close,
    assert_identical,
    draw_params,
    probabilities,
    reference,
    to_jax,
)

from wpl_jax import controller

policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


# Compiled once for all tests, with the policy as data.


@functools.cache
def compiled(function):
    """``sample`` or ``evaluate``, mapped over its second argument."""

    def call(params, x, policy):
        return jax.vmap(lambda x: function(params, x, COUNTS, **policy))(x)

    return jax.jit(call)


def run(function, params, x, **policy):
    return compiled(function)(params, x, policy)


# The distribution over architectures.


@policies
def test_evaluate_is_the_lstm_in_float64(policy):
    for seed in range(3):
        params = draw_params(seed)
        log_prob, entropy = reference(params, ALL, **policy)
        actual = run(controller.evaluate, to_jax(params), ALL, **policy)
        np.testing.assert_array_equal(actual.architecture, ALL)
        assert_close(actual.log_prob, log_prob)
        assert_close(actual.entropy, entropy)


def test_evaluate_is_the_lstm_to_float64_accuracy():
    params, policy = draw_params(0), POLICIES["prior"]
    log_prob, entropy = reference(params, ALL, **policy)
    with jax.enable_x64(True):
        actual = run(controller.evaluate, to_jax(params, float), ALL, **policy)
    assert_close(actual.log_prob, log_prob, rtol=1e-12, atol=1e-13)
    assert_close(actual.entropy, entropy, rtol=1e-12, atol=1e-13)


@policies
def test_probabilities_of_all_architectures_sum_to_one(policy):
    actual = run(controller.evaluate, to_jax(draw_params(0)), ALL, **policy)
    total = np.exp(np.asarray(actual.log_prob, float).sum(axis=1)).sum()
    np.testing.assert_allclose(total, 1, rtol=2e-6)


@policies
def test_entropies_add_up_to_that_of_all_architectures(policy):
    params = draw_params(1)
    p = probabilities(params, policy)
    actual = run(controller.evaluate, to_jax(params), ALL, **policy)
    expected = np.asarray(actual.entropy, float).sum(axis=1) @ p
    np.testing.assert_allclose(expected, scipy.stats.entropy(p), rtol=2e-6)


@pytest.mark.parametrize("name", ["sharp", "prior"])
def test_samples_come_as_often_as_their_probability_says(name):
    policy, draws = POLICIES[name], 20_000
    params = draw_params(2)
    keys = jax.random.split(jax.random.key(0), draws)
    drawn = run(controller.sample, to_jax(params), keys, **policy)
    architectures = np.asarray(drawn.architecture)
    assert architectures.dtype == np.int32
    assert (architectures >= 0).all()
    assert (architectures < np.array(COUNTS)).all()
    index = np.ravel_multi_index(architectures.T, COUNTS)
    found = np.bincount(index, minlength=len(ALL))
    # Each number of hits is binomial; one in a million of such tests may fail.
    p, tail = probabilities(params, policy), 1e-6 / (2 * len(ALL))
    assert (found >= scipy.stats.binom.ppf(tail, draws, p)).all()
    assert (found <= scipy.stats.binom.ppf(1 - tail, draws, p)).all()
    if name == "prior":
        assert not found[ALL[:, 2] == 1].any()
    log_prob, entropy = reference(params, architectures, **policy)
    assert_close(drawn.log_prob, log_prob)
    assert_close(drawn.entropy, entropy)


def test_a_single_choice_is_certain_to_the_bit():
    actual = run(controller.evaluate, to_jax(draw_params(0)), ALL, **SHARP)
    assert not np.asarray(actual.log_prob[:, 1]).any()
    assert not np.asarray(actual.entropy[:, 1]).any()


def test_prior_is_added_to_the_logits():
    # With all parameters at 0 the prior alone decides.
    params = to_jax(draw_params(0, size=0.0))
    distance = np.array(COUNTS)[:, None] - np.arange(max(COUNTS))
    prior = np.where(PADDED, 7.0, -(distance**2) / 6)
    policy = SHARP | {"prior": prior}
    actual = run(controller.evaluate, params, np.array([[0, 0, 1, 1]]), **policy)
    e = np.exp
    expected = [
        e(-9 / 6) / (e(-9 / 6) + e(-4 / 6) + e(-1 / 6)),
        1,
        e(-9 / 6) / (e(-16 / 6) + e(-9 / 6) + e(-4 / 6) + e(-1 / 6)),
        e(-1 / 6) / (e(-4 / 6) + e(-1 / 6)),
    ]
    np.testing.assert_allclose(e(actual.log_prob[0]), expected, rtol=2e-6)


def test_a_choice_that_does_not_exist_has_probability_zero():
    wrong = np.array([[3, 0, 0, 0], [0, 0, 0, 2], [0, 0, 0, 4], [0, 0, -1, 0]])
    actual = run(controller.evaluate, to_jax(draw_params(0)), wrong, **SHARP)
    assert (np.asarray(actual.log_prob).sum(axis=1) == -np.inf).all()
    forbidden = run(
        controller.evaluate,
        to_jax(draw_params(0)),
        np.array([[0, 0, 1, 0]]),
        **POLICIES["prior"],
    )
    assert forbidden.log_prob[0, 2] == -np.inf


# Padding.


@functools.cache
def scores():
    """Gradient of log-probabilities and entropies, each with a weight of its own."""

    def score(params, architecture, weights, temperature):
        given = controller.evaluate(
            params, architecture, COUNTS, temperature=temperature, tanh_constant=None
        )
        return jnp.sum(weights[0] * given.log_prob + weights[1] * given.entropy)

    return jax.jit(jax.vmap(jax.value_and_grad(score), (None, 0, None, None)))


WEIGHTS = np.random.default_rng(1).normal(size=(2, len(COUNTS)))


def test_padding_gets_no_gradient_and_has_no_effect():
    params = draw_params(3)
    _, gradient = scores()(to_jax(params), ALL, to_jax(WEIGHTS), 1.0)
    padding = np.nonzero(PADDED)
    by_choice = np.moveaxis(np.asarray(gradient.decoder_kernel), -1, 2)
    for leaf in (gradient.embedding, gradient.decoder_bias, by_choice):
        leaf = np.asarray(leaf)
        assert not leaf[:, *padding].any()
        assert leaf[:, 0, 0].any()
    assert not gradient.embedding[:, -1].any()  # Nothing comes after it.
    before = run(controller.evaluate, to_jax(params), ALL, **SHARP)
    params.embedding[padding] = 1e3
    params.decoder_bias[padding] = 1e3
    np.moveaxis(params.decoder_kernel, -1, 1)[padding] = -1e3
    assert_identical(run(controller.evaluate, to_jax(params), ALL, **SHARP), before)


def test_gradients_stay_finite_where_probabilities_underflow():
    params = draw_params(0)
    value, gradient = scores()(to_jax(params), ALL, to_jax(WEIGHTS), 1e-4)
    log_prob, _ = reference(
        params, ALL, temperature=1e-2, tanh_constant=None, prior=None
    )
    assert log_prob.min() < -100  # And a hundred times as low.
    assert np.isfinite(value).all()
    assert all(np.isfinite(leaf).all() for leaf in gradient)


def test_init_is_uniform_but_for_the_decoder_biases():
    params = controller.init(jax.random.key(0), [5, 3], hidden=20, scale=0.3)
    shapes = jax.tree.map(jnp.shape, params)
    assert shapes == ((2, 5, 20), (20, 80), (20, 80), (80,), (2, 20, 5), (2, 5))
    assert all(leaf.dtype == jnp.float32 for leaf in params)
    assert not params.decoder_bias.any()
    drawn = np.concatenate([np.ravel(leaf) for leaf in params[:-1]])
    assert scipy.stats.kstest(drawn, "uniform", (-0.3, 0.6)).pvalue > 1e-4
    assert len(np.unique(drawn)) > 0.99 * drawn.size


# Bad input.

GOOD = to_jax(draw_params(0))
KEY = jax.random.key(0)


def call_sample(num_choices=COUNTS, **policy):
    return controller.sample(GOOD, KEY, num_choices, **policy)


def call_evaluate(architecture):
    return controller.evaluate(GOOD, architecture, COUNTS)


NAN = np.full((4, 4), np.nan)
BARRED = np.where(np.arange(4) < 3, -np.inf, np.zeros((4, 4)))
BAD = {
    "no decisions": (lambda: controller.init(KEY, []), r"one decision .* got \[\]"),
    "no choices": (lambda: controller.init(KEY, [3, 0]), r"at least 1; got \[3, 0\]"),
    "half a choice": (lambda: controller.init(KEY, [1.5]), r"got \[1.5\]"),
    "a number": (lambda: controller.init(KEY, 3), "num_choices .* got 3"),
    "hidden": (lambda: controller.init(KEY, [2], hidden=0), "hidden .* got 0"),
    "scale": (lambda: controller.init(KEY, [2], scale=-1.0), "scale .* got -1.0"),
    "decisions": (lambda: call_sample((3, 2)), "2 decisions, the controller 4"),
    "choices": (lambda: call_sample((3, 1, 5, 2)), "5 choices, .* at most 4"),
    "temperature 0": (lambda: call_sample(temperature=0.0), "temperature .* got 0.0"),
    "temperature": (lambda: call_sample(temperature=np.nan), "temperature .* got nan"),
    "tanh": (lambda: call_sample(tanh_constant=-2.5), "tanh_constant .* got -2.5"),
    "prior": (lambda: call_sample(prior=np.zeros((4, 3))), r"\(4, 4\).* got \(4, 3\)"),
    "barred": (lambda: call_sample(prior=BARRED), "at least one .* decision 0 got"),
    "nan prior": (lambda: call_sample(prior=NAN), "at least one .* decision 0"),
    "length": (lambda: call_evaluate(ALL[0, :3]), r"\(4,\).* got .* shape \(3,\)"),
    "floats": (lambda: call_evaluate(np.zeros(4)), "integers .* got float32"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def call_all(temperature, tanh_constant, scale, prior, num_choices):
    policy = {
        "temperature": temperature,
        "tanh_constant": tanh_constant,
        "prior": prior,
    }
    controller.init(KEY, COUNTS, scale=scale)
    return controller.sample(GOOD, KEY, num_choices, **policy)


def test_traced_values_pass():
    jax.eval_shape(call_all, -1.0, -1.0, -1.0, BARRED, (0, 1, 5, 2))


def test_arrays_that_are_known_are_checked_under_jit():
    good = [jnp.array(x) for x in (5.0, 2.5, 0.1, np.zeros((4, 4)), COUNTS)]
    bad = [jnp.array(x) for x in (0.0, 0.0, -0.1, BARRED, (0, 1, 4, 2))]
    jax.eval_shape(lambda: call_all(*good))
    for i, value in enumerate(bad):
        with pytest.raises(ValueError, match="got"):
            jax.eval_shape(lambda i=i, x=value: call_all(*good[:i], x, *good[i + 1 :]))
