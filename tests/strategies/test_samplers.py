"""Samplers of random search, against frequencies and steps in float64 numpy."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import scipy.stats
from helpers import toy
from helpers.parts import strategy_of
from helpers.written_search import BATCHES, RATE, WEIGHT_DECAY, Written, make_search

from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import ConfigError
from wpl_jax.jobs import search_config
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.nasbench201_architectures import canonical_form
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.samplers import Classes, Fair, Uniform
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import Decision

SPACE, NB201 = toy.ToySpace(), NasBench201((8, 8, 3), 10)
CHOICES = toy.ROWS


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def draw(strategy, number, repeats=1):
    keys = jax.random.split(jax.random.key(0), (repeats, number))
    return jax.vmap(lambda keys: strategy.propose_several((), keys).choice)(keys)


def test_fair_children_have_every_choice_equally_often():
    fair = RandomSearch(NB201, sampler=Fair())
    together = np.asarray(draw(fair, 10, 200))
    assert together.dtype == np.int32
    # Five children have each choice once, and the next five again.
    for five in (together[:, :5], together[:, 5:]):
        np.testing.assert_array_equal(
            np.sort(five, 1), np.arange(5)[:, None] + 0 * five
        )
    # The permutations of decisions, and those of one set and the next, are independent.
    first, second, again = together[:, 0, 0], together[:, 0, 1], together[:, 5, 0]
    for other in (second, again):
        table = np.zeros((5, 5))
        np.add.at(table, (first, other), 1)
        assert scipy.stats.chi2_contingency(table).pvalue > 1e-4


def test_one_fair_architecture_is_uniform():
    """As for the selection, which draws candidates one by one."""
    alone = draw(RandomSearch(SPACE, sampler=Fair()), 1, 3000)[:, 0]
    counts = np.zeros((CHOICES, CHOICES))
    np.add.at(counts, tuple(np.asarray(alone).T), 1)
    assert scipy.stats.chisquare(counts.ravel()).pvalue > 1e-4


def test_a_fair_step_moves_every_row_by_its_own_gradient():
    """On three devices: rows by their path's gradient, what all share by the mean."""
    devices = Devices(CHOICES, "children")
    search = make_search(
        strategy=RandomSearch(SPACE, Candidates(2, 1, 1), Fair()),
        children=CHOICES,
        children_per_step=CHOICES,
        devices=devices,
    )
    data, state = toy.make_data(), search.init(jax.random.key(1))
    written = Written(jax.device_get(state.shared.params), data, None)
    zero = np.int32(0)
    state = search.begin_epoch(state, zero)
    state = search.train_child(state, devices.replicate(data), zero, zero)
    paths = np.asarray(state.epoch.architectures.choice)
    np.testing.assert_array_equal(np.sort(paths, 0), [[0, 0], [1, 1], [2, 2]])
    length = len(data.train) // CHOICES  # of each child's part of the examples
    for step in range(BATCHES):
        batches = [written.data[0][child * length + step] for child in range(CHOICES)]
        gradients = list(map(written.gradient, paths, batches))
        moved = {name: WEIGHT_DECAY * value for name, value in written.params.items()}
        for path, gradient in zip(paths, gradients, strict=True):
            moved["shared"] = moved["shared"] + gradient["shared"] / CHOICES
            for decision, name in enumerate("ab"):
                moved[name][path[decision]] += gradient[name][0]
        for name in moved:
            written.params[name] = written.params[name] - RATE * moved[name]
    for name, value in jax.device_get(state.shared.params).items():
        np.testing.assert_allclose(value, written.params[name], rtol=2e-5)


@pytest.mark.parametrize(("exclude_none", "number"), [(False, 6466), (True, 3131)])
def test_classes_are_drawn_uniformly(exclude_none, number):
    space = dataclasses.replace(NB201, exclude_none=exclude_none)
    drawn = np.asarray(draw(RandomSearch(space, sampler=Classes()), 10 * number)[0])
    assert drawn.dtype == np.int32
    distinct, counts = np.unique(drawn, axis=0, return_counts=True)
    # No two are isomorphic, and with as many draws nearly all are among them.
    forms = {canonical_form(choice + exclude_none) for choice in distinct}
    assert len(forms) == len(distinct) > 0.999 * number
    counts = np.concatenate([counts, np.zeros(number - len(counts), int)])
    assert scipy.stats.chisquare(counts).pvalue > 1e-4


class Unequal(toy.ToySpace):
    decisions = (Decision("a", ("0", "1", "2")), Decision("b", ("0", "1")))


def test_a_sampler_that_does_not_fit_the_space_is_refused():
    with pytest.raises(SettingError, match=r"'fair', .* space toy, .* 2 to 3 choices"):
        RandomSearch(Unequal(), sampler=Fair())
    with pytest.raises(SettingError, match=r"'classes', .* toy, which does not list"):
        RandomSearch(SPACE, sampler=Classes())


@pytest.mark.parametrize("children_per_step", [1, 2, 4])
def test_children_that_cannot_be_fair_are_refused(children_per_step):
    config = toy.get_config()
    config.strategy.name = "random"
    config.strategy.random.sampler = "fair"
    assert strategy_of(config, SPACE).sampler == Fair()
    config.search.children = 12
    config.search.children_per_step = children_per_step
    expected = (
        rf"config\.search\.children_per_step is {children_per_step}, expected a "
        r"multiple of 3, the choices of each decision, as the sampler is 'fair'"
    )
    with pytest.raises(ConfigError, match=expected):
        search_config.make_search(config)
    config.search.children_per_step = 3
    search, *_ = search_config.make_search(config)
    assert search.strategy.sampler == Fair()


def test_the_default_is_what_the_space_draws():
    strategy, key = RandomSearch(SPACE), jax.random.key(3)
    assert strategy.sampler == Uniform()
    assert strategy.propose((), key).choice.tolist() == SPACE.sample(key).tolist()
