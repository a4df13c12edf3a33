"""Learning rates and momenta that depend on the child, against float64 numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.written_search import (
    BATCHES,
    CHILDREN,
    RATE,
    WEIGHT_DECAY,
    Written,
    make_search,
    run_epoch,
)

from wpl_jax.common.settings import SettingError
from wpl_jax.configs import gaea_nb201_small
from wpl_jax.engine.complexity import Complexity
from wpl_jax.engine.optimizers import OPTIMIZERS, Children, Sgd
from wpl_jax.engine.separate_momentum import SeparateMomentum
from wpl_jax.errors import ConfigError
from wpl_jax.jobs import build, search_config
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.strategies.differentiable import Differentiable
from wpl_jax.supernet import Architecture

EPOCHS, OMEGA, TAU, MOMENTUM = 4, -0.75, 0.5, 0.75


def test_the_rate_falls_more_slowly_for_children_with_more_parameters():
    space = NasBench201((8, 8, 1), 10, channels=4, cells=2)
    # Operations none, skip, 1x1, 3x3, pooling; edges of both cells of each stage.
    choices = np.array([[0, 1, 4, 1, 0, 4], [2, 2, 1, 0, 4, 4], [3, 3, 3, 3, 2, 1]])
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    total = sum(p.size for p in jax.tree.leaves(shapes))
    kernel = sum((4 * 2**stage) ** 2 for stage in range(3))  # 1x1, of all stages
    count_1x1, count_3x3 = np.sum(choices == 2, 1), np.sum(choices == 3, 1)
    own = total - 2 * kernel * (6 * 10 - count_1x1 - 9 * count_3x3)
    schedule = Complexity(EPOCHS, OMEGA, TAU)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def rates(choices, epoch):
        def of(choices):
            return schedule.rate_of(2.0, epoch, Children(space, Architecture(choices)))

        return jax.vmap(of)(choices[:, None]), of(choices)

    of_each, of_all = rates(jnp.asarray(choices), jnp.arange(EPOCHS + 2))
    gamma = OMEGA * np.log(own / total) + TAU
    left = np.maximum(1 - np.arange(EPOCHS + 2) / EPOCHS, 0)
    expected = 2 * left[:, None] ** gamma
    np.testing.assert_allclose(of_each, expected, rtol=1e-5)
    assert np.all(np.diff(expected[1]) > 0)
    np.testing.assert_allclose(of_all, np.mean(expected, 1), rtol=1e-5)
    # Of a training from scratch, whose network has all of its parameters.
    np.testing.assert_allclose(schedule.rate(2.0, 1), 2 * 0.75**TAU, rtol=1e-6)


class Sized(toy.ToySpace):
    """Children that differ in their number of parameters."""

    def costs(self, architecture):
        return {"parameters": 3 + 4 * architecture.choice[0]}


class Separate(Written):
    """A rate and a momentum of its own for each child, in numpy."""

    def __init__(self, params, data):
        super().__init__(params, data, None)
        self.traces = [
            {k: np.zeros_like(v) for k, v in self.params.items()}
            for _ in range(toy.ROWS)
        ]

    def rate(self, choice, epoch):
        gamma = OMEGA * np.log((3 + 4 * choice[0]) / 14) + TAU
        return RATE * (1 - epoch / EPOCHS) ** gamma

    def train(self, choice, epoch, index):
        traces = self.traces[choice[1]]
        for i in range(BATCHES):
            number = (epoch * CHILDREN + index) * BATCHES + i
            batch = self.data[0][number % len(self.data[0])]
            gradient = self.gradient(choice, batch)
            for k, part in self.parts(choice).items():
                step = gradient[k] + WEIGHT_DECAY * self.params[k][part]
                trace = traces[k][part] = MOMENTUM * traces[k][part] + step
                moved = step + MOMENTUM * trace
                self.params[k][part] -= self.rate(choice, epoch) * moved


def optimizer(**changes):
    schedule = Complexity(EPOCHS, OMEGA, TAU)
    settings = {"momentum": MOMENTUM, "decision": "b", "nesterov": True} | changes
    return SeparateMomentum(RATE, schedule, None, WEIGHT_DECAY, **settings)


def test_children_have_a_rate_of_their_size_and_a_momentum_of_their_cluster():
    search = make_search(toy.ToyTask(Sized()))
    search = dataclasses.replace(search, optimizer=optimizer())
    data, state = toy.make_data(), search.init(jax.random.key(1))
    written, seen = Separate(state.shared.params, data), []
    for epoch in range(3):
        state = run_epoch(search, state, data, epoch)
        for index, choice in enumerate(np.asarray(state.epoch.architectures.choice)):
            written.train(choice, epoch, index)
            seen.append(tuple(choice))
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
    assert [len(set(numbers)) for numbers in zip(*seen, strict=True)] == [3, 3]
    traces = next(s.traces for s in state.shared.opt_state if hasattr(s, "traces"))
    for found, expected in zip(traces, written.traces, strict=True):
        for name, value in found.items():
            np.testing.assert_allclose(value, expected[name], rtol=2e-4, atol=1e-6)


def test_a_decision_or_number_of_children_that_does_not_fit_is_named():
    with pytest.raises(SettingError, match=r"decision is 'c', expected one of \['a'"):
        dataclasses.replace(make_search(), optimizer=optimizer(decision="c"))
    config = toy.get_config()
    config.optimizer.name = "separate_momentum"
    with config.unlocked():
        config.optimizer.separate_momentum = {"learning_rate": 0.1, "decision": "c"}
    said = r"config\.optimizer\.separate_momentum\.decision is 'c'"
    with pytest.raises(ConfigError, match=said):
        search_config.make_search(config)
    config.optimizer.separate_momentum.decision = "b"
    config.search.children_per_step = 2
    said = r"config\.search\.children_per_step is 2, expected 1"
    with pytest.raises(ConfigError, match=said):
        search_config.make_search(config)


@pytest.mark.parametrize("relaxation", ["mixture", "gumbel"])
@pytest.mark.parametrize(
    "of_children", [optimizer(), Sgd(0.1, Complexity(EPOCHS, OMEGA, TAU))]
)
def test_what_is_no_single_child_has_no_rate_or_momentum_of_it(of_children, relaxation):
    strategy = Differentiable(toy.ToySpace(), relaxation=relaxation)
    search = make_search(strategy=strategy)
    with pytest.raises(SettingError, match="do not depend on the child"):
        dataclasses.replace(search, optimizer=of_children)


def test_a_configuration_is_told_which_optimizer_does_not_fit():
    config = gaea_nb201_small.get_config("digits")
    momenta = {"learning_rate": 0.1}
    config.optimizer = build.choice(
        OPTIMIZERS, "separate_momentum", separate_momentum=momenta
    )
    with pytest.raises(ConfigError, match=r"^config\.optimizer is .* do not depend on"):
        search_config.make_search(config)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"omega": 0.5}, {"tau": -1.0}])
def test_wrong_settings_of_the_schedule_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Complexity(**wrong)


@pytest.mark.parametrize("wrong", [{"momentum": None}, {"decision": 3}])
def test_wrong_settings_of_the_optimizer_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        optimizer(**wrong)
