"""Children that start from the same weights, against a loop in float64 numpy."""

import dataclasses

import jax
import numpy as np
import optax
import pytest
from helpers import toy
from helpers.written_search import (
    BATCHES,
    DECAY,
    RATE,
    WEIGHT_DECAY,
    Written,
    make_penalty,
    make_search,
)

from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.optimizers import Exponential, Sgd
from wpl_jax.engine.reptile import Reptile
from wpl_jax.jobs.memory import of_search
from wpl_jax.penalty import plasticity_states
from wpl_jax.protections.replay import Replay
from wpl_jax.strategies.path_importance import PathImportance

OUTER, MOMENTUM, TOGETHER, CHILDREN, EPOCHS = 0.5, 0.75, 3, 6, 3


class Restarting(Written):
    """SUMNAS in numpy: each child has its own copy of weights and momentum."""

    def __init__(self, params, data):
        super().__init__(params, data, None)
        self.momentum = {k: np.zeros_like(v) for k, v in self.params.items()}

    def train_several(self, choices, epoch, index):
        rate = RATE * DECAY ** max(epoch - 1, 0)
        start = self.params, self.momentum
        ends = []
        for place, choice in enumerate(choices):
            self.params, self.momentum = (
                {k: v.copy() for k, v in tree.items()} for tree in start
            )
            stretch = len(self.data[0]) // TOGETHER
            done = (epoch * CHILDREN + index) // TOGETHER * BATCHES
            for i in range(BATCHES):
                number = place * stretch + done + i
                batch = self.data[0][number % len(self.data[0])]
                gradient = self.gradient(choice, batch)
                for k, part in self.parts(choice).items():
                    theta, trace = self.params[k], self.momentum[k]
                    step = gradient[k] + WEIGHT_DECAY * theta[part]
                    trace[part] = MOMENTUM * trace[part] + step
                    theta[part] -= rate * trace[part]
            ends.append((self.params, self.momentum))
        self.params, self.momentum = (
            {
                k: w + outer * np.mean([end[i][k] - w for end in ends], 0)
                for k, w in start[i].items()
            }
            for i, outer in enumerate((OUTER, 1.0))
        )


def sumnas(devices):
    search = make_search(protection=make_penalty(start_epoch=EPOCHS + 1))
    return dataclasses.replace(
        search,
        optimizer=Sgd(RATE, Exponential(DECAY, 2), None, WEIGHT_DECAY, MOMENTUM),
        children=CHILDREN,
        children_per_step=TOGETHER,
        update_rule=Reptile(OUTER),
        devices=devices,
    )


def train_epoch(search, state, data, epoch):
    state = search.begin_epoch(state, np.int32(epoch))
    for index in range(0, CHILDREN, TOGETHER):
        state = search.train_child(state, data, np.int32(epoch), np.int32(index))
    return state


@pytest.mark.slow_except("*3*")
@pytest.mark.parametrize("devices", [Devices(), Devices(3, "children")], ids=str)
def test_shared_weights_move_to_the_mean_of_children_that_start_from_them(devices):
    search, plain = sumnas(devices), toy.make_data()
    data, state = devices.replicate(plain), search.init(jax.random.key(1))
    written = Restarting(jax.device_get(state.shared.params), plain)
    for epoch in range(EPOCHS):
        state = train_epoch(search, state, data, epoch)
        choices = np.asarray(state.epoch.architectures.choice)
        for index in range(0, CHILDREN, TOGETHER):
            written.train_several(choices[index : index + TOGETHER], epoch, index)
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
    assert max(np.bincount(choices[:TOGETHER, 0])) > 1  # A row of two children.
    steps = EPOCHS * CHILDREN // TOGETHER * BATCHES
    np.testing.assert_array_equal(state.carry, steps)
    (penalty,) = plasticity_states(state.shared.opt_state)
    assert int(penalty.count) == steps
    (trace,) = optax.tree.get_all_with_path(state.shared.opt_state, "trace")
    for name, value in trace[1].items():
        np.testing.assert_allclose(value, written.momentum[name], rtol=1e-4, atol=1e-6)
    # The same program, on data that nothing can be learned from.
    before = jax.device_get(state.shared.params)
    bad = data._replace(train=data.train * np.nan)
    state = train_epoch(search, state, bad, EPOCHS)
    jax.tree.map(np.testing.assert_array_equal, state.shared.params, before)
    calls = CHILDREN // TOGETHER
    assert jax.device_get(state.skipped) == (calls * TOGETHER * BATCHES, steps // 3)
    assert np.all(np.isnan(state.epoch.train_loss))


@pytest.mark.parametrize(
    "changes",
    [{"protection": Replay(1)}, {"strategy": PathImportance(toy.ToySpace())}],
)
def test_children_with_companions_and_learning_in_steps_are_refused(changes):
    with pytest.raises(
        SettingError,
        match=r"update_rule is Reptile.*expected one for children with companions",
    ):
        dataclasses.replace(sumnas(Devices()), **changes)


@pytest.mark.parametrize("rate", [0.0, -1.0, "1"])
def test_a_wrong_rate_is_refused(rate):
    with pytest.raises(SettingError, match="rate"):
        Reptile(rate)


def test_the_sum_of_changes_is_part_of_the_memory():
    data = toy.make_data()
    alone = dataclasses.replace(sumnas(Devices()), children_per_step=1)
    found = [
        of_search(search, data).memory.child
        for search in (
            dataclasses.replace(alone, update_rule=make_search().update_rule),
            alone,
        )
    ]
    params = 4 * (toy.SIZE + 2 * toy.ROWS * toy.SIZE)
    # Twice the parameters, anchor, Fisher, its average and momentum; and the count.
    assert found[1] - found[0] == pytest.approx(2 * 5 * params, abs=16)
