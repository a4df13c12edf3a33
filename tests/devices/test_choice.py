"""How many devices a search uses, of those that there are."""

import importlib
import pkgutil

import jax
import pytest
from helpers.on_devices import load, text_config

import configs
from wpl_jax.devices import choice
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import ConfigError, UserError, on_command_line
from wpl_jax.jobs.open_task import choose_devices, open_task
from wpl_jax.jobs.retrain_config import config_for_task


@pytest.fixture(autouse=True)
def _command():
    """Errors name flags."""
    with on_command_line():
        yield


BUILT_IN = [module.name for module in pkgutil.iter_modules(configs.__path__)]


class Device:
    platform = "tpu"

    def __init__(self, process_index):
        self.process_index = process_index


def have(monkeypatch, *counts):
    """Processes with so many devices each; this is the first."""
    devices = [Device(index) for index, n in enumerate(counts) for _ in range(n)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: len(devices))
    monkeypatch.setattr(jax, "process_count", lambda: len(counts))
    return devices


def choose(config, count=None, children_per_step=1):
    """The devices of a configuration's batches."""
    task = open_task(config).task
    return choose_devices(config, task, count, children_per_step)


def test_processes_with_different_numbers_of_devices_are_told(monkeypatch):
    have(monkeypatch, 1, 2)
    with pytest.raises(UserError, match="have 1, 2 devices, expected as many each"):
        choose(text_config())


def test_of_each_process_as_many_devices_are_used(monkeypatch):
    found = have(monkeypatch, *[8] * 4)
    config = text_config()
    config.task.language_model.batch_size = 48
    devices = choose(config)
    assert devices.count == 24
    chosen = [found.index(device) for device in devices._chosen()]
    assert chosen == [first + i for first in (0, 8, 16, 24) for i in range(6)]
    assert "Devices: 24 of 32 (tpu): more cannot" in choice.told([devices], None)
    config.task.language_model.batch_size = 6
    with pytest.raises(ConfigError, match=r"multiple of 4, .* start fewer processes"):
        choose(config)
    with pytest.raises(UserError, match=r"is 6, .* multiple of the 4 processes"):
        choose(config, 6)
    config.task.language_model.batch_size = 16
    assert choose(config, 8).count == 8
    assert choice.told([Devices(8)], 8) == "Devices: 8 of 32 (tpu)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task": {"language_model": {"batch_size": 6}}},
            "task.language_model.batch_size is 6, .* multiple of 4",
        ),
        (
            {"search": {"children_per_step": 2}},
            "search.children_per_step is 2, .* multiple of 4",
        ),
        (
            {"search": {"children_per_step": 3}},
            "search.children_per_step is 3, .* divisor of the 4",
        ),
        ({"search": {"children_per_step": 0}}, "search.children_per_step is 0"),
        (
            {"task": {"language_model": {"batch_size": "8"}}},
            "task.language_model.batch_size is '8'",
        ),
        (
            {"search": {"children_per_step": 4000, "children": 4000}},
            "children_per_step is 4000, .* at most .* batches of the training data",
        ),
    ],
)
def test_what_devices_cannot_divide_is_said_before_anything_runs(changes, said):
    config = text_config()
    for part, fields in changes.items():
        with config.ignore_type():
            config[part].update(fields)
    with pytest.raises(ConfigError, match=said):
        load(config, 4)


@pytest.mark.parametrize("count", [0, 9, -1])
def test_devices_that_there_are_not_cannot_be_used(count):
    with pytest.raises(UserError, match=f"--devices is {count}, expected 1 to 8"):
        choose(text_config(), count)


@pytest.mark.parametrize(
    ("batch_size", "children_per_step", "count"),
    [(8, 1, 8), (20, 1, 5), (7, 1, 7), (11, 1, 1), (24, 12, 6), (20, 8, 4), (8, 3, 1)],
)
def test_as_many_devices_are_used_as_divide_the_work(
    batch_size, children_per_step, count
):
    config = text_config()
    config.task.language_model.batch_size = batch_size
    devices = choose(config, None, children_per_step)
    assert (devices.count, devices.batch.size > 1) == (
        count,
        children_per_step == 1 != count,
    )
    line = choice.told([devices], None)
    assert line.startswith(f"Devices: {count}")
    assert ("more cannot divide" in line) == (count != 8)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_configuration_runs_on_eight_devices(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    if "search" not in config:
        return
    retraining = config_for_task(config)
    for changed, children_per_step in (
        (config, config.search.children_per_step),
        (retraining, 1),
    ):
        rows = changed.task[changed.task.name].batch_size
        assert choice.choose(None, rows, children_per_step).count >= 4
