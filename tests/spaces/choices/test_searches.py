"""Strategies and penalties on networks with choices."""

import jax
import numpy as np
import pytest
from helpers.choosing import CLASSES, SHAPE, Modular, plain
from helpers.parts import make_protection

import wpl_jax
from wpl_jax.data import images_of_arrays
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.protections import PENALTIES, NoProtection
from wpl_jax.search import Search
from wpl_jax.spaces.architecture_json import names_of_choices
from wpl_jax.strategies.architecture_optimizers import ExponentiatedGradient
from wpl_jax.strategies.differentiable import Differentiable
from wpl_jax.strategies.enas import Enas
from wpl_jax.strategies.nao import Nao
from wpl_jax.strategies.nao_networks import Networks
from wpl_jax.strategies.path_importance import PathImportance
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import mask
from wpl_jax.tasks.image_classification import ImageClassification

FEW = Candidates(2, 1, 1)
TINY = Networks(hidden=4, embedding=4)
STRATEGIES = {
    "random": lambda space: RandomSearch(space, candidates=FEW),
    "enas": lambda space: Enas(space, steps=2, candidates=FEW, hidden=4),
    "nao": lambda space: Nao(
        space,
        pool=4,
        every=1,
        updates=2,
        new=2,
        random=1,
        seeds=2,
        most_steps=2,
        networks=TINY,
        candidates=FEW,
    ),
    "pada": lambda space: PathImportance(space, candidates=FEW),
    "darts": Differentiable,
    "darts of second order": lambda space: Differentiable(space, order="second"),
    "gdas": lambda space: Differentiable(space, relaxation="gumbel"),
    "gaea": lambda space: Differentiable(
        space, ExponentiatedGradient(), split="train", shared_pass=True
    ),
}


def dataset():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (48, *SHAPE), np.uint8)
    return images_of_arrays((images, rng.integers(0, CLASSES, 48)), 8, 8)


def search_of(space, strategy, protection, **settings):
    return Search(
        task=ImageClassification(space, batch_size=4),
        strategy=STRATEGIES[strategy](space),
        protection=protection,
        optimizer=Sgd(learning_rate=0.01),
        **{"children": 2, "batches": 2, "eval_batches": 1, **settings},
    )


def run(search):
    found = wpl_jax.run(search, dataset(), epochs=2)
    space = search.task.space
    assert found.choices == names_of_choices(space, found.architecture)
    assert np.isfinite(found.loss)
    log_probabilities = found.predict(dataset().test.images[:3])
    sums = np.exp(np.asarray(log_probabilities, float)).sum(-1)
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    return found


@pytest.mark.slow
def test_random_search_under_wpl():
    protection = make_protection("wpl", start_epoch=0)
    run(search_of(plain(SHAPE, CLASSES), "random", protection))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("space", [plain, Modular], ids=["function", "module"])
def test_every_strategy_searches(space, strategy):
    run(search_of(space(SHAPE, CLASSES), strategy, NoProtection()))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("space", [plain, Modular], ids=["function", "module"])
def test_every_penalty_protects(space, penalty):
    cls = PENALTIES[penalty]
    fields = cls.__dataclass_fields__ if penalty != "none" else {}
    settings = {"start_epoch": 0} if "start_epoch" in fields else {}
    run(search_of(space(SHAPE, CLASSES), "random", cls(**settings)))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["l2", "wpl"])
def test_what_no_child_uses_is_not_moved(penalty):
    """The rows that the children of an epoch do not use keep their bits."""
    space = plain(SHAPE, CLASSES)
    protection = make_protection(penalty, start_epoch=0, strength=1.0)
    search = search_of(space, "random", protection, children=1)
    data = search.task.put(dataset(), search.devices)
    state = search.init(jax.random.key(0))
    before = jax.device_get(state.shared.params)
    number = np.int32(0)
    for epoch in map(np.int32, range(4)):
        state = search.begin_epoch(state, epoch)
        state = search.train_child(state, data, epoch, number)
        after = jax.device_get(state.shared.params)
        child = jax.tree.map(lambda x: x[0], state.epoch.architectures)
        used = mask(before, space.rows(child))
        for old, new, there in zip(
            *map(jax.tree.leaves, (before, after, used)), strict=True
        ):
            there = np.broadcast_to(np.asarray(there, bool), old.shape)
            np.testing.assert_array_equal(old[~there], new[~there])
        leaves = zip(*map(jax.tree.leaves, (before, after)), strict=True)
        assert any(np.any(old != new) for old, new in leaves)
        before = after
