"""Rehearsal of earlier children, against the same written in numpy."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import toy
from helpers.rehearsing import EPOCHS, SHARE, Rehearsing
from helpers.written_search import CHILDREN, make_search, run_epoch

from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices
from wpl_jax.protections.nsas import Nsas
from wpl_jax.protections.replay import Replay


@pytest.mark.parametrize("companions", [1, 2])
def test_a_child_is_trained_with_the_newest_before_it(companions):
    protection = Replay(companions, SHARE, start_epoch=1)
    search, data = make_search(protection=protection), toy.make_data()
    state = search.init(jax.random.key(1))
    written, archive = Rehearsing(state.shared.params, data, None), []
    for epoch in range(EPOCHS):
        state = run_epoch(search, state, data, epoch)
        for index, child in enumerate(state.epoch.architectures.choice):
            child = np.asarray(child)
            full = len(archive) >= companions
            earlier = archive[-companions:] if full else []
            written.train_with(child, earlier, epoch, index)
            if epoch >= 1:
                archive.append(child)
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
    kept, count = state.shared.memory
    np.testing.assert_array_equal(kept.choice, archive[-companions:])
    assert int(count) == len(archive)


@pytest.mark.slow_except("protection1")
@pytest.mark.parametrize("protection", [Replay(1, SHARE), Nsas(2, SHARE)])
def test_children_that_are_trained_together_rehearse_on_several_devices(protection):
    data, found = toy.make_data(), []
    for devices in (Devices(), Devices(2, "children")):
        search = dataclasses.replace(
            make_search(protection=protection),
            children_per_step=2,
            devices=devices,
        )
        state = search.init(jax.random.key(1))
        on_devices = devices.replicate(data)
        for epoch in range(2):
            state = search.begin_epoch(state, np.int32(epoch))
            for index in range(0, CHILDREN, 2):
                numbers = np.int32(epoch), np.int32(index)
                state = search.train_child(state, on_devices, *numbers)
        found.append(jax.device_get(state.shared))
    one, two = found
    for name in one.params:
        np.testing.assert_allclose(two.params[name], one.params[name], rtol=1e-5)
    np.testing.assert_array_equal(two.memory[0].choice, one.memory[0].choice)


@pytest.mark.parametrize(
    "wrong", [{"companions": 0}, {"share": 1.5}, {"companions": 65}]
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Replay(**wrong)
