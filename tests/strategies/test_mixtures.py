"""Forgetting of mixtures, and every penalty with every strategy."""

import functools

import jax
import numpy as np
import optax
import pytest
from helpers import toy
from helpers.parts import make_protection
from helpers.written_search import CHILDREN, EVALUATED, make_search, run_epoch

from wpl_jax.data import images_of_arrays
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.jobs.search_loop import record
from wpl_jax.protections import PENALTIES
from wpl_jax.protections.estimators import Batch
from wpl_jax.search import Search
from wpl_jax.spaces.darts_cell import DartsCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.strategies.architecture_optimizers import ExponentiatedGradient
from wpl_jax.strategies.differentiable import Differentiable
from wpl_jax.strategies.enas import Enas
from wpl_jax.strategies.path_importance import PathImportance
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.tasks.image_classification import ImageClassification

SPACE = toy.ToySpace()
EXPONENTIATED = ExponentiatedGradient(0.3, floor=1e-5)
GAEA = functools.partial(
    Differentiable, optimizer=EXPONENTIATED, split="train", shared_pass=True
)
GDAS = functools.partial(Differentiable, relaxation="gumbel")


def loss_in_numpy(params, weights, batches):
    """The loss of a mixture on whole batches, in float64."""
    params = {k: np.asarray(v, np.float64) for k, v in params.items()}
    y = params["shared"] + 2 * weights[0] @ params["a"] + 3 * weights[1] @ params["b"]
    return np.mean([np.sum((y - np.asarray(x, float)) ** 2, -1) / 2 for x in batches])


@pytest.mark.slow_except("wpl")
@pytest.mark.parametrize("name", ["none", "l2", "ewc", "wpl"])
def test_forgetting_is_that_of_stored_mixtures_and_of_their_choices(name):
    """err1 with the weights of then, err2 with the last ones, of the same mixtures."""
    protection = PENALTIES["none"]()
    if name != "none":
        protection = make_protection(name, start_epoch=0, strength=0.5)
    strategy = GAEA(SPACE)
    search, data = (
        make_search(strategy=strategy, protection=protection),
        toy.make_data(),
    )
    state = search.begin_epoch(search.init(jax.random.key(3)), np.int32(0))
    batches, err1, mixtures = data.valid[:EVALUATED], [], []
    for index in range(CHILDREN):
        state = search.train_child(state, data, np.int32(0), np.int32(index))
        params, children = jax.device_get((state.shared.params, state.epoch))
        weights = np.asarray(children.architectures.weights[index], float)
        choice = np.eye(3)[weights.argmax(-1)]
        mixtures.append((weights, choice))
        err1.append([loss_in_numpy(params, w, batches) for w in (weights, choice)])
    for index in range(CHILDREN):
        state = search.evaluate_again(state, data, np.int32(index))
    err2 = [[loss_in_numpy(params, w, batches) for w in pair] for pair in mixtures]
    err1, err2 = np.array(err1), np.array(err2)
    seen = state.epoch
    for found, expected in (
        ((seen.err1, seen.derived_err1), err1),
        ((seen.err2, seen.derived_err2), err2),
    ):
        losses = np.stack([each.loss for each in found], 1)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
    measured = search.measure(state, np.int32(0))
    lost = (err2 - err1).mean(0)
    np.testing.assert_allclose(measured.loss.mean, lost[0], rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        measured.derived_loss.mean, lost[1], rtol=1e-3, atol=1e-5
    )
    gap = np.mean(err2[:, 1] - err2[:, 0])
    np.testing.assert_allclose(measured.gap_loss, gap, rtol=1e-3, atol=1e-5)
    distance = np.sqrt(2 * err2)
    gap = np.mean(distance[:, 1] - distance[:, 0])
    np.testing.assert_allclose(measured.gap_error, gap, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["wpl", "l2"])
def test_each_tensor_of_a_mixture_is_normalized(name):
    """A row of a stack of operations is a tensor of its own."""
    protection = make_protection(name, start_epoch=0, normalize="tensor")
    search = make_search(strategy=GAEA(SPACE), protection=protection)
    state = search.begin_epoch(search.init(jax.random.key(3)), np.int32(0))
    state = search.train_child(state, toy.make_data(), np.int32(0), np.int32(0))
    fisher = optax.tree.get(jax.device_get(state.shared.opt_state), "fisher")
    for value in (fisher["a"], fisher["b"], fisher["shared"][None]):
        np.testing.assert_allclose(value.mean(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_what_is_no_mixture_has_no_gap():
    search, data = make_search(strategy=GDAS(SPACE)), toy.make_data()
    state = run_epoch(search, search.init(jax.random.key(0)), data, 0)
    measured = search.measure(state, np.int32(0))
    assert measured.derived_loss is None
    assert measured.gap_error is None
    recorded = record(jax.device_get(measured))
    assert not [name for name in recorded if "derived_" in name or "gap" in name]


KINDS = {
    "random": lambda space: RandomSearch(space, Candidates(2, 1, 1)),
    "enas": lambda space: Enas(space, candidates=Candidates(2, 1, 1)),
    "pada": lambda space: PathImportance(space, Candidates(2, 1, 1)),
    "darts": Differentiable,
    "gaea": GAEA,
    "gdas": GDAS,
}


@pytest.mark.slow_except("wpl-*", "*-gaea", "*-random")
@pytest.mark.parametrize("strategy", KINDS)
@pytest.mark.parametrize("penalty_name", sorted(PENALTIES))
def test_every_penalty_goes_with_every_strategy(penalty_name, strategy):
    """A step keeps the form of the state; what it computes is tested elsewhere."""
    keeps_the_form(toy.ToyTask(), toy.make_data(), penalty_name, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", KINDS)
@pytest.mark.parametrize("penalty_name", sorted(PENALTIES))
def test_every_penalty_goes_with_every_strategy_on_nasbench201(penalty_name, strategy):
    task = ImageClassification(NasBench201((8, 8, 3), 4, 2, 1), batch_size=8)
    data = task.put(images_of_noise((8, 8, 3)), Devices())
    keeps_the_form(task, data, penalty_name, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", KINDS)
@pytest.mark.parametrize("penalty_name", ["none", "replay", "wpl"])
def test_penalties_go_with_every_strategy_on_the_cells_of_darts(penalty_name, strategy):
    space = DartsCell((8, 8, 3), 4, channels=4, cells=3, num_nodes=2)
    task = ImageClassification(space, batch_size=8)
    data = task.put(images_of_noise((8, 8, 3)), Devices())
    keeps_the_form(task, data, penalty_name, strategy)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["darts", "enas", "gaea", "gdas", "random"])
def test_strategies_train_and_derive_cells_of_darts(strategy):
    space = DartsCell((8, 8, 3), 4, channels=4, cells=3, num_nodes=2)
    task = ImageClassification(space, batch_size=8)
    data = task.put(images_of_noise((8, 8, 3)), Devices())
    search = Search(
        task=task,
        strategy=KINDS[strategy](space),
        protection=PENALTIES["none"](),
        optimizer=Sgd(0.1),
        children=1,
        batches=2,
        eval_batches=1,
    )
    state = search.begin_epoch(search.init(jax.random.key(0)), np.int32(0))
    before = jax.device_get(state.shared.params)
    state = search.train_child(state, data, np.int32(0), np.int32(0))
    assert np.isfinite(state.epoch.err1.loss[0])
    moved = jax.tree.map(
        lambda a, b: float(np.max(np.abs(a - b))), state.shared.params, before
    )
    assert moved["classifier"]["kernel"] > 0
    assert max(jax.tree.leaves(moved["cells_0"])) > 0
    finalist = search.strategy.finalists(state.strategy, jax.random.key(1))
    genotype = space.genotype(finalist.choice)
    assert len(genotype.normal) == len(genotype.reduce) == 4


@pytest.mark.slow
def test_a_mixture_is_trained_alike_on_one_two_and_eight_devices():
    task = ImageClassification(
        NasBench201((4, 4, 1), 4, 2, 1, exclude_none=True), batch_size=8
    )
    found = []
    for count in (1, 2, 8):
        devices = Devices(count)
        search = Search(
            task=task,
            strategy=Differentiable(task.space, optimizer=EXPONENTIATED),
            protection=PENALTIES["none"](),
            optimizer=Sgd(0.1),
            children=1,
            batches=1,
            eval_batches=1,
            devices=devices,
        )
        data = task.put(images_of_noise((4, 4, 1)), devices)
        state = search.init(jax.random.key(0))
        state = search.begin_epoch(state, np.int32(0))
        state = search.train_child(state, data, np.int32(0), np.int32(0))
        found.append(jax.device_get((state.shared.params, state.strategy.theta)))
    for other in found[1:]:
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
        jax.tree.map(close, other, found[0])
    assert np.ptp(found[0][1]) > 1e-3  # the weights have moved


def images_of_noise(shape):
    rng = np.random.default_rng(0)
    splits = [
        (rng.integers(256, size=(16, *shape), dtype=np.uint8), np.arange(16) % 4)
        for _ in range(3)
    ]
    return images_of_arrays(*splits)


def keeps_the_form(task, data, penalty_name, strategy):
    settings = {} if penalty_name in ("none", "replay") else {"start_epoch": 0}
    if penalty_name in ("ewc", "wpl"):
        settings["estimator"] = Batch()
    search = Search(
        task=task,
        strategy=KINDS[strategy](task.space),
        protection=PENALTIES[penalty_name](**settings),
        optimizer=Sgd(0.1),
        children=2,
        batches=2,
        eval_batches=1,
    )
    state = jax.eval_shape(search.init, jax.random.key(0))
    zero = np.int32(0)
    after = jax.eval_shape(search.train_and_protect, state, data, zero, zero)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    same = jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, state
    )
    assert all(jax.tree.leaves(same))
