"""Strategies on a small space, against frequencies and sums done by hand."""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.parts import strategy_of

from configs import enas_rnn_ptb
from wpl_jax.errors import ConfigError
from wpl_jax.strategies.enas import Enas, distance_prior
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import Decision, Space


class Decisions(Space):
    """All that strategies know of a space."""

    decisions = (
        Decision("kernel", ("3", "5")),
        Decision("parent", ("node_0", "node_1", "node_2"), ordered=True),
        Decision("only", ("one",)),
        Decision("pool", ("max", "mean")),
    )


SPACE = Decisions()
ALL = list(itertools.product(range(2), range(3), range(1), range(2)))
CANDIDATES = Candidates(proposed=3, screen_batches=2, keep=1)
TARGET = (1, 0, 0, 1)
DRAWS = 3000
ENAS = Enas(
    SPACE,
    60,
    CANDIDATES,
    hidden=4,
    learning_rate=0.05,
    samples_per_step=4,
)


@functools.partial(jax.jit, static_argnums=0)
def propose(strategy, state):
    keys = jax.random.split(jax.random.key(0), DRAWS)
    return jax.vmap(functools.partial(strategy.propose, state))(keys)


def frequencies(strategy, state):
    """How often each architecture is proposed, in the order of ``ALL``."""
    drawn = propose(strategy, state).choice
    assert drawn.dtype == jnp.int32
    counts = collections.Counter(map(tuple, np.asarray(drawn).tolist()))
    assert counts.keys() <= set(ALL)
    return np.array([counts[architecture] for architecture in ALL])


@functools.cache
def enas_state():
    return ENAS.init(jax.random.key(0))


def assert_trees_close(found, expected):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
        found,
        expected,
    )


def test_random_search_proposes_every_architecture_equally_often():
    strategy = RandomSearch(SPACE, CANDIDATES)
    state = strategy.init(jax.random.key(0))
    assert strategy.begin_epoch(state, 3) == state
    assert scipy.stats.chisquare(frequencies(strategy, state)).pvalue > 1e-4


def test_random_search_takes_no_steps():
    strategy = RandomSearch(SPACE, CANDIDATES)
    assert strategy.steps_after(5) == 0
    with pytest.raises(NotImplementedError):
        strategy.learn((), jax.random.key(0), lambda *_: 0.0, 0, 1)


def test_enas_proposes_what_there_is_before_it_has_learned_anything():
    assert np.all(frequencies(ENAS, enas_state()) > 0)


# A controller that hardly changes.
STEADY = Enas(
    SPACE,
    4,
    CANDIDATES,
    hidden=4,
    learning_rate=1e-3,
    baseline_decay=0.75,
    entropy_weight=0.0,
)


@functools.partial(jax.jit, static_argnums=2)
def learn_steadily(state, first, steps, noise):
    """Steps that are rewarded with their number, and something besides."""

    def reward(keys, architectures, step):
        return step + noise * (jax.vmap(jax.random.uniform)(keys) - architectures[:, 1])

    return STEADY.learn(state, jax.random.key(7), reward, first, steps)


@functools.cache
def steady_state():
    return STEADY.init(jax.random.key(0))


@pytest.mark.slow
def test_enas_learns_in_many_calls_what_it_learns_in_one():
    whole, seen = learn_steadily(steady_state(), 5, 3, 2.0)
    assert np.any(np.abs(whole.params.bias - steady_state().params.bias) > 5e-4)
    state, parts = steady_state(), []
    for step in range(5, 8):
        state, part = learn_steadily(state, step, 1, 2.0)
        parts.append(part)
    assert_trees_close(state, whole)
    assert_trees_close(jax.tree.map(lambda *x: sum(x) / 3, *parts), seen)


def test_enas_averages_rewards_over_the_steps_that_it_is_asked_for():
    state, seen = learn_steadily(steady_state(), 10, 3, 0.0)
    assert float(seen.reward) == 11  # 10, 11, 12
    # All but uniform: the sum of the decisions' entropies.
    np.testing.assert_allclose(seen.entropy, np.log(2 * 3 * 2), atol=1e-3)
    baseline = 0.75 * (0.75 * 10 + 0.25 * 11) + 0.25 * 12
    np.testing.assert_allclose(state.baseline.mean, baseline, rtol=1e-6)
    # It goes on in the next epoch.
    assert STEADY.begin_epoch(state, 1) is state
    state, seen = learn_steadily(state, 0, 3, 0.0)
    assert float(seen.reward) == 1
    baseline = 0.75 * (0.75 * (0.75 * baseline) + 0.25 * 1) + 0.25 * 2
    np.testing.assert_allclose(state.baseline.mean, baseline, rtol=1e-6)


def test_enas_can_forget_the_baseline_and_nothing_else():
    resetting = dataclasses.replace(STEADY, reset_baseline=True)
    state, _ = learn_steadily(steady_state(), 10, 3, 0.0)
    anew = resetting.begin_epoch(state, 1)
    assert anew.params is state.params
    assert anew.opt_state is state.opt_state
    # The first reward of the epoch is all of the average.
    state, _ = learn_steadily(anew, 3, 3, 0.0)
    baseline = 0.75 * (0.75 * 3 + 0.25 * 4) + 0.25 * 5
    np.testing.assert_allclose(state.baseline.mean, baseline, rtol=1e-6)


def test_enas_averages_rewards_over_samples_and_credits_later_entropies():
    strategy = dataclasses.replace(
        STEADY, samples_per_step=200, entropy_weight=10.0, entropy_mode="regularizer"
    )

    def reward(keys, architectures, step):
        del architectures, step
        return jax.vmap(jax.random.uniform)(keys)

    @jax.jit
    def learn(state, first):
        return strategy.learn(state, jax.random.key(7), reward, first, 1)

    # After the kernel come 3 and 2 choices, after the parent and the only one 2.
    later = 10 * (np.log(6) + 2 * np.log(2)) / 4
    for step in range(3):
        state, seen = learn(steady_state(), step)
        assert abs(seen.reward - 0.5) < 4.5 * np.sqrt(1 / 12 / 200)
        np.testing.assert_allclose(state.baseline.mean, seen.reward + later, atol=0.01)


def test_a_cold_controller_is_as_sure_as_its_bound_lets_it():
    # Logits are plus or minus the bound: two choices are equally probable, or one is
    # exp(2) times as probable as the other.
    cold = dataclasses.replace(STEADY, temperature=1e-9, tanh_constant=1.0)
    sure = 1 / (1 + np.exp(-2))
    kernels = []
    for seed in range(8):
        seen = frequencies(cold, cold.init(jax.random.key(seed))).reshape(2, 6) / DRAWS
        kernels.append(np.max(np.sum(seen, axis=1)))
    is_sure = np.abs(np.array(kernels) - sure) < 0.03
    is_even = np.abs(np.array(kernels) - 0.5) < 0.04
    assert np.all(is_sure | is_even)
    assert np.any(is_sure)

    unbounded = dataclasses.replace(cold, tanh_constant=None)
    assert np.max(frequencies(unbounded, steady_state())) == DRAWS


@pytest.mark.slow
def test_enas_finds_the_architecture_that_is_rewarded():
    def reward(keys, architectures, step):
        del keys, step
        return jnp.all(architectures == jnp.array(TARGET), 1).astype(jnp.float32)

    @jax.jit
    def learn(state):
        return ENAS.learn(state, jax.random.key(1), reward, 0, ENAS.steps)[0]

    target = ALL.index(TARGET)
    before = frequencies(ENAS, enas_state())[target] / DRAWS
    after = frequencies(ENAS, learn(enas_state()))[target] / DRAWS
    assert abs(before - 1 / 12) < 0.03
    assert after > 0.8


def test_the_distance_prior_is_of_ordered_choices_from_the_last():
    expected = [
        [0, 0, 0],
        [-9 / 6, -4 / 6, -1 / 6],
        [0, 0, 0],
        [0, 0, 0],
    ]
    np.testing.assert_allclose(distance_prior(SPACE.decisions), expected, rtol=1e-6)


def test_the_distance_prior_of_fewer_choices_starts_at_the_first():
    decisions = (
        Decision("parent", ("node_0", "node_1"), ordered=True),
        Decision("kernel", ("3", "5", "7")),
    )
    np.testing.assert_allclose(
        distance_prior(decisions), [[-4 / 6, -1 / 6, 0], [0, 0, 0]], rtol=1e-6
    )


def test_with_the_distance_prior_near_nodes_are_more_probable():
    strategy = Enas(SPACE, 4, CANDIDATES, hidden=4, prior="distance")
    seen = frequencies(strategy, enas_state()).reshape(2, 3, 2) / DRAWS
    weights = np.exp([-9 / 6, -4 / 6, -1 / 6])
    near = seen.sum(axis=(0, 2))
    # A controller that has learned nothing is uniform but for a percent.
    np.testing.assert_allclose(near, weights / weights.sum(), atol=0.04)
    np.testing.assert_allclose(seen.sum(axis=(1, 2)), [0.5, 0.5], atol=0.05)
    without = frequencies(ENAS, enas_state()).reshape(2, 3, 2).sum(axis=(0, 2)) / DRAWS
    np.testing.assert_allclose(without, np.full(3, 1 / 3), atol=0.04)


def make_config(**fields):
    """The paper's configuration with other values, of any type, in some fields."""
    config = enas_rnn_ptb.get_config()
    with config.ignore_type():
        for field, value in fields.items():
            *path, name = field.split(".")
            within = config
            for part in path:
                within = within[part]
            within[name] = value
    return config


def test_strategies_are_made_with_their_own_settings():
    found = strategy_of(make_config(), SPACE)
    expected = Enas(
        SPACE,
        steps=2000,
        candidates=Candidates(100, 10, 10),
        hidden=100,
        learning_rate=3.5e-4,
        samples_per_step=1,
        baseline_decay=0.95,
        reset_baseline=False,
        entropy_weight=1e-4,
        entropy_mode="reward",
        temperature=5.0,
        tanh_constant=2.5,
        prior="none",
    )
    assert found == expected
    found = strategy_of(make_config(**{"strategy.name": "random"}), SPACE)
    assert found == RandomSearch(SPACE, Candidates(1000, 10, 10))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("strategy.name", "evolution"),
        ("strategy.enas.steps", 0),
        ("strategy.enas.hidden", 1.5),
        ("strategy.enas.samples_per_step", 0),
        ("strategy.enas.learning_rate", 0.0),
        ("strategy.enas.temperature", -5.0),
        ("strategy.enas.baseline_decay", 1.0),
        ("strategy.enas.entropy_weight", -1e-4),
        ("strategy.enas.entropy_mode", "bonus"),
        ("strategy.enas.prior", "near"),
        ("strategy.enas.candidates.proposed", 0),
        ("strategy.enas.candidates.screen_batches", None),
        ("strategy.enas.candidates.keep", True),
        ("strategy.random.candidates.proposed", 0),
    ],
)
def test_a_wrong_field_is_named(field, value):
    config = make_config(**{field: value})
    if "random" in field:
        config.strategy.name = "random"
    with pytest.raises(ConfigError, match=rf"config\.{field} is {value!r}, expected"):
        strategy_of(config, SPACE)


def test_settings_of_a_strategy_that_is_not_asked_for_do_not_matter():
    config = make_config(**{"strategy.random.candidates.proposed": 0})
    assert isinstance(strategy_of(config, SPACE), Enas)
