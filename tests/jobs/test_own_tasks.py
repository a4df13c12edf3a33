"""Tasks of arrays in searches, trainings from scratch and models."""

import csv
import itertools
import json
import signal
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_images
from helpers.forms import assert_calls_keep_the_form
from helpers.tabular import (
    SPACE,
    Layers,
    Normalized,
    Sines,
    layers_in_numpy,
    numbers,
    search_of_sines,
)
from helpers.toy import ToyTask
from ml_collections import ConfigDict

import wpl_jax
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.errors import UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.build import choice
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.python import own_if_none
from wpl_jax.jobs.search_config import make_plan, make_search
from wpl_jax.protections import PENALTIES
from wpl_jax.protections.estimators import PerExample
from wpl_jax.protections.quadratic import WeightPlasticity
from wpl_jax.runs.machine import Machine
from wpl_jax.strategies import STRATEGIES
from wpl_jax.tasks.image_classification import ImageClassification

X, Y = numbers(120)
NAME = "helpers.tabular:Sines"


@pytest.fixture(scope="module")
def found():
    return wpl_jax.run(search_of_sines(), epochs=2)


@pytest.mark.slow
def test_a_search_resumes_and_predicts(found, tmp_path):
    first = wpl_jax.run(search_of_sines(), epochs=2, workdir=tmp_path)
    again = wpl_jax.run(search_of_sines(), epochs=2, workdir=tmp_path)
    for one in (first, again):
        assert one.metrics == found.metrics
        assert one.choices == found.choices
    predicted, child = found.predict(X[:5]), found.predict.args[0]
    inputs = Sines.dataset.train.inputs
    standardized = (X[:5] - inputs.mean(0)) / inputs.std(0)
    expected = layers_in_numpy(child, found.architecture, standardized)
    np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)
    other = wpl_jax.task(kind="regression", train=(X, Y + 1), name="sines")
    with pytest.raises(UserError, match="other"):
        wpl_jax.run(
            search_of_sines(task=other(SPACE, batch_size=8)), epochs=2, workdir=tmp_path
        )


@pytest.mark.slow
def test_what_is_found_is_trained_from_scratch_and_loaded(found, tmp_path):
    task = Sines(Layers((3,), hidden=6), batch_size=8)
    settings = {"optimizer": Sgd(0.05, clip_norm=1.0), "epochs": 3}
    model = wpl_jax.retrain(task, found.choices, workdir=tmp_path, **settings)
    again = wpl_jax.retrain(task, found.architecture, workdir=tmp_path, **settings)
    alone = wpl_jax.retrain(task, found.architecture, **settings)
    loaded = wpl_jax.load(tmp_path, space=Layers)
    data = Sines.dataset
    mean, deviation = data.train.inputs.mean(0), data.train.inputs.std(0)
    test = (np.float64(data.test.inputs) - mean) / deviation
    expected = layers_in_numpy(model.params, found.architecture, test)
    for one in (model, again, alone, loaded):
        predicted = one(data.test.inputs)
        np.testing.assert_allclose(predicted, expected, rtol=1e-4, atol=1e-5)
        assert one.architecture == found.choices
        off = expected - data.test.targets
        np.testing.assert_allclose(
            one.metrics["test_error"], np.sqrt((off**2).mean()), rtol=1e-5
        )
        distance = one.metrics["test_metrics"]["distance"]
        np.testing.assert_allclose(distance, abs(off).mean(), rtol=1e-5)
    assert alone.path is None
    assert again.path == loaded.path == (tmp_path / "model.safetensors").absolute()
    assert loaded.labels == ()
    np.testing.assert_allclose(loaded(data.test.inputs[0]), expected[:1], rtol=1e-4)
    with pytest.raises(UserError, match=r"shape \(5, 2\), expected \[n, 3\]"):
        loaded(X[:5, :2])
    with pytest.raises(UserError, match="inputs: found NaN in example 0"):
        loaded(np.full((2, 3), np.nan))


@pytest.mark.slow
def test_a_training_whose_error_is_never_finite_says_so():
    def nothing(outputs, targets):
        return jnp.nan * outputs[:, 0]

    given = {"metrics": {"nothing": nothing}, "error": "nothing"}
    task = wpl_jax.task(kind="regression", train=(X, Y), **given)(SPACE, batch_size=8)
    with pytest.raises(UserError, match="nothing is nan, by which the best weights"):
        wpl_jax.retrain(task, [0, 1], optimizer=Sgd(0.01), epochs=1)


class Interrupts:
    """A logger at whose first record Ctrl-C is pressed."""

    def __init__(self, logged):
        del logged

    def log(self, step, values):
        del values
        if step == 0:
            signal.raise_signal(signal.SIGINT)

    def close(self):
        pass


@pytest.fixture
def _pythons_handler():
    """That of Ctrl-C, which what a script starts in the background does not have."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("_pythons_handler")
def test_a_training_in_memory_is_interrupted_as_python_is(tmp_path, monkeypatch):
    """Nothing of it is saved, so that it must not say so and end the program."""
    monkeypatch.setenv("HOME", str(tmp_path))
    task, settings = Sines(SPACE, batch_size=8), {"optimizer": Sgd(0.1), "epochs": 2}
    interrupted = {**settings, "loggers": [Interrupts]}
    with pytest.raises(KeyboardInterrupt):
        wpl_jax.retrain(task, [0, 1], **interrupted)
    with pytest.raises(SystemExit):
        wpl_jax.retrain(task, [0, 1], workdir="~/kept", **interrupted)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    made = []

    def resume():
        made.append(wpl_jax.retrain(task, [0, 1], workdir="~/kept", **settings))

    thread = threading.Thread(target=resume)
    thread.start()
    thread.join()
    whole = wpl_jax.retrain(task, [0, 1], **settings)
    np.testing.assert_array_equal(made[0](X[:3]), whole(X[:3]))


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ({"layer_0": "relu"}, r"has the decisions \['layer_0'\], expected"),
        ({"layer_0": "relu", "layer_1": "sin"}, "has 'sin' as layer_1"),
        ([0, 2], "expected the index of a choice for each of"),
        ([0.0, 1.0], "expected the index of a choice for each of"),
    ],
)
def test_an_architecture_is_one_of_the_space(architecture, said):
    with pytest.raises(UserError, match=said):
        wpl_jax.retrain(
            Sines(SPACE, batch_size=8), architecture, optimizer=Sgd(0.1), epochs=1
        )


def test_a_fisher_of_the_model_needs_to_know_how_targets_are_drawn():
    def loss(outputs, targets):
        return abs(outputs - targets)[:, 0]

    of_model = WeightPlasticity(estimator=PerExample(labels="model"))
    unknown = wpl_jax.task(loss=loss, train=(X, Y))(SPACE, batch_size=8)
    with pytest.raises(UserError, match=r"does not say how\. Pass sample_targets="):
        search_of_sines(task=unknown, protection=of_model)
    known = wpl_jax.task(loss=loss, train=(X, Y), sample_targets=lambda key, y: y + 1)
    search_of_sines(task=known(SPACE, batch_size=8), protection=of_model)
    search_of_sines(task=unknown, protection=WeightPlasticity(estimator=PerExample()))


def test_a_task_without_data_of_its_own_says_so():
    assert own_if_none(ToyTask(), None) == "toy examples"  # It takes no options.
    images = ImageClassification(Normalized((4, 4, 1), 2))
    with pytest.raises(UserError, match="ImageClassification has no data of its own"):
        own_if_none(images, None)


def get_config(strategy="random", penalty="wpl"):
    """A configuration with the task, by its import path."""
    config = tiny_images.get_config()
    config.task = ConfigDict({"name": NAME, "Sines": {"batch_size": 8}})
    config.space = ConfigDict(
        {"name": "helpers.tabular:Layers", "Layers": {"hidden": 3}}
    )
    config.retrain.task = ConfigDict()
    config.retrain.space = ConfigDict({"Layers": {"hidden": 5}})
    few = {"proposed": 4, "screen_batches": 1, "keep": 1, "judge_batches": 1}
    networks = {"embedding": 2, "hidden": 2, "units": 2, "batch_size": 2}
    nao = {"every": 1, "pool": 4, "updates": 2, "seeds": 2, "new": 2, "random": 1}
    own = {
        "differentiable": {"candidates": few | {"proposed": 1}},
        "enas": {"steps": 2, "candidates": few},
        "nao": {**nao, "candidates": few, "networks": networks},
        "pada": {"candidates": few, "epochs": 2},
    }.get(strategy, {"candidates": few})
    config.strategy = choice(STRATEGIES, strategy, **{strategy: own})
    config.penalty = choice(PENALTIES, penalty)
    config.search.update({"epochs": 2, "children": 2, "eval_batches": 1})
    config.search.learn_per_call = 1
    return config


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_works_with_it(strategy):
    config = expand(get_config(strategy))[0].config
    search, _, about = make_search(config)
    make_plan(config, search)
    assert about == "sines: examples 86 train, 10 valid, 24 test; inputs 3; targets 1"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "penalty"), list(itertools.product(STRATEGIES, PENALTIES))
)
def test_every_combination_keeps_the_form_of_the_state(strategy, penalty):
    run = expand(get_config(strategy, penalty))[0]
    assert_calls_keep_the_form(run, phases=("train", "learn"))


@pytest.mark.slow
def test_a_configuration_runs_it_to_a_report_and_predicts(tmp_path):
    run = tmp_path / "run"
    jobs.run(get_config(), run, "run", Machine(devices=2))
    (folder,) = (run / "searches").iterdir()
    found = json.loads((folder / "retrain" / "retrained.json").read_text())
    assert found["error_name"] == "RMSE"
    assert set(found["test_metrics"]) == {"distance"}
    report = (run / "report.html").read_text()
    assert "RMSE" in report
    assert "<th>test distance</th>" in report
    assert "nats" not in report
    path = tmp_path / "inputs.csv"
    text = "\n".join(",".join(map(str, row)) for row in X[:70])
    path.write_text(f"a,b,c\n{text}\n")
    np.save(tmp_path / "inputs.npy", X[:70])
    tables = []
    for name in ("inputs.csv", "inputs.npy"):
        machine = Machine(input=tmp_path / name, output=tmp_path / "out.csv")
        jobs.run(get_config(), run, "predict", machine)
        tables.append((tmp_path / "out.csv").read_text())
    assert tables[0] == tables[1]
    rows = list(csv.DictReader(tables[0].splitlines()))
    expected = wpl_jax.load(run, space=Layers)(X[:70])
    assert [int(row["example"]) for row in rows] == list(range(70))
    predicted = [float(row["output"]) for row in rows]
    np.testing.assert_allclose(predicted, expected[:, 0], rtol=1e-5)
    jobs.run(get_config(), run, "ensemble")
