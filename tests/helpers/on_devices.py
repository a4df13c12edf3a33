"""Functions, configurations and searches for tests on several devices."""

import jax
from ml_collections import ConfigDict

from helpers import tiny_search
from wpl_jax.devices.parallel import Devices
from wpl_jax.jobs import search_config


def on(count, function, *arguments):
    """What a function gives that runs on so many devices."""
    devices = Devices(count)
    return jax.device_get(devices.compile(function)(*devices.replicate(arguments)))


def text_config():
    config = tiny_search.get_config()
    config.task.language_model.batch_size = 8
    config.task.language_model.dropout = ConfigDict(
        {"embedding": 0.1, "input": 0.2, "output": 0.2, "recurrent": 0.1}
    )
    config.search.epochs = 1
    config.search.children = 4
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 5, "screen_batches": 1, "keep": 3}
    )
    return config


def load(config, count):
    """A search on so many devices, and its data."""
    search, data, _ = search_config.make_search(config, num_devices=count)
    return search, data
