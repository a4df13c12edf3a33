"""The worked example of docs/new_space.md, run as it stands there."""

import json
import re
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax import export as jax_export
from ml_collections import ConfigDict

import wpl_jax
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.errors import UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.protections import NoProtection
from wpl_jax.search import Search
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import Architecture, Decision, gather, mask, random_choice

PAGE = Path(__file__).resolve().parents[1] / "docs" / "new_space.md"


@pytest.fixture(scope="module")
def page():
    """What the page defines, as the module that it is there."""
    module = types.ModuleType("ladder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ladder", module)
        for block in blocks():
            if "wpl_jax.run(" not in block:
                exec(block, vars(module))
        yield vars(module)


def blocks():
    return re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def test_the_first_example_has_fifteen_lines_at_most():
    _, _, code = blocks()[0].partition("@wpl_jax")
    assert sum(line.strip() != "" for line in code.splitlines()) <= 15


def test_both_ladders_have_the_same_children(page):
    """The biases are those of the modules alone."""
    by_hand, traced = (page[name]((3, 2, 1), 4) for name in ("LadderByHand", "Ladder"))
    assert traced.decisions == by_hand.decisions
    for choice in ([0, 1, 2, 0], [2, 2, 2, 2]):
        architecture = Architecture(np.int32(choice))
        biases = 32 * (1 + sum(c < 2 for c in choice)) + 4
        found = int(traced.costs(architecture)["parameters"])
        assert found == by_hand.costs(architecture)["parameters"] + biases


def test_a_function_is_a_space(page):
    space = page["step"]((3, 2, 1), 4, hidden=5)
    assert space.decisions == (Decision("layer", ("relu", "skip")),)
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    assert shapes["choices"]["layer"]["relu"].shape == (1, 5, 5)


def test_a_table_is_searched_with_a_task_of_its_own(page):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    task = wpl_jax.task(kind="regression", train=(x, x[:, :2]), valid=12, test=12)
    space = page["Table"]((5,), (2,), hidden=3)
    search = Search(
        task=task(space, batch_size=6),
        strategy=RandomSearch(space, Candidates(2, 1, 1)),
        protection=NoProtection(),
        optimizer=Sgd(learning_rate=0.01),
        children=1,
        batches=1,
        eval_batches=1,
    )
    found = wpl_jax.run(search, epochs=1)
    assert found.choices["activation"] in ("relu", "tanh", "gelu")
    assert np.shape(found.predict(x[:4])) == (4, 2)


def test_children_use_their_rows_and_no_others(page):
    space = page["LadderByHand"]((3, 2, 1), 4, layers=3, hidden=5)
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


def search(page, name, workdir):
    """A tiny search of a ladder, with a retraining of other sizes; its folder."""
    config = page["get_config"]()
    config.num_seeds = 1
    config.arms = ConfigDict({"wpl": {"penalty": {"name": "wpl"}}})
    settings = {"hidden": 8, "layers": 3}
    config.space = ConfigDict({"name": f"ladder:{name}", name: settings})
    config.search.update({"epochs": 2, "children": 3, "batches": 2, "eval_batches": 2})
    config.search.learn_per_call = config.strategy.enas.steps = 2
    config.penalty.wpl.start_epoch = 0
    few = ConfigDict({"proposed": 3, "screen_batches": 1, "keep": 1})
    config.strategy.enas.candidates = few
    config.retrain.epochs = 1
    config.retrain.baselines.names = ()
    config.retrain.space = ConfigDict({name: {"hidden": 9}})
    jobs.run(config, workdir, "run")
    return workdir / "searches" / "wpl-seed0"


def results(folder):
    chosen = json.loads((folder / "architecture.json").read_text())["decisions"]
    assert list(chosen) == ["layer_0", "layer_1", "layer_2"]
    found = json.loads((folder / "retrain" / "retrained.json").read_text())
    return chosen, found["parameters"]


@pytest.mark.slow
def test_a_search_runs_on_the_one_by_hand(page, tmp_path):
    chosen, parameters = results(search(page, "LadderByHand", tmp_path))
    skipped = list(chosen.values()).count("skip")
    # 64 pixels and 10 classes; what is skipped has no parameters.
    assert parameters == 64 * 9 + (3 - skipped) * 81 + 9 * 10
    assert (tmp_path / "figures" / "ladder_wpl.svg").exists()


@pytest.mark.slow
def test_a_search_of_a_network_with_choices_ends_in_a_model(page, tmp_path):
    chosen, parameters = results(search(page, "Ladder", tmp_path))
    skipped = list(chosen.values()).count("skip")
    assert parameters == 65 * 9 + (3 - skipped) * 90 + 10 * 10
    assert (tmp_path / "figures" / "network_wpl.svg").exists()
    module, choices = page["network_of"](tmp_path)
    assert choices == chosen
    model = wpl_jax.load(tmp_path, space=page["Ladder"])
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    with wpl_jax.fixed_choices(choices):
        logits = module(model.predictor.to_network(images))
    expected = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-5)
    folder = wpl_jax.export(model, tmp_path / "stablehlo", "stablehlo")
    program = jax_export.deserialize(
        bytearray((folder / "model.stablehlo").read_bytes())
    )
    np.testing.assert_allclose(program.call(images), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="Export it with the format stablehlo"):
        wpl_jax.export(model, tmp_path / "nnx", "nnx")
