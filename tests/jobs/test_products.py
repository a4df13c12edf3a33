"""Every strategy with every penalty on every space, and with it its task.

A combination either has calls that keep the form of the state, or is refused in one
sentence before anything is compiled. What the calls compute is tested part by part.
"""

import itertools
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from helpers import tiny_images, tiny_search
from helpers.forms import assert_calls_keep_the_form
from ml_collections import ConfigDict

from wpl_jax.errors import UserError
from wpl_jax.jobs.build import choice
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.search_config import make_plan, make_search
from wpl_jax.protections import PENALTIES
from wpl_jax.spaces import SPACES
from wpl_jax.strategies import STRATEGIES
from wpl_jax.supernet import num_choices
from wpl_jax.tasks.data_cache import DataCache

CANDIDATES = {"proposed": 4, "screen_batches": 1, "keep": 1, "judge_batches": 1}
NETWORKS = {"embedding": 2, "hidden": 2, "units": 2, "batch_size": 2}
# Tiny sizes of all parts. A new part has a line here, or its defaults.
SETTINGS_OF_STRATEGIES = {
    "differentiable": {"candidates": CANDIDATES | {"proposed": 1}},
    "enas": {"steps": 2, "candidates": CANDIDATES},
    "nao": {
        **{"every": 1, "pool": 4, "updates": 2, "seeds": 2, "new": 2, "random": 1},
        "candidates": CANDIDATES,
        "networks": NETWORKS,
    },
    "pada": {"candidates": CANDIDATES, "epochs": 2},
    "random": {"candidates": CANDIDATES},
}
SETTINGS_OF_SPACES = {
    "darts_cell": {"channels": 2, "cells": 3, "num_nodes": 2},
    "micro_cell": {"filters": 2, "num_nodes": 2, "layers": 3},
    "nasbench201": {"channels": 2, "cells": 1},
    "recurrent_cell": {"hidden": 4, "num_nodes": 3, "output": "all"},
}
OF_TEXT = ("recurrent_cell",)
# Networks without decisions, which are trained from scratch and never searched.
FIXED = ("genotype", "plain_recurrent", "residual")
SEARCHED = [name for name in SPACES if name not in FIXED]
WITHOUT_MIXTURES = ("micro_cell",)
NO_MIXTURES = {"micro_cell": "has no mixtures"}
NO_PATHS = NO_MIXTURES | {"recurrent_cell": "draws no single path"}
UNEQUAL = dict.fromkeys(
    ("darts_cell", "micro_cell", "recurrent_cell"), "whose decisions have .* choices"
)
UNLISTED = dict.fromkeys(UNEQUAL, "does not list its isomorphism classes")
PARTIAL = {"channel_parts": 2, "edge_weights": True}


class Method(NamedTuple):
    """Settings of a strategy, of spaces and of a search; by space, what refuses it."""

    strategy: str
    settings: dict[str, Any]
    refusals: dict[str, str]
    spaces: dict[str, dict[str, Any]]
    search: dict[str, int]


def by_gradients(refusals=NO_MIXTURES, spaces=None, **settings):
    return Method("differentiable", settings, refusals, spaces or {}, {})


def drawn_by(sampler, refusals, **search):
    return Method("random", {"sampler": sampler}, refusals, {}, search)


GAEA = {"optimizer": "exponentiated_gradient"}
METHODS = {
    "gaea": by_gradients(**GAEA),
    "gaea_single_level": by_gradients(**GAEA, split="train", shared_pass=True),
    "second_order": by_gradients(order="second"),
    "drnas": by_gradients(optimizer="dirichlet"),
    "gdas": by_gradients(NO_PATHS, relaxation="gumbel"),
    "gaea_gdas": by_gradients(NO_PATHS, **GAEA, relaxation="gumbel"),
    "pc_darts": by_gradients(
        spaces=dict.fromkeys(("darts_cell", "nasbench201"), PARTIAL), warmup=1
    ),
    # A child for each of the five operations.
    "fair": drawn_by("fair", UNEQUAL, children=5, children_per_step=5),
    "classes": drawn_by("classes", UNLISTED),
}


@pytest.fixture(scope="module")
def cache():
    """The data of all combinations, which is opened once."""
    return DataCache()


def combination(space, strategy, penalty, **settings):
    """A configuration of two epochs with the three parts."""
    tiny = tiny_search if space in OF_TEXT else tiny_images
    config = tiny.get_config()
    config.arms = ConfigDict({"only": {}})
    config.main_arm = "only"
    sizes = {space: SETTINGS_OF_SPACES.get(space, {})}
    config.space = choice(SPACES, space, **sizes)
    own = {strategy: SETTINGS_OF_STRATEGIES.get(strategy, {}) | settings}
    config.strategy = choice(STRATEGIES, strategy, **own)
    config.penalty = choice(PENALTIES, penalty)
    config.search.update({"epochs": 2, "children": 2, "batches": 2})
    config.search.update({"eval_batches": 1, "learn_per_call": 1})
    return expand(config)[0]


def is_refused(space, strategy):
    """Whether a strategy needs what a space does not have."""
    return strategy == "differentiable" and space in WITHOUT_MIXTURES


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("space", SEARCHED)
def test_a_strategy_runs_on_a_space_or_is_refused_in_a_sentence(space, strategy, cache):
    run = combination(space, strategy, "wpl")
    if is_refused(space, strategy):
        with pytest.raises(UserError, match=f"space {space} has no") as refusal:
            make_search(run.config, cache=cache)
        assert len(str(refusal.value)) < 250
    else:
        search, _, _ = make_search(run.config, cache=cache)
        make_plan(run.config, search)


def with_method(space, name):
    """A configuration of the method, with no penalty."""
    method = METHODS[name]
    run = combination(space, method.strategy, "none", **method.settings)
    run.config.space[space].update(method.spaces.get(space, {}))
    run.config.search.update(method.search)
    return run


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("space", SEARCHED)
def test_a_method_runs_on_a_space_or_is_refused_in_a_sentence(space, method, cache):
    run, refusals = with_method(space, method), METHODS[method].refusals
    if space in refusals:
        with pytest.raises(UserError, match=refusals[space]) as refusal:
            make_search(run.config, cache=cache)
        assert len(str(refusal.value)) < 300
    else:
        search, _, _ = make_search(run.config, cache=cache)
        make_plan(run.config, search)


def assert_it_trains(run, cache):
    """A whole search: parameters move, no step fails, what is selected is legal."""
    search, data, _ = make_search(run.config, cache=cache)
    plan, number = make_plan(run.config, search), 0
    state = search.init(run.key())
    before = jax.device_get(state.shared.params)
    while number < len(plan):
        state = plan.advance(state, data, number)
        number += plan.count_taken(number)
    assert state.skipped.of_epoch == 0
    after = jax.device_get(state.shared.params)
    assert np.all([np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(after)])
    moved = jax.tree.map(lambda a, b: np.any(a != b), before, after)
    assert np.mean(jax.tree.leaves(moved)) > 0.5
    selection = jax.device_get(state.selection)
    assert np.all(np.isfinite(selection.judged.loss))
    counts = np.array(num_choices(search.task.space.decisions))
    choices = selection.architectures.choice[selection.kept]
    assert np.all((choices >= 0) & (choices < counts))


@pytest.mark.slow
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    ("space", "strategy"),
    [pair for pair in itertools.product(SEARCHED, STRATEGIES) if not is_refused(*pair)],
)
def test_every_combination_keeps_the_form_of_the_state(space, strategy, penalty, cache):
    run = combination(space, strategy, penalty)
    assert_calls_keep_the_form(run, cache, ("train", "learn"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "strategy"),
    [pair for pair in itertools.product(SEARCHED, STRATEGIES) if not is_refused(*pair)],
)
def test_every_strategy_trains_on_every_space(space, strategy, cache):
    assert_it_trains(combination(space, strategy, "wpl"), cache)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "method"),
    [
        (space, name)
        for space, (name, method) in itertools.product(SEARCHED, METHODS.items())
        if space not in method.refusals
    ],
)
def test_every_method_trains_on_every_space(space, method, cache):
    assert_it_trains(with_method(space, method), cache)
