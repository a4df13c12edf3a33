"""Children that are trained together, against numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import toy
from helpers.parts import make_protection
from helpers.written_search import (
    BATCHES,
    CHILDREN,
    DECAY,
    EPOCHS,
    RATE,
    WEIGHT_DECAY,
    Written,
    make_penalty,
    make_search,
)

from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.joint_training import Child, batches_of_several, joint_step
from wpl_jax.engine.training import TrainState
from wpl_jax.penalty import consolidate, weight_plasticity
from wpl_jax.protections.protection import Trained
from wpl_jax.supernet import Architecture, mask

FIRST, SECOND = jax.random.key(0), jax.random.key(1)
FISHER_BATCHES = 2


class Together(Written):
    """Several children at once, in numpy."""

    def __init__(self, params, data, penalty, name):
        super().__init__(params, data, penalty)
        self.name = name

    def train_several(self, architectures, epoch, index):
        rate, some = RATE * DECAY ** max(epoch - 1, 0), len(architectures)
        stretch = len(self.data[0]) // some
        for i in range(BATCHES):
            numbers = [
                place * stretch + (epoch * CHILDREN + index) // some * BATCHES + i
                for place in range(some)
            ]
            batches = [self.data[0][number % len(self.data[0])] for number in numbers]
            sums = {k: np.zeros_like(v) for k, v in self.params.items()}
            count = {k: np.zeros((len(v), 1)) for k, v in self.params.items()}
            count["shared"] = np.zeros(())
            for architecture, batch in zip(architectures, batches, strict=True):
                gradient = self.gradient(architecture, batch)
                for k, part in self.parts(architecture).items():
                    sums[k][part] += gradient[k]
                    count[k][part if k != "shared" else ...] += 1
            for k, theta in self.params.items():
                step = sums[k] / np.maximum(count[k], 1) + WEIGHT_DECAY * theta
                f = self.penalty.strength * self.fisher[k]
                if self.penalty.step == "explicit":
                    new = theta - rate * (step + f * (theta - self.anchor[k]))
                else:
                    new = theta - rate * step
                    new = (new + rate * f * self.anchor[k]) / (1 + rate * f)
                self.params[k] = np.where(count[k] > 0, new, theta)

    def protect_several(self, architectures, epoch, index):
        if epoch < self.penalty.start_epoch:
            return
        sums = {k: np.zeros_like(v) for k, v in self.params.items()}
        count = {k: np.zeros_like(v) for k, v in self.params.items()}
        for place, architecture in enumerate(architectures):
            for i in range(FISHER_BATCHES):
                number = (epoch * CHILDREN + index + place) * FISHER_BATCHES + i
                batch = self.data[1][number % len(self.data[1])]
                gradient = self.gradient(architecture, batch)
                for k, part in self.parts(architecture).items():
                    sums[k][part] += gradient[k] ** 2 / FISHER_BATCHES
            for k, part in self.parts(architecture).items():
                count[k][part] += 1
        found = {k: sums[k] / np.maximum(used, 1) for k, used in count.items()}
        if self.name == "l2":
            found = {k: np.ones_like(f) for k, f in found.items()}
        elif self.name == "wpl":
            for k, used in count.items():
                mixed = 0.1 * self.average[k] + found[k]
                found[k] = self.average[k] = np.where(used > 0, mixed, self.average[k])
        mean = np.concatenate([found[k][n > 0] for k, n in count.items()]).mean()
        for k, used in count.items():
            fisher, anchor = found[k] / mean, self.params[k]
            if self.name == "ewc":
                total = fisher + self.fisher[k]
                weighted = fisher * anchor + self.fisher[k] * self.anchor[k]
                fisher, anchor = total, weighted / np.maximum(total, 1e-300)
            self.fisher[k] = np.where(used > 0, fisher, self.fisher[k])
            self.anchor[k] = np.where(used > 0, anchor, self.anchor[k])


@pytest.mark.slow_except("2-wpl-proximal", "2-ewc-explicit")
@pytest.mark.parametrize(
    ("count", "name", "step"),
    [
        (1, "wpl", "proximal"),
        (2, "wpl", "proximal"),
        (2, "wpl", "explicit"),
        (2, "ewc", "explicit"),
        (1, "l2", "proximal"),
    ],
)
def test_children_that_are_trained_together_share_their_gradients(count, name, step):
    settings = {"start_epoch": 1, "flush_every": 2, "strength": 1.0}
    if name != "l2":
        settings["batches"] = FISHER_BATCHES
    protection = make_protection(name, normalize="tree", step=step, **settings)
    search = dataclasses.replace(
        make_search(protection=protection),
        children_per_step=2,
        devices=Devices(count, "children"),
    )
    data = search.devices.replicate(toy.make_data())
    state = search.init(SECOND)
    written = Together(
        jax.device_get(state.shared.params), toy.make_data(), protection, name
    )
    for epoch in range(EPOCHS):
        state = search.begin_epoch(state, np.int32(epoch))
        if epoch == 3:
            written.flush()
        for index in range(0, CHILDREN, 2):
            numbers = np.int32(epoch), np.int32(index)
            state = search.train_child(state, data, *numbers)
            seen = jax.device_get(state.epoch)
            pair = seen.architectures.choice[index : index + 2]
            written.train_several(pair, epoch, index)
            expected = [written.evaluate(architecture) for architecture in pair]
            found = seen.err1.loss[index : index + 2]
            np.testing.assert_allclose(found, expected, rtol=2e-5)
            written.protect_several(pair, epoch, index)
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
            if written.name == "wpl":
                average = state.shared.memory[name]
                np.testing.assert_allclose(average, written.average[name], rtol=2e-4)


def test_momentum_is_of_the_children_that_use_a_parameter():
    transform = optax.sgd(0.1, momentum=0.9, nesterov=True)
    params = toy.ToySpace().init(FIRST)
    train_state = TrainState(params, transform.init(params), ())
    written = Written(params, toy.make_data(), None)
    velocity = {k: np.zeros_like(v) for k, v in written.params.items()}
    for pair in ([[0, 1], [1, 1]], [[2, 0], [0, 1]], [[0, 2], [0, 0]]):
        train_state, told = take_joint_step(
            transform, train_state.opt_state, train_state.params, pair
        )
        assert np.all(told.sound)
        sums = {k: np.zeros_like(v) for k, v in written.params.items()}
        count = {k: np.zeros_like(v) for k, v in written.params.items()}
        for architecture, batch in zip(pair, written.data[0], strict=False):
            gradient = written.gradient(architecture, batch)
            for k, part in written.parts(architecture).items():
                sums[k][part] += gradient[k]
                count[k][part] += 1
        for k, used in count.items():
            gradient = sums[k] / np.maximum(used, 1)
            moved = 0.9 * velocity[k] + gradient
            velocity[k] = np.where(used > 0, moved, velocity[k])
            step = np.where(used > 0, gradient + 0.9 * moved, 0)
            written.params[k] = written.params[k] - 0.1 * step
            np.testing.assert_allclose(
                train_state.params[k], written.params[k], rtol=1e-5
            )


@pytest.mark.slow
def test_a_child_that_explodes_does_not_move_the_others():
    class Broken(toy.ToyTask):
        def train_loss(self, child, architecture, data, carry, step, key, axis):
            nats, aux = super().train_loss(
                child, architecture, data, carry, step, key, axis
            )
            nats += jnp.where(architecture.choice[0] == 0, jnp.inf, 0.0)
            return nats, (nats, aux[1])

    data, params, states = toy.make_data(), None, []
    for task in (toy.ToyTask(), Broken()):
        search = dataclasses.replace(make_search(task), children_per_step=CHILDREN)
        state = search.begin_epoch(search.init(SECOND), np.int32(0))
        params = jax.device_get(state.shared.params)
        states.append(search.train_child(state, data, np.int32(0), np.int32(0)))
    sane, broken = jax.device_get(states)
    bad = np.sum(broken.epoch.architectures.choice[:, 0] == 0)
    assert 0 < bad < CHILDREN
    assert broken.skipped == (bad * BATCHES, 0)
    assert sane.skipped == (0, 0)
    np.testing.assert_array_equal(broken.shared.params["a"][0], params["a"][0])
    assert np.all(sane.shared.params["a"][0] != params["a"][0])
    assert np.all(np.isfinite(broken.shared.params["shared"]))
    assert np.all(broken.shared.params["shared"] != params["shared"])


def take_joint_step(transform, opt_state, params, architectures, data=None):
    """A joint step of toy children."""
    count = len(architectures)
    children = Child(
        architecture=Architecture(jnp.array(architectures)),
        step=jnp.arange(count),
        key=jax.random.split(FIRST, count),
    )
    task, data = toy.ToyTask(), data or toy.make_data()
    train_state = TrainState(params, opt_state, jnp.zeros((count, 4)))
    return joint_step(task, transform, train_state, children, None, data, Devices())


def under_penalty(fisher_of_a, anchor_of_a):
    """SGD that clips, under an explicit penalty on the rows of ``a``."""
    params = jax.tree.map(jnp.ones_like, toy.ToySpace().init(FIRST))
    transform = optax.chain(
        weight_plasticity(1.0), optax.clip_by_global_norm(0.25), optax.sgd(0.5)
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    fisher = zeros | {"a": jnp.asarray(fisher_of_a)[:, None] * jnp.ones(2)}
    anchor = params | {"a": jnp.full((3, 2), anchor_of_a)}
    return transform, consolidate(transform.init(params), anchor, fisher), params


def test_what_no_child_uses_does_not_count_for_the_norm_of_the_gradient():
    moved = []
    for fisher in ([0.0, 0.0, 0.0], [0.0, 0.0, 100.0]):
        step = under_penalty(fisher, 3.0)
        train_state, _ = take_joint_step(*step, [[0, 1], [1, 1]])
        moved.append(train_state.params)
    np.testing.assert_array_equal(moved[0]["a"], moved[1]["a"])
    np.testing.assert_array_equal(moved[0]["shared"], moved[1]["shared"])
    # Not clipped away: the step of a clipped gradient is as long as the clip.
    change = jax.tree.map(lambda p: np.sum((p - 1) ** 2), moved[1])
    assert np.sqrt(sum(jax.tree.leaves(change))) == pytest.approx(0.125, rel=1e-5)


def test_a_joint_update_that_is_not_finite_is_left_out_and_told():
    transform, opt_state, before = under_penalty([3e38, 0.0, 0.0], -1e30)
    train_state, told = take_joint_step(transform, opt_state, before, [[0, 1], [1, 1]])
    assert not np.any(told.sound)
    assert np.all(np.isfinite(told.loss))
    unchanged = TrainState(before, opt_state, np.zeros((2, 4)))
    jax.tree.map(np.testing.assert_array_equal, train_state, unchanged)


def test_a_step_that_no_child_can_take_is_no_step():
    transform, data = optax.adam(0.1), toy.make_data()
    params = jax.tree.map(jnp.ones_like, toy.ToySpace().init(FIRST))
    opt_state = transform.init(params)
    data = data._replace(train=jnp.full_like(data.train, jnp.nan))
    step = take_joint_step(transform, opt_state, params, [[0, 1], [1, 1]], data)
    train_state, told = step
    assert not np.any(told.sound)
    unchanged = TrainState(params, opt_state, np.zeros((2, 4)))
    jax.tree.map(np.testing.assert_array_equal, train_state, unchanged)


@pytest.mark.parametrize(
    "changes", [{"max_norm": 1.0}, {"alpha_inside_average": True, "normalize": "none"}]
)
def test_what_no_child_uses_keeps_what_is_remembered_of_it(changes):
    protection = make_penalty(**changes)
    params = toy.ToySpace().init(FIRST)
    optimizer = protection.wrap(optax.sgd(0.1), 0.1, 10.0)
    state, memory = (
        optimizer.init(params),
        jax.tree.map(lambda p: jnp.full_like(p, 3.0), params),
    )
    rows = toy.ToySpace().rows(Architecture(jnp.array([1, 2])))
    found = jax.tree.map(jnp.ones_like, params)
    used = jax.tree.map(lambda m: m > 0, mask(params, rows))
    after, _ = protection.remember(
        memory, state, Trained(params, None, None), found, used, rows, 10.0
    )
    for name, row in (("a", 1), ("b", 2)):
        others = [i for i in range(3) if i != row]
        np.testing.assert_array_equal(after[name][jnp.array(others)], 3.0)
        assert np.all(after[name][row] != 3.0)
    if "max_norm" in changes:  # What is not used counts for no norm, either.
        np.testing.assert_allclose(np.linalg.norm(after["a"][1]), 1.0, rtol=1e-5)


def test_batches_of_images_are_taken_in_turns_and_those_of_text_in_stretches():
    def numbers(task):
        """Of two children at a time, of two batches each."""
        data = toy.make_data()  # 5 batches
        taken = [batches_of_several(task, data, done, 2) for done in (0, 2, 4)]
        steps = np.arange(2)[:, None]
        return [(first + steps * stride).tolist() for first, stride in taken]

    assert numbers(toy.ToyTask()) == [
        [[0, 2], [1, 3]],
        [[2, 4], [3, 5]],
        [[4, 6], [5, 7]],
    ]

    class Separate(toy.ToyTask):
        def init_carry(self):
            return ()

    assert np.ravel(numbers(Separate())).tolist() == list(range(12))
