"""Paths drawn by the norms of their gradients, against float64 numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import toy
from helpers.rehearsing import Rehearsing
from helpers.written_search import BATCHES, CHILDREN, Written, make_search

from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import EDGES, NasBench201
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.strategies.path_importance import PathImportance, State
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import PAD, Architecture, Decision, gather, norms_of_choices

SPACE, EPOCHS, RATE = toy.ToySpace(), 4, 0.25
STRATEGY = PathImportance(SPACE, Candidates(2, 1, 1), EPOCHS, RATE)


class Seeing(Rehearsing):
    """Keeps the running means of the norms; a and b have the same choices."""

    norms = np.zeros(toy.ROWS)

    def gradient(self, choice, batch):
        found = super().gradient(choice, batch)
        self.norms = after(self.norms, [choice], [found])
        return found


def after(norms, choices, gradients):
    """The means after a step of some children."""
    seen = [[] for _ in norms]
    for choice, gradient in zip(choices, gradients, strict=True):
        for decision, name in enumerate("ab"):
            seen[choice[decision]].append(np.linalg.norm(gradient[name]))
    return np.array(
        [
            (1 - RATE) * old + RATE * np.mean(new) if new else old
            for old, new in zip(norms, seen, strict=True)
        ]
    )


def test_probabilities_are_those_of_the_equation():
    search, data = make_search(strategy=STRATEGY), toy.make_data()
    state = search.init(jax.random.key(1))
    written = Seeing(state.shared.params, data, None)
    for epoch in range(EPOCHS):
        before, written.norms = written.norms, np.zeros(toy.ROWS)
        state = search.begin_epoch(state, np.int32(epoch))
        share, uniform = max(epoch - 1, 0) / EPOCHS, np.full(toy.ROWS, 1 / toy.ROWS)
        by_norm = before / before.sum() if epoch else uniform
        expected = share * by_norm + (1 - share) * uniform
        found = state.strategy.probabilities[0]
        np.testing.assert_allclose(found, expected, rtol=2e-5)
        assert (np.ptp(expected) > 0.01) == (share > 0)
        for index in range(CHILDREN):
            numbers = np.int32(epoch), np.int32(index)
            state = search.train_and_protect(state, data, *numbers)
        for index, child in enumerate(np.asarray(state.epoch.architectures.choice)):
            written.train_with(child, [], epoch, index)
        np.testing.assert_allclose(state.strategy.norms[0], written.norms, rtol=2e-5)


@pytest.mark.slow
def test_a_step_of_children_together_is_seen_as_their_mean():
    """On two devices, which divide the children."""
    devices = Devices(2, "children")
    search = make_search(
        strategy=STRATEGY,
        children=2,
        children_per_step=2,
        devices=devices,
    )
    search = dataclasses.replace(search, batches=1)
    data, zero = toy.make_data(), np.int32(0)
    state = search.begin_epoch(search.init(jax.random.key(0)), zero)
    written = Written(jax.device_get(state.shared.params), data, None)
    state = search.train_and_protect(state, devices.replicate(data), zero, zero)
    choices = np.asarray(state.epoch.architectures.choice)
    batches = written.data[0][[0, len(data.train) // 2]]
    gradients = list(map(written.gradient, choices, batches))
    expected = after(np.zeros(toy.ROWS), choices, gradients)
    np.testing.assert_allclose(state.strategy.norms[0], expected, rtol=2e-5)


def test_a_step_that_is_not_finite_is_not_seen():
    data, zero = toy.make_data(), np.int32(0)
    data = data._replace(train=data.train.at[0].set(jnp.inf))
    search = make_search(strategy=STRATEGY)
    state = search.begin_epoch(search.init(jax.random.key(0)), zero)
    state = search.train_and_protect(state, data, zero, zero)
    assert int(state.skipped.of_epoch) == 1 < BATCHES
    assert np.all(np.isfinite(state.strategy.norms))
    assert np.any(state.strategy.norms > 0)


def test_a_child_that_has_diverged_does_not_count_in_the_mean():
    state = STRATEGY.init(jax.random.key(0))
    norms = jnp.array([[2.0, 0.0], [0.0, 0.0], [4.0, 6.0]])
    choices = Architecture(jnp.array([[0, 1], [0, 1], [0, 2]]))
    found = STRATEGY.after_step(state, choices, norms).norms
    np.testing.assert_allclose(found, [[RATE * 3, 0, RATE * 6]], rtol=1e-6)


class Mixed(toy.ToySpace):
    """Two kinds of decisions, one of which has fewer choices."""

    decisions = (
        Decision("a", ("0", "1", "2")),
        Decision("b", ("0", "1", "2")),
        Decision("c", ("x", "y")),
    )


def test_paths_are_drawn_with_the_probabilities_and_candidates_uniformly():
    strategy = PathImportance(Mixed(), Candidates(2, 1, 1), EPOCHS)
    norms = np.array([[1.0, 0.0, 3.0], [0.0, 0.0, 0.0]])
    state = strategy.begin_epoch(State(jnp.array(norms), None), np.int32(EPOCHS))
    share = (EPOCHS - 1) / EPOCHS
    expected = np.array([[0.25, 0, 0.75], [0.5, 0.5, 0]])
    expected[0] = share * expected[0] + (1 - share) / 3
    np.testing.assert_allclose(state.probabilities, expected, rtol=1e-6)
    assert not np.any(state.norms)
    keys = jax.random.split(jax.random.key(0), 6000)

    @jax.jit
    def draw(keys):
        propose, finalists = strategy.propose, strategy.finalists
        return [
            jax.vmap(f, (None, 0))(state, keys).choice for f in (propose, finalists)
        ]

    even = np.array([[1 / 3] * 3, [0.5, 0.5, 0]])
    for drawn, probabilities in zip(draw(keys), (expected, even), strict=True):
        assert drawn.dtype == jnp.int32
        for decision, kind in enumerate((0, 0, 1)):
            counts = np.bincount(drawn[:, decision], minlength=3)
            there = probabilities[kind] > 0
            assert not np.any(counts[~there])
            chances = probabilities[kind][there] * len(keys)
            assert scipy.stats.chisquare(counts[there], chances).pvalue > 1e-4


SPACES = {
    "toy": SPACE,
    "recurrent_cell": RecurrentCell(5, hidden=2, num_nodes=4),
    "micro_cell": MicroCell((8, 8, 1), 3, num_nodes=2, filters=2, layers=3),
    "nasbench201": NasBench201((8, 8, 1), 3, channels=2, cells=2),
}


@pytest.mark.slow_except("toy", "nasbench201", "recurrent_cell")
@pytest.mark.parametrize("name", SPACES)
def test_the_rows_of_a_choice_are_those_that_no_other_choice_uses(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    params = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes
    )
    rows_of = make_rows_of(space)
    counts = [len(decision.choices) for decision in space.decisions]
    total = 0
    for _ in range(3):
        choice = rng.integers(counts).astype(np.int32)
        own = rows_of(choice)
        expected = np.zeros(len(counts))
        for decision, count in enumerate(counts):
            others = set() if count > 1 else own
            for other in set(range(count)) - {choice[decision]}:
                changed = choice.copy()
                changed[decision] = other
                others |= rows_of(changed)
            leaves = jax.tree.leaves(params)
            expected[decision] = sum(
                np.linalg.norm(leaves[place][row].astype(float))
                for place, row in own - others
            )
        found = norms_of(space, params, choice)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        total += expected
    assert np.any(total > 0)


@functools.partial(jax.jit, static_argnums=0)
def norms_of(space, params, choice):
    """The norms of the parameters themselves."""
    child = gather(params, space.rows(Architecture(choice)))
    return norms_of_choices(space, choice, child)


def make_rows_of(space):
    """A function from a choice to pairs of a parameter's place and a row."""

    @jax.jit
    def indices(choice):
        rows = jax.tree.leaves(space.rows(Architecture(choice)))
        return [jnp.array([]) if isinstance(x, slice) else x for x in rows]

    def rows_of(choice):
        return {
            (place, int(row))
            for place, index in enumerate(indices(choice))
            for row in np.asarray(index)
            if row < PAD
        }

    return rows_of


def test_operations_without_weights_have_no_norm():
    space = SPACES["nasbench201"]
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(np.ones(x.shape, np.float32)), shapes)
    choice = jnp.array([0, 1, 2, 3, 4, 2])
    found = norms_of(space, params, choice)
    # Two cells in each stage, with 2, 4 and 8 channels, of ones.
    small = 2 * (2 + 4 + 8)
    assert len(found) == len(EDGES)
    np.testing.assert_allclose(found, [0, 0, small, 3 * small, 0, small], rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"rate": 0.0}, {"rate": 1.5}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        PathImportance(SPACE, **wrong)
