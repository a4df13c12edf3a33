"""The configurations of searches: by shape at their size, by a step at a tiny one."""

import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.forms import assert_calls_keep_the_form

from wpl_jax.data import ImageDataset, Split, TextDataset
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.jobs.search_config import make_search
from wpl_jax.tasks import image_classification, language_model

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if not path.stem.startswith(("_", "two_models"))
)
SIZES = {"train": 929_589, "valid": 73_760, "test": 82_430}


@pytest.fixture(autouse=True)
def noise(monkeypatch):
    """Images of the shape of CIFAR-10's, of noise, enough for all configurations."""

    def open_images(format, **options):
        shape = (8, 8, 1) if format == "digits" else (32, 32, 3)
        rng = np.random.default_rng(0)
        splits = [
            Split(
                rng.integers(0, 256, (n, *shape), np.uint8),
                np.arange(n, dtype=np.int32) % 10,
            )
            for n in (4500, 3200, 1000)
        ]
        return ImageDataset(*splits, tuple("0123456789"), "noise")

    monkeypatch.setattr(image_classification, "open_images", open_images)


@pytest.fixture(autouse=True)
def text(monkeypatch):
    """A text as long as Penn Treebank, of one word, with its vocabulary."""

    def load_text(**options):
        splits = {name: np.zeros(size, np.int32) for name, size in SIZES.items()}
        words = tuple(map(str, range(10_000)))
        unknown = dict.fromkeys(SIZES, 0)
        return TextDataset(
            **splits, vocabulary=words, source="zeros", unknown=unknown, level="word"
        )

    monkeypatch.setattr(language_model, "load_text", load_text)


def get_config(name):
    module, *argument = name.split(":")
    return importlib.import_module(f"configs.{module}").get_config(*argument)


# Of the configurations with the same calls, the one that is traced fastest.
FAST = (
    "enas_cnn_digits",
    "enas_rnn_ptb",
    "enas_rnn_pydoc",
    "gaea_nb201_forgetting",
    "gaea_nb201_small",
)


@pytest.mark.slow_except("gaea_nb201_small")
@pytest.mark.parametrize("name", FAST)
def test_every_call_keeps_the_form_of_the_state(name):
    config = get_config(name)
    if name.startswith("enas_cnn"):
        config.penalty.wpl.estimator = "batch"
    assert_arms_keep_the_form(config, arms=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "nao_cnn_cifar10:2"])
def test_every_call_of_every_arm_keeps_the_form_of_the_state(name):
    config = get_config(name)
    assert_arms_keep_the_form(config, len(config.arms))


def assert_arms_keep_the_form(config, arms):
    for each in expand(config)[:arms]:
        assert_calls_keep_the_form(each)
        if each.config.retrain.epochs:
            retraining, retrain_data, _ = make_retraining(each.config)
            decisions = retraining.task.space.decisions
            architecture = np.zeros(len(decisions), np.int32)
            start = functools.partial(retraining.init, each.key(), architecture)
            state = jax.eval_shape(start)
            after = jax.eval_shape(retraining.train, state, retrain_data, 0, 0, 1)
            assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_the_papers_setting_has_the_papers_size():
    search, _, _ = make_search(get_config("enas_rnn_ptb"))
    params = jax.eval_shape(search.init, jax.random.key(0)).shared.params
    # 146,014,000 of the published code, less the scale and shift of the batch
    # normalization that it has on its output.
    assert sum(p.size for p in jax.tree.leaves(params)) == 146_014_000 - 2 * 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "moved", "remembered"),
    [
        (
            "enas_rnn_ptb",
            {
                "space": {"recurrent_cell": {"hidden": 4, "num_nodes": 3}},
                "task": {"language_model": {"length": 3, "batch_size": 2}},
            },
            "embedding",
            "recurrent",
        ),
        pytest.param(
            "enas_cnn_cifar10",
            {
                "space": {"micro_cell": {"filters": 2, "num_nodes": 2, "layers": 3}},
                "task": {"image_classification": {"batch_size": 2}},
            },
            "classifier",
            "classifier",
        ),
        pytest.param(
            "gaea_nb201",
            {
                "space": {"nasbench201": {"channels": 2, "cells": 1}},
                "task": {"image_classification": {"batch_size": 2}},
                "arms": {"none": {"penalty": {"name": "wpl"}}},
            },
            "classifier",
            "classifier",
        ),
        pytest.param(
            "gaea_pc_darts_cifar10",
            {
                "space": {"darts_cell": {"channels": 4, "cells": 3, "num_nodes": 2}},
                "task": {
                    "image_classification": {"batch_size": 2},
                    "data": {"train": 200, "valid": 200},
                },
            },
            "classifier",
            None,
        ),
        pytest.param(
            "nao_rnn_ptb",
            {
                "space": {"recurrent_cell": {"hidden": 4, "num_nodes": 3}},
                "task": {"language_model": {"length": 3, "batch_size": 2}},
            },
            "embedding",
            "recurrent",
        ),
        pytest.param(
            "nao_cnn_cifar10",
            {
                "space": {"micro_cell": {"filters": 2, "num_nodes": 2, "layers": 3}},
                "task": {"image_classification": {"batch_size": 2}},
            },
            "classifier",
            "classifier",
        ),
        pytest.param(
            "darts_rnn_ptb",
            {
                "space": {"recurrent_cell": {"hidden": 4, "num_nodes": 3}},
                "task": {"language_model": {"length": 3, "batch_size": 2}},
            },
            "embedding",
            None,
        ),
    ],
)
def test_the_papers_setting_takes_a_step_at_a_tiny_size(name, sizes, moved, remembered):
    config = get_config(name)
    config.update(sizes)
    config.search.children = config.search.batches = config.search.eval_batches = 1
    search, data, _ = make_search(config)
    state = search.init(jax.random.key(0))
    before = jax.tree.map(np.asarray, state.shared.params[moved])
    epoch = config.penalty.wpl.start_epoch
    state = search.train_child(state, data, np.int32(epoch), np.int32(0))
    assert np.all(np.isfinite(state.epoch.err1.loss))
    after = state.shared.params[moved]
    differs = jax.tree.map(lambda a, b: np.any(a != b), before, after)
    assert all(jax.tree.leaves(differs))
    if remembered is not None:
        assert optax.tree.norm(state.shared.memory[remembered]) > 0
