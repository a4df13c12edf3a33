"""Limits and rewards of costs, by a configuration, on a network with choices."""

import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_images
from ml_collections import ConfigDict

from wpl_jax.errors import UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.build import choice
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.search_config import make_search
from wpl_jax.strategies import STRATEGIES
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Evaluation

HIDDEN, LAYERS, SKIP = 3, 3, 2
LIMIT, TARGET, EXPONENT = 25.0, 20.0, -0.5


def multiply_adds(choices):
    """Counted by hand: 3 inputs, one output, and a product in each layer that runs."""
    run = sum(name not in ("skip", SKIP) for name in choices)
    return 3 * HIDDEN + HIDDEN + run * HIDDEN**2


def get_config(strategy="enas", limit=LIMIT):
    """A limit of multiply-adds, and MnasNet's reward."""
    config = tiny_images.get_config()
    config.task = ConfigDict(
        {"name": "helpers.tabular:Sines", "Sines": {"batch_size": 8}}
    )
    config.space = ConfigDict(
        {"name": "helpers.choosing:Rungs", "Rungs": {"hidden": HIDDEN}}
    )
    config.retrain.task = ConfigDict()
    config.retrain.space = ConfigDict({"Rungs": {"hidden": 5}})
    few = {"proposed": 4, "screen_batches": 1, "keep": 2}
    own = {"steps": 2, "candidates": few}
    if strategy == "differentiable":
        own = {"candidates": few | {"proposed": 1, "keep": 1}}
    config.strategy = choice(STRATEGIES, strategy, **{strategy: own})
    config.search.update({"epochs": 2, "children": 4, "eval_batches": 1})
    config.search.learn_per_call = 1
    config.reward.name = "mnasnet"
    config.reward.mnasnet.update({"target": TARGET, "cost": "multiply_adds"})
    config.reward.mnasnet.update({"below": 0.0, "above": EXPONENT})
    config.limits.multiply_adds = limit
    return config


def search_of(config):
    return make_search(expand(config)[0].config)


def test_the_reward_and_the_limit_are_those_of_costs_by_hand():
    search, _, about = search_of(get_config())
    assert "at most 25 multiply-adds" in about
    every = [*itertools.product(range(3), repeat=LAYERS)]
    task, evaluation = search.task, Evaluation(jnp.float32(0.5), jnp.float32(0.7))
    own = float(task.reward(evaluation))
    for choices in every[::13]:
        cost = multiply_adds(choices)
        expected = own * (cost / TARGET) ** (EXPONENT if cost > TARGET else 0.0)
        architecture = Architecture(jnp.int32(choices))
        found = float(search.reward(task, evaluation, architecture))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    known = np.array(search.strategy.limits.known)
    assert multiply_adds(known) <= LIMIT


def test_a_limit_that_no_child_keeps_names_the_cheapest():
    with pytest.raises(UserError, match=r"multiply_adds is 11.*expected at least 12"):
        search_of(get_config(limit=11.0))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["enas", "differentiable"])
def test_what_is_found_keeps_the_limit(strategy, tmp_path):
    jobs.run(get_config(strategy), tmp_path, "run")
    (folder,) = (tmp_path / "searches").iterdir()
    found = json.loads((folder / "architecture.json").read_text())["decisions"]
    assert set(found) == {f"layer_{i}" for i in range(LAYERS)}
    assert multiply_adds(found.values()) <= LIMIT
    records = (folder / "metrics.jsonl").read_text().splitlines()
    if strategy == "enas":
        for record in map(json.loads, records):
            for choices in record["children/choices"]:
                assert multiply_adds(choices) <= LIMIT
    report = (tmp_path / "report.html").read_text()
    assert "multiply-adds" in report
    trained = json.loads((folder / "retrain" / "retrained.json").read_text())
    run = sum(name != "skip" for name in found.values())
    assert trained["parameters"] == (3 * 5 + 5) + (5 + 1) + run * (5 * 5 + 5)
