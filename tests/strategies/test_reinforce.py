"""REINFORCE against enumeration, finite differences and steps taken by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.stats
from helpers.controller_reference import (
    ALL,
    COUNTS,
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
from wpl_jax.strategies import reinforce


def one_by_one(reward_fn):
    """The rewards of several architectures by the reward of one."""

    def rewards_fn(keys, architectures, step):
        def one(each):
            return jnp.asarray(reward_fn(*each, step))

        return jax.lax.map(one, (keys, architectures))

    return rewards_fn


def finite_difference(function, params, step=1e-5):
    """Gradient of a function of numpy parameters, by central differences."""
    gradient = controller.Params(*(np.zeros_like(x) for x in params))
    for values, slopes in zip(params, gradient, strict=True):
        for index in np.ndindex(values.shape):
            kept = values[index]
            values[index] = kept + step
            above = function(params)
            values[index] = kept - step
            below = function(params)
            values[index] = kept
            slopes[index] = (above - below) / (2 * step)
    return gradient


# The gradient.

REWARDS = np.random.default_rng(4).uniform(size=len(ALL))
BASELINES = {
    "none": np.zeros(4),
    "uniform": np.full(4, 0.7),
    "by decision": np.array([0.3, -2.0, 1.1, 0.5]),
}


@functools.cache
def loss_gradients(entropy_mode):
    def gradient(params, architecture, reward, baseline, entropy_weight):
        return jax.grad(reinforce.loss)(
            params,
            architecture,
            reward,
            baseline,
            COUNTS,
            entropy_weight=entropy_weight,
            entropy_mode=entropy_mode,
            **POLICIES["prior"],
        )

    return jax.jit(jax.vmap(gradient, (None, 0, 0, None, None)))


def expected_loss_gradient(params, mean, entropy_mode, entropy_weight):
    """Exactly, over all architectures that the prior allows."""
    p = probabilities(params, POLICIES["prior"])
    allowed = p > 0
    assert allowed.sum() == 18
    with jax.enable_x64(True):
        baseline = reinforce.Baseline(jnp.asarray(mean, float), jnp.array(True))
        gradients = loss_gradients(entropy_mode)(
            to_jax(params, float),
            ALL[allowed],
            REWARDS[allowed],
            baseline,
            entropy_weight,
        )
    return jax.tree.map(lambda g: np.einsum("a...,a->...", g, p[allowed]), gradients)


@functools.cache
def objective_gradient(entropy_weight):
    """Of minus the expected reward and the entropy of the architectures."""

    def objective(params):
        p = probabilities(params, POLICIES["prior"])
        return -(p @ REWARDS + entropy_weight * scipy.stats.entropy(p))

    return finite_difference(objective, draw_params(5))


@pytest.mark.slow_except("reward-*")
@pytest.mark.parametrize("mean", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("entropy_mode", ["reward", "regularizer"])
def test_expected_gradient_is_that_of_the_objective(entropy_mode, mean):
    params, weight = draw_params(5), 0.3
    actual = expected_loss_gradient(params, mean, entropy_mode, weight)
    # As a constant in the reward, the entropy has no effect in expectation.
    expected = objective_gradient(weight if entropy_mode == "regularizer" else 0.0)
    assert_close(actual, expected, rtol=1e-6, atol=1e-9)


def test_the_entropy_moves_the_objective():
    # Otherwise the test above could not tell the two modes from each other.
    with_entropy, without = objective_gradient(0.3), objective_gradient(0.0)
    gap = max(np.abs(x - y).max() for x, y in zip(with_entropy, without, strict=True))
    assert gap > 1e-2


def test_decision_rewards_by_hand():
    entropy = jnp.array([1.0, 2.0, 4.0])
    reward = functools.partial(
        reinforce.decision_rewards, 10.0, entropy, entropy_weight=0.5
    )
    np.testing.assert_array_equal(reward(), [10.5, 11, 12])
    later = reward(entropy_mode="regularizer")
    np.testing.assert_array_equal(later, [13, 12, 10])


@pytest.mark.parametrize("num_decisions", [None, 3])
def test_baseline_is_the_authors_average(num_decisions):
    decay, rewards = 0.9, np.random.default_rng(0).uniform(size=(6, 3))
    baseline = reinforce.init_baseline(num_decisions)
    average = None
    for reward in rewards:
        before = baseline.mean
        baseline = reinforce.update_baseline(
            baseline, jnp.asarray(reward, jnp.float32), decay=decay
        )
        seen = reward if num_decisions else reward.mean()
        if average is None:
            average = seen
        else:
            average = decay * average + (1 - decay) * seen
            # Theirs averages the newest in before it subtracts.
            theirs, ours = seen - average, seen - np.asarray(before)
            np.testing.assert_allclose(theirs, decay * ours, atol=1e-6)
        np.testing.assert_allclose(baseline.mean, average, rtol=1e-6)
    assert baseline.mean.shape == (() if num_decisions is None else (3,))


# Training.


def by_hand(params, baseline, drawn, *, mode, weight, decay, rate):
    """SGD on REINFORCE in numpy, along the recorded draws of each step."""
    average = None
    for architectures, rewards in drawn:
        _, entropies = reference(params, architectures, **SHARP)
        credits = np.empty_like(entropies)
        for credit, reward, entropy in zip(credits, rewards, entropies, strict=True):
            for k in range(len(COUNTS)):
                shared = entropy[k] if mode == "reward" else entropy[k + 1 :].sum()
                credit[k] = reward + weight * shared
        mean = credits.mean(axis=0 if baseline == "vector" else None)
        advantages = 0 * credits if average is None else credits - average

        def loss(params, architectures=architectures, advantages=advantages):
            log_probs, entropies = reference(params, architectures, **SHARP)
            total = -(advantages * log_probs).sum()
            if mode == "regularizer":
                total -= weight * entropies.sum()
            return total / len(architectures)

        slopes = finite_difference(loss, params)
        params = jax.tree.map(lambda x, g: x - rate * g, params, slopes)
        average = mean if average is None else decay * average + (1 - decay) * mean
    return params, average


@pytest.mark.slow_except("reward-vector")
@pytest.mark.parametrize(
    ("mode", "kind"), [("reward", "vector"), ("regularizer", "scalar")]
)
def test_train_takes_the_steps_written_out_by_hand(mode, kind):
    steps, samples, first = 3, 2, 5
    options = {"decay": 0.8, "entropy_weight": 0.2, "entropy_mode": mode}
    optimizer, params = optax.sgd(0.5), draw_params(6)
    records = []
    table = REWARDS.reshape(COUNTS)

    @one_by_one
    def rewards_fn(key, architecture, step):
        reward = jnp.asarray(table)[tuple(architecture)] + 0.1 * step
        jax.debug.callback(
            lambda *x: records.append(jax.tree.map(np.array, x)),
            step,
            architecture,
            reward,
            jax.random.key_data(key),
        )
        return reward

    with jax.enable_x64(True):
        start = to_jax(params, float)
        size = len(COUNTS) if kind == "vector" else None
        trained, _, baseline, metrics = jax.jit(
            lambda params, key: reinforce.train(
                params,
                optimizer.init(params),
                reinforce.init_baseline(size)._replace(
                    mean=jnp.zeros(() if size is None else (size,), float)
                ),
                key,
                rewards_fn,
                optimizer,
                COUNTS,
                steps=steps,
                samples_per_step=samples,
                first_step=first,
                **options,
                **SHARP,
            )
        )(start, jax.random.key(3))
        jax.block_until_ready(trained)
        jax.effects_barrier()

    records.sort(key=lambda record: record[0])
    numbers = [int(record[0]) for record in records]
    assert numbers == [n for n in range(first, first + steps) for _ in range(samples)]
    assert len({record[3].tobytes() for record in records}) == steps * samples
    architectures = np.stack([r[1] for r in records]).reshape(steps, samples, -1)
    rewards = np.array([r[2] for r in records]).reshape(steps, samples)
    assert len(np.unique(architectures.reshape(steps * samples, -1), axis=0)) > 2
    expected, average = by_hand(
        params,
        kind,
        list(zip(architectures, rewards, strict=True)),
        mode=mode,
        weight=options["entropy_weight"],
        decay=options["decay"],
        rate=0.5,
    )
    assert_close(trained, expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(baseline.mean, average, rtol=1e-9)
    moved = max(np.abs(x - y).max() for x, y in zip(expected, params, strict=True))
    assert moved > 1e-2
    np.testing.assert_allclose(metrics.reward, rewards.mean(axis=1), rtol=1e-12)
    _, entropies = reference(params, architectures[0], **SHARP)
    np.testing.assert_allclose(metrics.entropy[0], entropies.sum(axis=1).mean())
    best = np.argmax(rewards)
    np.testing.assert_allclose(metrics.best_reward, rewards.flat[best], rtol=1e-12)
    np.testing.assert_array_equal(
        metrics.best_architecture, architectures.reshape(steps * samples, -1)[best]
    )


RIGGED = (4, 2, 4, 2)
STEPS, SAMPLES, NOISE = 64, 4, 0.25


@functools.cache
def rigged_search():
    """One of 64 architectures is best, and the reward is noisy; over 64 seeds."""

    def search(key, rate, scale):
        key_target, key_init, key_train = jax.random.split(key, 3)
        target = jax.random.randint(key_target, (4,), 0, jnp.array(RIGGED))

        @one_by_one
        def rewards_fn(key, architecture, step):
            return jnp.mean(architecture == target) + NOISE * jax.random.normal(key)

        optimizer = optax.adam(rate)
        params = controller.init(key_init, RIGGED, hidden=16, scale=scale)
        params, _, _, metrics = reinforce.train(
            params,
            optimizer.init(params),
            reinforce.init_baseline(),
            key_train,
            rewards_fn,
            optimizer,
            RIGGED,
            steps=STEPS,
            samples_per_step=SAMPLES,
        )
        every = jnp.stack(jnp.indices(RIGGED), -1).reshape(-1, len(RIGGED))
        evaluate = jax.vmap(lambda a: controller.evaluate(params, a, RIGGED).log_prob)
        taken = every[jnp.argmax(jnp.sum(evaluate(every), 1))]
        log_p = controller.evaluate(params, target, RIGGED).log_prob
        return (
            jnp.array_equal(taken, target),
            jnp.array_equal(metrics.best_architecture, target),
            jnp.exp(jnp.sum(log_p)),
            metrics,
        )

    return jax.jit(jax.vmap(search, (0, None, None)))


def seeds(start):
    return jax.vmap(jax.random.key)(start + jnp.arange(64))


@pytest.mark.slow
def test_training_finds_the_best_architecture():
    found, _, probability, metrics = rigged_search()(seeds(0), 0.02, 0.1)
    assert found.all()
    assert probability.min() > 5 / 64
    assert probability.mean() > 0.5
    assert (metrics.reward[:, -16:].mean(axis=1) > 0.7).all()
    assert (metrics.entropy[:, -1] < metrics.entropy[:, 0] - 1).all()


@pytest.mark.slow
def test_uniform_sampling_finds_it_as_often_as_computed():
    # A controller of zeros that does not learn draws uniformly.
    hits = 0
    for start in (0, 1000, 2000):
        _, hit, probability, metrics = rigged_search()(seeds(start), 0.0, 0.0)
        hits += int(hit.sum())
        np.testing.assert_allclose(probability, 1 / 64, rtol=1e-6)
        np.testing.assert_allclose(metrics.entropy, np.log(64), rtol=1e-6)
    # The largest of n noisy rewards is that of the best architecture with
    # probability n * integral of p(reward, best) * P(another reward is lower)^(n-1).
    n = STEPS * SAMPLES
    agree = itertools.product(*(range(c) for c in RIGGED))
    means = np.array([np.mean(np.array(a) == 0) for a in agree])

    def density(reward):
        lower = scipy.stats.norm.cdf(reward, means, NOISE).mean()
        return n / 64 * scipy.stats.norm.pdf(reward, 1, NOISE) * lower ** (n - 1)

    p, _ = scipy.integrate.quad(density, 0, 3)
    assert 0.4 < p < 0.45  # The controller above found all of them.
    assert scipy.stats.binom.ppf(1e-5, 192, p) <= hits
    assert hits <= scipy.stats.binom.ppf(1 - 1e-5, 192, p)


class Training:
    """A small search whose traces are counted."""

    def __init__(self):
        self.traces = 0
        self.optimizer = optax.adam(0.1)
        self.jitted = jax.jit(self.train, static_argnames="steps", donate_argnums=0)

    def reward_fn(self, key, architecture, step):
        self.traces += 1
        return jnp.sum(architecture) + 0.01 * step + jax.random.uniform(key)

    def start(self, seed):
        params = to_jax(draw_params(seed))
        baseline = reinforce.init_baseline(len(COUNTS))
        return params, self.optimizer.init(params), baseline

    def train(self, state, key, first_step, steps):
        *state, metrics = reinforce.train(
            *state,
            key,
            one_by_one(self.reward_fn),
            self.optimizer,
            COUNTS,
            steps=steps,
            samples_per_step=2,
            first_step=first_step,
        )
        return tuple(state), metrics


@functools.cache
def training():
    """One for all tests, since it takes seconds to compile."""
    return Training()


@pytest.mark.slow
def test_train_is_traced_once_and_may_be_split_over_calls():
    search, key = training(), jax.random.key(0)
    state, metrics = search.jitted(search.start(0), key, 0, steps=4)
    before = search.traces
    again, _ = search.jitted(search.start(0), key, 0, steps=4)
    assert_identical(again, state)
    other, _ = search.jitted(search.start(1), jax.random.key(1), 7, steps=4)
    assert (np.asarray(other[0].bias) != np.asarray(state[0].bias)).any()
    assert search.traces == before
    half, first = search.jitted(search.start(0), key, 0, steps=2)
    whole, second = search.jitted(half, key, 2, steps=2)
    assert search.traces == before + 1
    assert_identical(whole, state)
    for name in ("reward", "entropy"):
        parts = jnp.concatenate([getattr(first, name), getattr(second, name)])
        assert_identical(parts, getattr(metrics, name))
    assert max(first.best_reward, second.best_reward) == metrics.best_reward


@pytest.mark.slow
def test_train_over_seeds_is_train_of_each_seed():
    search = training()
    states = [search.start(seed) for seed in range(2)]
    keys = jax.random.split(jax.random.key(0), 2)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *states)
    train = jax.vmap(lambda state, key: search.train(state, key, 0, steps=4))
    together = jax.jit(train)(stacked, keys)
    for i, state in enumerate(states):
        alone = search.jitted(state, keys[i], 0, steps=4)
        assert_close(jax.tree.map(lambda x, i=i: x[i], together), alone, 1e-4, 1e-5)


def test_one_compilation_serves_every_architecture():
    traces = 0

    @jax.jit
    def loss_and_gradient(params, architecture, reward, num_choices):
        nonlocal traces
        traces += 1
        baseline = reinforce.init_baseline()._replace(started=jnp.array(True))
        return jax.value_and_grad(reinforce.loss)(
            params, architecture, reward, baseline, num_choices, **SHARP
        )

    params = draw_params(0)
    log_prob, _ = reference(params, ALL, **SHARP)
    for architecture, expected in zip(ALL, log_prob.sum(axis=1), strict=True):
        loss, _ = loss_and_gradient(to_jax(params), architecture, 2.0, COUNTS)
        np.testing.assert_allclose(loss, -2 * expected, rtol=1e-3)
    assert traces == 1
    # Numbers of choices that are traced are data too.
    loss_and_gradient(to_jax(params), np.zeros(4, int), 2.0, (4, 4, 4, 4))
    assert traces == 1


# Bad input.

GOOD = to_jax(draw_params(0))
KEY = jax.random.key(0)


def call_loss(reward=1.0, baseline=None, **options):
    baseline = reinforce.init_baseline() if baseline is None else baseline
    return reinforce.loss(GOOD, ALL[0], reward, baseline, COUNTS, **options)


def call_train(reward=1.0, **options):
    optimizer = optax.sgd(0.1)
    return reinforce.train(
        GOOD,
        optimizer.init(GOOD),
        reinforce.init_baseline(),
        KEY,
        lambda keys, architectures, step: jnp.broadcast_to(
            reward, jnp.shape(reward) or len(keys)
        ),
        optimizer,
        COUNTS,
        **({"steps": 2} | options),
    )


BAD = {
    "mode": (lambda: call_loss(entropy_mode="off"), "entropy_mode .* got 'off'"),
    "rewards": (lambda: call_loss(jnp.ones(4)), r"scalar, got shape \(4,\)"),
    "baseline": (
        lambda: call_loss(baseline=reinforce.init_baseline(3)),
        r"baseline .* \(4,\).* got shape \(3,\)",
    ),
    "decay 1": (lambda: call_train(decay=1.0), r"\[0, 1\), got 1.0"),
    "decay": (lambda: call_train(decay=-0.1), r"\[0, 1\), got -0.1"),
    "steps": (lambda: call_train(steps=0), "steps must be at least 1, got 0"),
    "samples": (lambda: call_train(samples_per_step=0), "samples_per_step .* got 0"),
    "train mode": (lambda: call_train(entropy_mode=None), "entropy_mode .* got None"),
    "train reward": (lambda: call_train(jnp.ones(3)), r"each of 1 .*got shape \(3,\)"),
}


@pytest.mark.parametrize(("call", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def call_all(decay, weight, temperature, tanh_constant, prior):
    policy = {
        "temperature": temperature,
        "tanh_constant": tanh_constant,
        "prior": prior,
    }
    return call_train(decay=decay, entropy_weight=weight, **policy)


def test_traced_values_pass():
    jax.eval_shape(call_all, 1.0, -1.0, -1.0, -1.0, np.full((4, 4), -np.inf))


def test_arrays_that_are_known_are_checked_under_jit():
    good = [jnp.array(x) for x in (0.9, 0.1, 5.0, 2.5, np.zeros((4, 4)))]
    jax.eval_shape(lambda: call_all(*good))
    decay = jnp.array(1.0)
    with pytest.raises(ValueError, match=r"\[0, 1\), got"):
        jax.eval_shape(lambda: call_all(decay, *good[1:]))
