"""A search against the paper's algorithm written out in float64 numpy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.parts import make_protection, strategy_of
from helpers.written_search import (
    BATCHES,
    CHILDREN,
    DECAY,
    EPOCHS,
    RATE,
    Written,
    make_penalty,
    make_search,
    run_epoch,
)
from ml_collections import ConfigDict

from wpl_jax import penalty
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.jobs import search_config
from wpl_jax.protections.protection import NoProtection
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.rewards import TaskReward
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import Architecture, Decision
from wpl_jax.tasks import Evaluation


@pytest.mark.parametrize(
    "changes",
    [{"step": "explicit"}, {"step": "proximal"}, {"anchor_decay": 0.75}],
    ids=str,
)
def test_epochs_are_the_papers_algorithm(changes):
    protection = make_penalty(**changes)
    search = make_search(protection=protection)
    data, state = toy.make_data(), search.init(jax.random.key(1))
    written = Written(state.shared.params, data, protection)
    for epoch in range(EPOCHS):
        state = run_epoch(search, state, data, epoch)
        seen = jax.device_get(state.epoch)
        if epoch == 3:  # Two epochs after the first with a Fisher.
            written.flush()
        for index, architecture in enumerate(seen.architectures.choice):
            written.train(architecture, epoch, index)
            np.testing.assert_allclose(
                seen.err1.loss[index], written.evaluate(architecture), rtol=2e-5
            )
            written.protect(architecture, epoch, index)
        err2 = [written.evaluate(choice) for choice in seen.architectures.choice]
        np.testing.assert_allclose(seen.err2.loss, err2, rtol=2e-5)
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
            average = state.shared.memory[name]
            np.testing.assert_allclose(average, written.average[name], rtol=2e-4)
    np.testing.assert_array_equal(state.carry, EPOCHS * CHILDREN * BATCHES)


@pytest.mark.slow
def test_one_compilation_serves_all_architectures_and_epochs():
    traces = []

    class Counting(toy.ToyTask):
        def train_loss(self, *args):
            traces.append(1)
            return super().train_loss(*args)

    children = 60
    search = make_search(Counting(), make_penalty(), children=children)
    data, state = toy.make_data(), search.init(jax.random.key(0))
    for epoch in range(3):
        state = run_epoch(search, state, data, epoch)
    assert len({tuple(a) for a in np.asarray(state.epoch.architectures.choice)}) == 9
    assert len(traces) == 1


@pytest.mark.slow
def test_searches_that_differ_in_their_protection_evaluate_and_learn_by_one_program():
    traces = []

    class Counting(toy.ToyTask):
        def validate(self, *args):
            traces.append("validate")
            return super().validate(*args)

        def evaluate(self, *args):
            traces.append("evaluate")
            return super().evaluate(*args)

    def search_under(protection):
        """One whose parts are equal to those of the others, but not the same."""
        task = Counting()
        strategy = strategy_of(toy.get_config(), task.space)
        return make_search(task, protection, strategy)

    def measure(search, state):
        state = search.evaluate_again(state, data, np.int32(1))
        state = search.judge(search.screen(state, data, np.int32(2)), data, np.int32(1))
        return search.learn(state, data, np.int32(0), np.int32(0), 1)

    search, data = search_under(NoProtection()), toy.make_data()
    state = measure(search, search.init(jax.random.key(0)))
    assert set(traces) == {"validate", "evaluate"}
    before = len(traces)
    for changes in ({}, {"strength": 5.0}, {"step": "explicit"}):
        state = measure(search_under(make_penalty(**changes)), state)
    assert len(traces) == before


@pytest.mark.parametrize("by", ["error", "loss"])
def test_the_best_have_the_lowest_error_then_the_fewest_nats_or_the_reverse(by):
    rng = np.random.default_rng(0)
    rank = jax.jit(Candidates(by=by).order)
    for _ in range(20):
        # Few values, so that errors are often the same and nats sometimes.
        error, nats = rng.integers(4, size=(2, 12)).astype(np.float32)
        error[rng.integers(12, size=2)] = np.inf
        broken = rng.random(12) < 0.2
        error[broken] = nats[broken] = np.nan
        found = rank(Evaluation(nats, error)).tolist()
        pairs = list(zip(error, nats, strict=True))
        pairs = pairs if by == "error" else [pair[::-1] for pair in pairs]
        sound = sorted(np.flatnonzero(~broken), key=lambda i: (*pairs[i], i))
        assert found == [*sound, *np.flatnonzero(broken)]


def test_a_path_depends_on_the_key_and_the_position_only():
    search = make_search(protection=make_penalty())
    data = toy.make_data()

    def after(key, epochs):
        state = search.init(jax.random.key(key))
        for epoch in range(epochs):
            state = run_epoch(search, state, data, epoch)
        return state

    once, saved = after(0, 2), jax.device_get(after(0, 1))
    resumed = run_epoch(search, jax.tree.map(jnp.asarray, saved), data, 1)
    for a, b in zip(jax.tree.leaves(once), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(_numbers(a), _numbers(b))
    other = after(1, 2)
    assert np.any(other.epoch.architectures.choice != once.epoch.architectures.choice)


def _numbers(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(leaf) if is_key else leaf


@pytest.mark.slow_except("gradient")
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_step_that_is_not_finite_is_left_out_and_counted(what):
    class Broken(toy.ToyTask):
        def train_loss(self, child, architecture, data, carry, step, key, axis):
            nats, aux = super().train_loss(child, architecture, data, carry, step, key)
            bad = jnp.where(step == 3, jnp.inf, 0.0)
            if what == "loss":
                return nats + bad, (nats + bad, aux[1])
            return nats + bad * jnp.sum(child["shared"]), aux

    data = toy.make_data()
    states = []
    for task in (toy.ToyTask(), Broken()):
        search = make_search(task, make_penalty(start_epoch=0))
        state = search.begin_epoch(search.init(jax.random.key(0)), np.int32(0))
        for index in range(3):
            state = search.train_child(state, data, np.int32(0), np.int32(index))
            if index == 1:
                states.append(jax.device_get(state.shared.params))
                assert int(state.skipped.in_row) == (task.__class__ is Broken)
        assert int(state.skipped.of_epoch) == (task.__class__ is Broken)
        assert int(state.skipped.in_row) == 0  # The next step was sound.
        for leaf in jax.tree.leaves(state.shared):
            assert np.all(np.isfinite(leaf))
    sound, broken = states
    # The step was left out and not taken with zeros: weights decay in every step.
    assert np.any(sound["shared"] != broken["shared"])


@pytest.mark.parametrize("name", ["wpl", "ewc", "l2"])
def test_a_child_without_a_finite_fisher_is_not_remembered(name):
    """The Fisher of L2 is 1, whatever the loss."""
    search = make_search(protection=make_protection(name, start_epoch=0))
    state, remembered = search.init(jax.random.key(0)), []
    state = search.begin_epoch(state, np.int32(0))
    for index, valid in enumerate((1.0, np.nan)):
        data = toy.make_data()
        data = data._replace(valid=data.valid * valid)
        before = jax.device_get(state.shared.params["shared"])
        state = search.train_and_protect(state, data, np.int32(0), np.int32(index))
        assert np.any(state.shared.params["shared"] != before)
        (of_penalty,) = penalty.plasticity_states(state.shared.opt_state)
        kept = state.shared.memory, of_penalty.anchor, of_penalty.fisher
        remembered.append(jax.device_get(kept))
    assert int(state.skipped.of_epoch) == 0
    assert np.any(remembered[0][2]["shared"] > 0)
    same = jax.tree.map(np.array_equal, *remembered)
    assert all(jax.tree.leaves(same)) == (name != "l2")


def test_skipped_steps_in_a_row_are_counted_over_children():
    data = toy.make_data()
    bad = data._replace(train=data.train.at[:].set(jnp.nan))
    search = make_search()
    state = search.init(jax.random.key(0))
    before = jax.device_get(state.shared.params)
    state = run_epoch(search, state, bad, 0)
    assert jax.device_get(state.skipped) == (CHILDREN * BATCHES,) * 2
    for name, value in before.items():
        np.testing.assert_array_equal(state.shared.params[name], value)
    state = run_epoch(search, state, data, 1)
    assert jax.device_get(state.skipped) == (0, 0)


def test_measured_numbers_are_those_of_the_epoch():
    search = make_search(protection=make_penalty())
    data, state = toy.make_data(), search.init(jax.random.key(0))
    state = run_epoch(search, state, data, 0)
    measured = search.measure(state, np.int32(3))
    err1, err2 = (np.asarray(x.loss, np.float64) for x in state.epoch[2:4])
    distance = np.sqrt(2 * err2) - np.sqrt(2 * err1)
    np.testing.assert_allclose(measured.error.mean, distance.mean(), rtol=1e-4)
    np.testing.assert_allclose(measured.loss.max, (err2 - err1).max(), rtol=1e-4)
    np.testing.assert_allclose(measured.child_error, np.sqrt(2 * err2).mean(), 1e-5)
    np.testing.assert_allclose(measured.child_reward, np.exp(-err2).mean(), rtol=1e-5)
    best = state.epoch.architectures.choice[np.argmin(err2)]
    np.testing.assert_array_equal(measured.best, best)
    np.testing.assert_array_equal(measured.choices, state.epoch.architectures.choice)
    np.testing.assert_allclose(measured.rate, RATE * DECAY**2, rtol=1e-6)
    assert float(measured.alpha) == 3.0
    # A child that has exploded is worth nothing, as where a strategy learns from it.
    exploded = state.epoch.err2._replace(loss=state.epoch.err2.loss.at[1].set(jnp.nan))
    state = state._replace(epoch=state.epoch._replace(err2=exploded))
    expected = np.exp(-err2) * (np.arange(CHILDREN) != 1)
    found = search.measure(state, np.int32(3)).child_reward
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)


# A task in which one architecture is best, and training does nothing.


class TableSpace(toy.ToySpace):
    decisions = tuple(Decision(f"d{i}", ("0", "1", "2")) for i in range(4))

    def rows(self, architecture):
        return {"shared": slice(None)}

    def init(self, key):
        return {"shared": jnp.zeros(())}


def test_children_that_are_rewarded_run_one_of_their_operations_each():
    # Mapped over architectures, a switch would become a select of all branches.
    class Choosing(toy.ToyTask):
        def validate(self, child, architecture, data, first, batches, axis):
            branches = [jnp.sin, jnp.cos, jnp.exp]
            nats = jax.lax.switch(architecture.choice[0], branches, 1.0)
            return Evaluation(nats, nats)

    task, data = Choosing(), toy.make_data()
    params = task.space.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    architectures = Architecture(jnp.array([[0, 1], [2, 0], [1, 1]]))
    rewards = functools.partial(Evaluator(task).rewards, params, reward=TaskReward())
    program = jax.make_jaxpr(rewards)(architectures, data, keys)
    assert str(program).count("cond[") == 1
    expected = np.exp(-np.array([np.sin(1), np.exp(1), np.cos(1)]))
    np.testing.assert_allclose(rewards(architectures, data, keys), expected, rtol=1e-6)


class TableTask(toy.ToyTask):
    """The loss counts the decisions that differ from the best architecture's."""

    best = (2, 0, 1, 2)

    def validate(self, child, architecture, data, first, batches, axis):
        wrong = jnp.sum(architecture.choice != jnp.asarray(self.best)) + 0.0
        return Evaluation(wrong, wrong)

    def evaluate(self, child, architecture, data, split, axis):
        return self.validate(child, architecture, data, 0, 1, axis)

    def train_loss(self, child, architecture, data, carry, step, key, axis):
        return child["shared"] * 0, (child["shared"] * 0, carry)


def select(search, state, data):
    candidates = search.strategy.candidates
    state = search.propose(state)
    for index in range(candidates.proposed):
        state = search.screen(state, data, np.int32(index))
    state = search.keep(state)
    for index in range(search.num_judged):
        state = search.judge(state, data, np.int32(index))
    return jax.device_get(state.selection)


@functools.cache
def selected(name):
    """What a strategy selects of few candidates, over some seeds."""
    config = toy.get_config()
    config.strategy.name = name
    config.strategy.enas.update({"steps": 400, "hidden": 20, "learning_rate": 0.02})
    few = ConfigDict({"proposed": 8, "screen_batches": 1, "keep": 2})
    config.strategy.enas.candidates = config.strategy.random.candidates = few
    task = TableTask(TableSpace())
    search = make_search(task, strategy=strategy_of(config, task.space))
    data, found = toy.make_data(), []
    for seed in range(6):
        state = search.init(jax.random.key(seed))
        if search.strategy.steps_after(0):
            state = search.learn(state, data, np.int32(0), np.int32(0), 400)
        found.append(select(search, state, data))
    return found


@pytest.mark.slow
def test_the_controller_finds_what_is_best_and_random_search_as_often_as_computed():
    def hits(name):
        best = [
            s.architectures.choice[s.kept[np.argmin(s.judged.error)]]
            for s in selected(name)
        ]
        return sum(tuple(a) == TableTask.best for a in best)

    assert hits("enas") == 6
    # Of 8 uniform candidates one is the best of 81 with probability .095: of 6
    # searches 4 or more find it with probability .001.
    assert hits("random") < 4


@pytest.mark.slow_except("random")
@pytest.mark.parametrize("name", ["enas", "random"])
def test_the_selection_is_the_best_of_what_was_screened(name):
    for s in selected(name):
        wrong = np.sum(s.architectures.choice != np.array(TableTask.best), 1)
        np.testing.assert_array_equal(s.screened.loss, wrong)
        np.testing.assert_array_equal(s.judged.error, np.sort(wrong)[:2])
        np.testing.assert_array_equal(wrong[s.kept], np.sort(wrong)[:2])


class MoreNatsFewerMistakes(TableTask):
    """A task whose losses and errors have opposite orders."""

    def validate(self, *args):
        loss, error = super().validate(*args)
        return Evaluation(loss, 4 - error)


def test_candidates_are_kept_by_their_losses_if_asked():
    task = MoreNatsFewerMistakes(TableSpace())
    few = Candidates(8, 1, 2, by="loss")
    search = make_search(task, strategy=RandomSearch(task.space, few))
    data = toy.make_data()
    selection = select(search, search.init(jax.random.key(0)), data)
    chosen = selection.architectures.choice
    wrong = np.sum(chosen != np.array(TableTask.best), 1)
    assert len(set(wrong)) > 1
    np.testing.assert_array_equal(selection.judged.loss, np.sort(wrong)[:2])


@pytest.mark.slow
def test_architectures_are_selected_with_the_mean_weights_of_the_last_epochs():
    data, ends = toy.make_data(), []
    search = dataclasses.replace(make_search(), average_from=1)
    state = search.init(jax.random.key(1))
    assert state.averaged is not state.shared.params
    for epoch in range(4):
        state = run_epoch(search, state, data, epoch)
        ends.append(jax.tree.map(np.float64, jax.device_get(state.shared.params)))
        used = ends[1:] or ends
        mean = {k: np.mean([end[k] for end in used], 0) for k in ends[0]}
        for name, value in search.weights(state).items():
            np.testing.assert_allclose(value, mean[name], rtol=1e-6)
    written = Written(mean, data, None)
    s = select(search, state, data)
    candidates = s.architectures.choice
    screened = [written.loss(c, written.data[1][:2]) for c in candidates]
    np.testing.assert_allclose(s.screened.loss, screened, rtol=2e-5)
    judged = [written.loss(candidates[i], written.data[1]) for i in s.kept]
    np.testing.assert_allclose(s.judged.loss, judged, rtol=2e-5)
    # Those of the moment have other losses, and a search without a mean stores nothing.
    now = Written(state.shared.params, data, None).evaluate(candidates[0])
    assert abs(now - written.evaluate(candidates[0])) > 1e-3
    plain = jax.eval_shape(make_search().init, jax.random.key(0))
    assert not jax.tree.leaves(plain.averaged)


@pytest.mark.slow
def test_learning_in_parts_is_learning_at_once():
    config = toy.get_config()
    task = toy.ToyTask()
    search = make_search(task, strategy=strategy_of(config, task.space))
    data = toy.make_data()

    def learn(*calls):
        state = search.init(jax.random.key(0))
        for first, steps in calls:
            state = search.learn(state, data, np.int32(2), np.int32(first), steps)
        return state

    whole, parts = learn((0, 4)), learn((0, 2), (2, 2))
    for a, b in zip(
        jax.tree.leaves(whole.strategy), jax.tree.leaves(parts.strategy), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    np.testing.assert_allclose(whole.epoch.reward, parts.epoch.reward, rtol=1e-5)


def test_a_search_is_made_from_its_configuration():
    search, data, about = search_config.make_search(toy.get_config())
    assert about == "toy examples"
    assert search.children == 4
    assert data.train.shape == (5, 4, toy.SIZE)
    shapes = jax.eval_shape(search.init, jax.random.key(0))
    assert shapes.epoch.err1.loss.shape == shapes.epoch.err2.error.shape == (4,)
