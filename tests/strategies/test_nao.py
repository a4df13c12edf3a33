"""NAO on a small space, where the best architectures are known."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from wpl_jax.common.settings import SettingError
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.strategies.nao import Nao
from wpl_jax.strategies.nao_networks import Networks
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import Decision, Space


class Decisions(Space):
    """All that strategies know of a space."""

    name = "decisions"
    decisions = tuple(Decision(str(i), tuple("abcd")) for i in range(6))

    def costs(self, architecture):
        """One parameter, and ten for each ``d``."""
        return {"parameters": 1 + 10 * jnp.sum(architecture.choice == 3)}


SPACE = Decisions()
CANDIDATES = Candidates(proposed=8, screen_batches=1, keep=2)
NETWORKS = Networks(8, 16, 1, 16, learning_rate=0.01, batch_size=24)
NAO = Nao(
    SPACE,
    pool=40,
    every=3,
    updates=200,
    score_batches=2,
    target="reward",
    held_out=0.25,
    networks=NETWORKS,
    seeds=10,
    step_size=3.0,
    new=10,
    random=3,
    candidates=CANDIDATES,
)


def count_a(choices):
    """What is rewarded: the share of decisions for ``a``."""
    return jnp.mean(choices == 0, -1)


def reward(keys, choices, step):
    """Different from batch to batch by up to .2, but not from one to another in it."""
    del step
    return count_a(choices) + 0.2 * jax.vmap(jax.random.uniform)(keys)


@functools.partial(jax.jit, static_argnums=(0, 3))
def learn(strategy, state, first, steps):
    return strategy.learn(state, jax.random.key(7), reward, first, steps)


@functools.cache
def start():
    return jax.jit(NAO.init)(jax.random.key(0))


PART = 50  # updates in a call


@functools.cache
def parts():
    """The states after the calls of a round, and what they return besides."""
    found = [(start(), None)]
    for first in range(0, NAO.updates, PART):
        found.append(learn(NAO, found[-1][0], first, PART))
    return found[1:]


def after_a_round():
    return parts()[-1]


def measured():
    """After a part of a round, when nothing has been replaced."""
    return parts()[0][0]


def test_a_round_comes_after_some_epochs():
    steps = [NAO.steps_after(epoch) for epoch in range(7)]
    assert steps == [0, 0, 200, 0, 0, 200, 0]


@pytest.mark.slow
def test_the_pool_is_measured_on_the_same_batches():
    pool = measured().pool
    noise = pool.rewards - count_a(pool.choices)
    np.testing.assert_allclose(noise, noise[0], atol=1e-6)
    # The mean of two batches.
    keys = jax.random.split(jax.random.split(jax.random.key(7), 3)[0], 2)
    expected = 0.2 * np.mean([jax.random.uniform(key) for key in keys])
    np.testing.assert_allclose(noise[0], expected, rtol=1e-5)


@pytest.mark.slow
def test_children_are_drawn_from_the_pool():
    draw = jax.jit(jax.vmap(NAO.propose, (None, 0)))
    drawn = draw(start(), jax.random.split(jax.random.key(0), 2000)).choice
    assert drawn.dtype == jnp.int32
    same = np.all(drawn[:, None] == start().pool.choices[None], -1)
    assert np.all(same.sum(1) == 1)
    assert scipy.stats.chisquare(same.sum(0)).pvalue > 1e-4


@pytest.mark.slow
def test_the_second_version_draws_the_newest_by_their_parameters():
    strategy = dataclasses.replace(NAO, sampling="parameters", trains="newest")
    state, _ = after_a_round()
    weights = np.asarray(strategy._weights(state.pool))
    number_of_d = np.sum(np.asarray(state.pool.choices) == 3, 1)
    newest = np.asarray(state.pool.born) == 1
    assert 0 < newest.sum() < 40
    np.testing.assert_array_equal(weights, np.where(newest, 1 + 10 * number_of_d, 0))
    every = dataclasses.replace(NAO, sampling="parameters")._weights(state.pool)
    np.testing.assert_array_equal(every, 1 + 10 * number_of_d)


@pytest.mark.slow
def test_a_round_finds_better_architectures_than_those_it_starts_from():
    before = measured().pool
    state, seen = after_a_round()
    np.testing.assert_allclose(seen.reward, np.mean(before.rewards), rtol=1e-6)
    np.testing.assert_allclose(seen.entropy, np.log(40), rtol=1e-5)
    assert int(state.round) == 1
    assert int(state.seen.found) == 10
    new = np.asarray(state.pool.born) == 1
    assert new.sum() == 13
    # Three random ones, and ten that the gradient leads to. They take the places of
    # those with the lowest rewards.
    values, old = (np.asarray(count_a(p.choices)) for p in (state.pool, before))
    assert old[new].max() <= old[~new].min()
    improved = np.sort(values[new])[-10:]
    assert improved.mean() > np.sort(old)[-NAO.seeds :].mean() + 0.05
    assert np.isnan(np.asarray(state.pool.rewards))[new].all()


def test_predictions_rise_along_the_gradient():
    state, _ = after_a_round()
    coder, params = NAO._coder, state.params

    @jax.jit
    def climb():
        encoded = coder.encode(params, start().pool.choices)
        slope = coder.slope(params, encoded)
        steps = (0.0, 0.01, 0.1, 1.0)
        moved = [coder.move(encoded, slope, step) for step in steps]
        return jnp.array([coder.predict(params, x) for x in moved])

    predicted = np.asarray(climb())
    assert np.all(np.diff(predicted, axis=0) > 0)


def test_the_predictor_ranks_architectures_that_it_is_not_trained_on():
    seen = after_a_round()[0].seen.held_out
    places = np.arange(40)[3::4]  # a quarter, evenly spread
    np.testing.assert_array_equal(seen.choices, measured().pool.choices[places])
    np.testing.assert_array_equal(seen.measured, measured().pool.rewards[places])
    tau = scipy.stats.kendalltau(seen.predicted, seen.measured).statistic
    np.testing.assert_allclose(seen.correlation, tau, atol=1e-6)
    assert tau > 0.5
    watched = NAO.watch(after_a_round()[0])
    np.testing.assert_array_equal(watched["predicted"], seen.predicted)
    assert 0 < float(watched["reconstructed"]) <= 1


def test_without_held_out_architectures_there_is_no_empty_array():
    strategy = dataclasses.replace(NAO, held_out=0.0)
    state = jax.eval_shape(strategy.init, jax.random.key(0))
    assert all(leaf.size for leaf in jax.tree.leaves(state))
    after, _ = jax.eval_shape(functools.partial(learn, strategy, steps=PART), state, 0)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert set(strategy.watch(state)) == {"rounds", "reconstructed", "found"}


def test_held_out_rewards_change_nothing_in_the_networks():
    held_out = np.arange(40) % 4 == 3
    state = measured()
    pool = state.pool
    spoiled = jnp.where(held_out, pool.rewards[0], pool.rewards)
    # The largest and the smallest scale the target, so these stay.
    ends = [int(jnp.argmax(pool.rewards)), int(jnp.argmin(pool.rewards))]
    spoiled = spoiled.at[jnp.array(ends)].set(pool.rewards[jnp.array(ends)])
    other = state._replace(pool=pool._replace(rewards=spoiled))
    assert np.any(np.asarray(spoiled != pool.rewards))
    found = [learn(NAO, one, PART, PART)[0].params for one in (state, other)]
    jax.tree.map(np.testing.assert_array_equal, *found)


@pytest.mark.slow
def test_a_round_in_parts_is_a_round():
    whole, seen = learn(NAO, start(), 0, NAO.updates)
    for found, expected in zip(
        jax.tree.leaves(after_a_round()[0]), jax.tree.leaves(whole), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(np.mean([p.reward for _, p in parts()]), seen.reward)


def test_rewards_of_losses_that_are_not_finite_are_the_lowest_targets():
    strategy = dataclasses.replace(NAO, target="log_reward")
    pool = start().pool
    rewards = jnp.full(40, jnp.nan).at[:4].set(jnp.array([0.0, 0.5, 2.0, 1.0]))
    target = strategy._target(pool._replace(rewards=rewards))
    np.testing.assert_allclose(target[:4], [0, 0, 1, 0.5], atol=1e-6)
    target = NAO._target(pool._replace(rewards=rewards))
    np.testing.assert_allclose(target[:4], [0, 0.25, 1, 0.5], atol=1e-6)
    equal = NAO._target(pool._replace(rewards=jnp.ones(40)))
    np.testing.assert_array_equal(equal, 0)


def test_the_candidates_are_the_best_of_the_pool():
    state = measured()
    keys = jax.random.split(jax.random.key(0), 8)
    found = NAO.propose_finalists(state, keys).choice
    best = np.argsort(-np.asarray(state.pool.rewards), kind="stable")[:8]
    np.testing.assert_array_equal(found, state.pool.choices[best])
    strategy = dataclasses.replace(NAO, finalists_by="predicted")
    found = strategy.propose_finalists(state, keys).choice
    predicted = strategy._coder.expect(state.params, state.pool.choices)
    expected = state.pool.choices[np.argsort(-np.asarray(predicted))[:8]]
    np.testing.assert_array_equal(found, expected)


def test_empty_places_are_not_among_the_best():
    pool = measured().pool
    filled = jnp.arange(40) < 2
    pool = pool._replace(
        rewards=jnp.where(filled, pool.rewards, jnp.nan),
        born=jnp.where(filled, pool.born, -1),
    )
    found = NAO._best(pool, pool.rewards, 5)
    a, b = pool.choices[np.argsort(-pool.rewards[:2])]
    np.testing.assert_array_equal(found, [a, b, a, b, a])


def test_a_search_without_a_round_is_refused():
    NAO.check_epochs(3)
    with pytest.raises(
        SettingError, match=r"^epochs is 2, expected at least 3, the ep"
    ):
        NAO.check_epochs(2)


@pytest.mark.slow
def test_the_pool_of_a_benchmark_has_no_isomorphic_architectures():
    space = NasBench201((8, 8, 3), 10)
    strategy = dataclasses.replace(NAO, space=space)
    state = jax.jit(strategy.init)(jax.random.key(0))
    for _ in range(2):
        state, _ = learn(strategy, state, 0, NAO.updates)
    assert int(state.round) == 2
    forms = {space.canonical_form(choice) for choice in np.asarray(state.pool.choices)}
    assert len(forms) == 40


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool", 0),
        ("initial", 41),
        ("every", 0),
        ("updates", 0),
        ("score_batches", 0),
        ("target", "rank"),
        ("held_out", 1.0),
        ("reset_optimizer", 1),
        ("seeds", 41),
        ("step_size", 0.0),
        ("most_steps", 0),
        ("new", 38),
        ("random", -1),
        ("sampling", "fair"),
        ("trains", "all"),
        ("finalists_by", "chance"),
    ],
)
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(SettingError, match=rf"^{name} is {value!r}, expected"):
        dataclasses.replace(NAO, **{name: value})
