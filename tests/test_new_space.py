"""The worked example of docs/new_space.md, run as it stands there."""

import json
import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from wpl_jax.jobs import registry as jobs
from wpl_jax.supernet import Architecture, gather, mask, random_choice

PAGE = Path(__file__).resolve().parents[1] / "docs" / "new_space.md"


@pytest.fixture(scope="module")
def page():
    """What the page defines, as the module that it is there."""
    module = types.ModuleType("ladder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ladder", module)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(block, vars(module))
        yield vars(module)


def test_children_use_their_rows_and_no_others(page):
    space = page["Ladder"]((3, 2, 1), 4, layers=3, hidden=5)
    params, traces = space.init(jax.random.key(0)), []
    images = jax.random.normal(jax.random.key(1), (2, 3, 2, 1))

    @jax.jit
    def gradient(params, architecture):
        traces.append(1)
        rows = space.rows(architecture)

        def loss(params):
            child = gather(params, rows)
            return (space.apply(child, architecture, images).logits ** 2).sum()

        return jax.grad(loss)(params), mask(params, rows)

    for seed in range(20):
        architecture = Architecture(
            random_choice(jax.random.key(seed), space.decisions)
        )
        found, used = gradient(params, architecture)
        moved = np.any(found["layers"] != 0, axis=(1, 2))
        np.testing.assert_array_equal(moved, np.ravel(used["layers"]) == 1)
        assert moved.sum() == np.sum(architecture.choice < 2)
    assert len(traces) == 1


def test_a_search_runs_on_it(page, tmp_path):
    config = page["get_config"]()
    config.num_seeds = 1
    config.arms = ConfigDict({"wpl": {"penalty": {"name": "wpl"}}})
    config.space.Ladder.update({"hidden": 8, "layers": 3})
    config.search.update({"epochs": 2, "children": 3, "batches": 2, "eval_batches": 2})
    config.search.learn_per_call = config.strategy.enas.steps = 2
    config.penalty.wpl.start_epoch = 0
    few = ConfigDict({"proposed": 3, "screen_batches": 1, "keep": 1})
    config.strategy.enas.candidates = few
    config.retrain.epochs = 1
    config.retrain.baselines.names = ()
    config.retrain.space = ConfigDict({"Ladder": {"hidden": 9}})
    jobs.run(config, tmp_path / "run", "run")
    folder = tmp_path / "run" / "searches" / "wpl-seed0"
    chosen = json.loads((folder / "architecture.json").read_text())["decisions"]
    assert list(chosen) == ["layer_0", "layer_1", "layer_2"]
    skipped = list(chosen.values()).count("skip")
    found = json.loads((folder / "retrain" / "retrained.json").read_text())
    # 64 pixels and 10 classes; what is skipped has no parameters.
    assert found["parameters"] == 64 * 9 + (3 - skipped) * 81 + 9 * 10
    assert (tmp_path / "run" / "figures" / "ladder_wpl.svg").exists()
