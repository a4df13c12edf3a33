"""Rewards with a limit, and what may be selected under it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.written_search import make_search

from wpl_jax.common.settings import SettingError
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.spaces.costs import Costs
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.rewards import Limited, MnasNet, TaskReward
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import PAD, Architecture, gather
from wpl_jax.tasks import Evaluation, ranking


class Growing(toy.ToySpace):
    """A child has 2 parameters, and 2 for each decision that is not 0."""

    def rows(self, architecture):
        rows = super().rows(architecture)
        for name, choice in zip("ab", architecture.choice, strict=True):
            rows[name] = jnp.where(choice > 0, rows[name], PAD)
        return rows


SPACE = toy.ToySpace()
TASK = toy.ToyTask(Growing())
EVALUATION = Evaluation(jnp.float32(0.5), jnp.float32(1.0))


def test_what_is_beyond_the_limit_is_worth_less():
    reward = Limited(4, exponent=2.0)
    for choice, share in (([0, 0], 1), ([0, 2], 1), ([1, 1], (4 / 6) ** 2)):
        architecture = Architecture(jnp.array(choice))
        found = reward(TASK, EVALUATION, architecture)
        np.testing.assert_allclose(found, np.exp(-0.5) * share, rtol=1e-6)
        assert bool(reward.allows(TASK.space, architecture)) == (share == 1)
        assert float(TaskReward()(TASK, EVALUATION, architecture)) == float(
            TASK.reward(EVALUATION)
        )


@pytest.mark.slow
def test_costs_are_the_parameters_of_the_child():
    space = MicroCell((8, 8, 1), 3, num_nodes=3, filters=4, layers=3)
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    ones = jax.tree.map(lambda leaf: jnp.asarray(np.ones(leaf.shape)), shapes)
    for seed in range(3):
        architecture = Architecture(space.sample(jax.random.key(seed)))
        rows = space.rows(architecture)
        child = gather(ones, rows)
        # Places that are filled up hold zeros.
        expected = sum(int(np.sum(leaf)) for leaf in jax.tree.leaves(child))
        assert int(space.costs(architecture)["parameters"]) == expected


@pytest.mark.parametrize("limit", [2, 4, 6])
def test_the_selection_is_within_the_limit(limit):
    strategy = RandomSearch(TASK.space, Candidates(20, 2, 4))
    search = make_search(TASK, strategy=strategy)
    search = type(search)(**vars(search) | {"reward": Limited(limit)})
    data, state = toy.make_data(), search.propose(search.init(jax.random.key(3)))
    choices = np.asarray(state.selection.architectures.choice)
    costs = 2 + 2 * np.sum(choices > 0, 1)
    np.testing.assert_array_equal(state.selection.allowed, costs <= limit)
    for index in range(20):
        state = search.screen(state, data, np.int32(index))
    state = search.keep(state)
    errors = np.asarray(state.selection.screened.error)
    order = np.lexsort((errors, costs > limit))
    np.testing.assert_array_equal(state.selection.kept, order[:4])


def test_what_is_not_allowed_ranks_behind_what_is_not_finite():
    loss = jnp.array([1.0, 2.0, jnp.nan, 0.5])
    found = ranking(Evaluation(loss, loss), jnp.array([True, True, True, False]))
    np.testing.assert_array_equal(found, [0, 1, 2, 3])


def test_wrong_settings_are_refused():
    for wrong in ({"limit": 0}, {"limit": 1, "exponent": -1}, {"limit": 1, "cost": ""}):
        with pytest.raises(SettingError):
            Limited(**wrong)
    architecture = Architecture(jnp.array([0, 0]))
    with pytest.raises(ValueError, match=r"no cost 'flops', expected one of \['param"):
        Limited(1, "flops").allows(TASK.space, architecture)


@pytest.mark.parametrize(
    ("below", "above"), [(-0.07, -0.07), (0.0, -1.0), (-0.1, -2.0)]
)
def test_a_power_of_the_cost_weights_the_reward(below, above):
    reward = MnasNet(4.0, "parameters", below, above)
    for choice, cost in (([0, 0], 2), ([0, 2], 4), ([1, 1], 6)):
        architecture = Architecture(jnp.array(choice))
        exponent = below if cost <= 4 else above
        expected = np.exp(-0.5) * (cost / 4) ** exponent
        found = reward(TASK, EVALUATION, architecture)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        # Minus the logarithm of the reward is the loss with the term.
        term = reward.loss(TASK.space, architecture)
        np.testing.assert_allclose(0.5 + term, -np.log(expected), rtol=1e-6)
        assert bool(reward.allows(TASK.space, architecture))


def test_a_child_that_costs_nothing_has_a_finite_reward():
    """As of a network with choices, one of which has no parameters."""

    class Free(Growing):
        def rows(self, architecture):
            return super().rows(architecture) | {"shared": jnp.full(2, PAD)}

    free, task = Architecture(jnp.array([0, 0])), toy.ToyTask(Free())
    assert int(task.space.costs(free)["parameters"]) == 0
    found = Limited(4)(task, EVALUATION, free)
    np.testing.assert_allclose(found, np.exp(-0.5), rtol=1e-6)
    assert float(Limited(4).loss(task.space, free)) == 0
    found = MnasNet(4.0, "parameters")(task, EVALUATION, free)
    np.testing.assert_allclose(found, np.exp(-0.5) * 1e-6**-0.07, rtol=1e-5)


def test_a_strategy_sees_no_reward_that_is_not_finite():
    class Own(TaskReward):
        def __call__(self, task, evaluation, architecture):
            reward = super().__call__(task, evaluation, architecture)
            return reward / jnp.where(architecture.choice[0] > 0, 1.0, 0.0)

    params, keys = SPACE.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 4)
    choices = jnp.array([[0, 1], [1, 1], [2, 0], [0, 0]])
    task, data = toy.ToyTask(), toy.make_data()
    found, plain = (
        Evaluator(task).rewards(params, Architecture(choices), data, keys, reward)
        for reward in (Own(), TaskReward())
    )
    assert np.all(plain > 0)
    np.testing.assert_array_equal(found, plain * np.array([0, 1, 1, 0]))


def test_the_hard_term_of_a_loss_is_zero_below_the_limit():
    for choice, cost in (([0, 0], 2), ([1, 1], 6)):
        term = Limited(4, exponent=2.0).loss(
            TASK.space, Architecture(jnp.array(choice))
        )
        np.testing.assert_allclose(term, 2 * max(0, np.log(cost / 4)), rtol=1e-6)
    assert float(TaskReward().loss(TASK.space, Architecture(jnp.array([1, 1])))) == 0


def test_a_reward_whose_cost_the_space_does_not_count_is_refused():
    with pytest.raises(SettingError, match=r"one of \['parameters'\], which the space"):
        MnasNet(1.0, "latency_ms", costs=Costs(TASK.space))
