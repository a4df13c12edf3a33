"""The controller against float64 numpy, enumeration and finite differences."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
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
policies = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


# The reference: the LSTM's equations, gate by gate, in numpy.


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


def one_by_one(reward_fn):
    """The rewards of several architectures by the reward of one."""

    def rewards_fn(keys, architectures, step):
        def one(each):
            return jnp.asarray(reward_fn(*each, step))

        return jax.lax.map(one, (keys, architectures))

    return rewards_fn


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference(params, architectures, *, temperature, tanh_constant, prior):
    """Log-probabilities and entropies, both [architectures, decisions]."""
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


def assert_close(actual, expected, rtol=2e-5, atol=2e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x, float), y, rtol, atol)


def assert_identical(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


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


@policies
def test_greedy_takes_the_most_probable_choice_at_each_decision(policy):
    trees = [draw_params(seed) for seed in range(10)]
    stacked = to_jax(jax.tree.map(lambda *x: np.stack(x), *trees))
    greedy = jax.vmap(lambda params: controller.greedy(params, COUNTS, **policy))
    actual = jax.jit(greedy)(stacked)
    for params, taken in zip(trees, np.asarray(actual.architecture), strict=True):
        log_prob, _ = reference(params, ALL, **policy)
        left = np.arange(len(ALL))
        for k in range(len(COUNTS)):
            best = left[np.argmax(log_prob[left, k])]
            left = left[ALL[left, k] == ALL[best, k]]
        np.testing.assert_array_equal(taken, ALL[left[0]])
    assert len(np.unique(actual.architecture, axis=0)) >= 3
    of_first, entropy = reference(trees[0], actual.architecture[:1], **policy)
    assert_close(actual.log_prob[:1], of_first)
    assert_close(actual.entropy[:1], entropy)


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


# REINFORCE.

REWARDS = np.random.default_rng(4).uniform(size=len(ALL))
BASELINES = {
    "none": np.zeros(4),
    "uniform": np.full(4, 0.7),
    "by decision": np.array([0.3, -2.0, 1.1, 0.5]),
}


@functools.cache
def loss_gradients(entropy_mode):
    def gradient(params, architecture, reward, baseline, entropy_weight):
        return jax.grad(controller.reinforce_loss)(
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
        baseline = controller.Baseline(jnp.asarray(mean, float), jnp.array(True))
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
        controller.decision_rewards, 10.0, entropy, entropy_weight=0.5
    )
    np.testing.assert_array_equal(reward(), [10.5, 11, 12])
    later = reward(entropy_mode="regularizer")
    np.testing.assert_array_equal(later, [13, 12, 10])


@pytest.mark.parametrize("num_decisions", [None, 3])
def test_baseline_is_the_authors_average(num_decisions):
    decay, rewards = 0.9, np.random.default_rng(0).uniform(size=(6, 3))
    baseline = controller.init_baseline(num_decisions)
    average = None
    for reward in rewards:
        before = baseline.mean
        baseline = controller.update_baseline(
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
            lambda params, key: controller.train(
                params,
                optimizer.init(params),
                controller.init_baseline(size)._replace(
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
        params, _, _, metrics = controller.train(
            params,
            optimizer.init(params),
            controller.init_baseline(),
            key_train,
            rewards_fn,
            optimizer,
            RIGGED,
            steps=STEPS,
            samples_per_step=SAMPLES,
        )
        taken = controller.greedy(params, RIGGED).architecture
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


def test_training_finds_the_best_architecture():
    found, _, probability, metrics = rigged_search()(seeds(0), 0.02, 0.1)
    assert found.all()
    assert probability.min() > 5 / 64
    assert probability.mean() > 0.5
    assert (metrics.reward[:, -16:].mean(axis=1) > 0.7).all()
    assert (metrics.entropy[:, -1] < metrics.entropy[:, 0] - 1).all()


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


# Compilation.


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
        baseline = controller.init_baseline(len(COUNTS))
        return params, self.optimizer.init(params), baseline

    def train(self, state, key, first_step, steps):
        *state, metrics = controller.train(
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
        baseline = controller.init_baseline()._replace(started=jnp.array(True))
        return jax.value_and_grad(controller.reinforce_loss)(
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


def call_loss(reward=1.0, baseline=None, **options):
    baseline = controller.init_baseline() if baseline is None else baseline
    return controller.reinforce_loss(GOOD, ALL[0], reward, baseline, COUNTS, **options)


def call_train(reward=1.0, **options):
    optimizer = optax.sgd(0.1)
    return controller.train(
        GOOD,
        optimizer.init(GOOD),
        controller.init_baseline(),
        KEY,
        lambda keys, architectures, step: jnp.broadcast_to(
            reward, jnp.shape(reward) or len(keys)
        ),
        optimizer,
        COUNTS,
        **({"steps": 2} | options),
    )


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
    "mode": (lambda: call_loss(entropy_mode="off"), "entropy_mode .* got 'off'"),
    "rewards": (lambda: call_loss(jnp.ones(4)), r"scalar, got shape \(4,\)"),
    "baseline": (
        lambda: call_loss(baseline=controller.init_baseline(3)),
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


def call_all(temperature, tanh_constant, decay, scale, prior, num_choices):
    policy = {
        "temperature": temperature,
        "tanh_constant": tanh_constant,
        "prior": prior,
    }
    controller.init(KEY, COUNTS, scale=scale)
    controller.greedy(GOOD, num_choices, **policy)
    return call_train(decay=decay, entropy_weight=scale, **policy)


def test_traced_values_pass():
    jax.eval_shape(call_all, -1.0, -1.0, 1.0, -1.0, BARRED, (0, 1, 5, 2))


def test_arrays_that_are_known_are_checked_under_jit():
    good = [jnp.array(x) for x in (5.0, 2.5, 0.9, 0.1, np.zeros((4, 4)), COUNTS)]
    bad = [jnp.array(x) for x in (0.0, 0.0, 1.0, -0.1, BARRED, (0, 1, 4, 2))]
    jax.eval_shape(lambda: call_all(*good))
    for i, value in enumerate(bad):
        with pytest.raises(ValueError, match="got"):
            jax.eval_shape(lambda i=i, x=value: call_all(*good[:i], x, *good[i + 1 :]))
