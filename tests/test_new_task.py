"""The worked example of docs/new_task.md, run as it stands there."""

import json
import re
import sys
import types
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tabular import Layers
from ml_collections import ConfigDict
from sklearn.linear_model import LogisticRegression

from wpl_jax.devices.parallel import ONE_DEVICE
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.search_config import make_plan, make_search

PAGE = Path(__file__).resolve().parents[1] / "docs" / "new_task.md"
CANCER, SEARCH, SENSORS, CONFIG = re.findall(
    r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL
)


@pytest.fixture(scope="module")
def cancer():
    """The page's module, as Python imports it."""
    module = types.ModuleType("cancer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cancer", module)
        exec(CANCER, vars(module))
        yield module


def run(code, **changes):
    """The variables of a block of the page, with other numbers in it."""
    for name, value in changes.items():
        code, count = re.subn(rf"\b{name}=[^,)]+", f"{name}={value!r}", code)
        assert count, name
    found = {}
    exec(code, found)
    return found


def test_losses_of_the_page_fit_their_arrays():
    class Last(Layers):
        def apply(self, child, architecture, inputs):
            return super().apply(child, architecture, jnp.mean(inputs, 1))

    sensors = run(SENSORS)["Sensors"]
    task = sensors(Last((3,)), batch_size=50)
    task.put(task.open(), ONE_DEVICE)
    assert task.error_name == "MAE"
    assert task.can_sample
    assert task.open().sizes == {"train": 700, "valid": 150, "test": 150}


def test_a_configuration_makes_the_search(cancer):
    config = run(CONFIG)["get_config"]()
    for each in expand(config)[:2]:
        search, _, about = make_search(each.config)
        make_plan(each.config, search)
        assert search.task.space == cancer.Layers((30,), 2)
    assert about == (
        "breast cancer: examples 364 train, 91 valid, 114 test; inputs 30; 2 classes"
    )


@pytest.mark.slow
def test_a_stranger_gets_a_model_from_the_page(cancer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run(SEARCH)
    assert set(found["found"].choices) == {f"layer_{i}" for i in range(4)}
    tumors, model = found["tumors"], found["model"]
    test = cancer.Cancer.dataset.test
    right = np.mean(model(test.inputs).argmax(1) == test.targets)
    np.testing.assert_allclose(
        model.metrics["test_error"], 100 * (1 - right), rtol=1e-4
    )
    # A linear model of the same examples is about as good.
    train = cancer.Cancer.dataset.train
    scale = train.inputs.mean(0), train.inputs.std(0)
    linear = LogisticRegression().fit(
        (train.inputs - scale[0]) / scale[1], train.targets
    )
    expected = linear.score((test.inputs - scale[0]) / scale[1], test.targets)
    assert right > expected - 0.06
    assert len(tumors.data) == 569


@pytest.mark.slow
def test_a_configuration_runs(cancer, tmp_path):
    config = run(CONFIG)["get_config"]()
    config.num_seeds = 1
    config.arms = ConfigDict({"wpl": {}})
    config.search.update({"epochs": 1, "children": 2, "batches": 2})
    config.search.learn_per_call = config.strategy.enas.steps = 2
    few = ConfigDict({"proposed": 3, "screen_batches": 1, "keep": 1})
    config.strategy.enas.candidates = few
    config.retrain.epochs = 1
    jobs.run(config, tmp_path, "run")
    path = tmp_path / "searches" / "wpl-seed0" / "retrain" / "retrained.json"
    assert 0 <= json.loads(path.read_text())["test_error"] <= 100
