"""Searches from Python are those of configurations, in a folder or in memory."""

import dataclasses
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import toy
from helpers.parts import make_protection
from helpers.tabular import SPACE, Layers, Normalized, Sines
from ml_collections import ConfigDict

import wpl_jax
from wpl_jax.data import DataError, images_of_arrays, text_of_strings
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.errors import UserError
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.modes.run import run as run_config
from wpl_jax.jobs.python import check_sizes
from wpl_jax.jobs.search_config import make_search
from wpl_jax.protections import NoProtection
from wpl_jax.runs.in_memory import InMemory
from wpl_jax.runs.machine import Machine
from wpl_jax.search import Search
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.strategies.enas import Enas
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.image_classification import ImageClassification
from wpl_jax.tasks.language_model import LanguageModel

EPOCHS = 2


def get_config():
    config = toy.get_config()
    config.arms = ConfigDict({"wpl": config.arms.wpl})
    config.search.epochs = EPOCHS
    config.retrain.epochs = 0
    return config


@pytest.fixture(scope="module")
def search():
    return make_search(expand(get_config())[0].config)[0]


@pytest.fixture(scope="module")
def found(search):
    return wpl_jax.run(search, "toy examples", epochs=EPOCHS, learn_per_call=2)


def test_it_is_the_search_of_the_configuration(found, tmp_path):
    run_config(get_config(), tmp_path, Machine())
    folder = tmp_path / "searches" / "wpl-seed0"
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines]
    assert [{"step": i, **record} for i, record in enumerate(found.metrics)] == expected
    results = json.loads((folder / "results.json").read_text())
    assert found.architecture.tolist() == results["architecture"]
    assert found.error == pytest.approx(results["valid_error"])
    chosen = json.loads((folder / "architecture.json").read_text())
    assert found.choices == chosen["decisions"]


def test_a_folder_keeps_it_and_is_of_one_search(search, found, tmp_path):
    settings = {"epochs": EPOCHS, "learn_per_call": 2, "workdir": tmp_path}
    kept = wpl_jax.run(search, "toy examples", **settings)
    again = wpl_jax.run(search, "toy examples", **settings)
    for one in (kept, again):
        assert one.metrics == found.metrics
        np.testing.assert_array_equal(one.architecture, found.architecture)
    with pytest.raises(UserError, match=r"another|other"):
        wpl_jax.run(search, "toy examples", seed=1, **settings)


def test_weights_and_data_are_no_literals_of_the_program_that_predicts(search, found):
    """They would be compiled into it, anew for each shape of the inputs."""
    inputs = jnp.ones((3, toy.SIZE))
    assert found.predict(inputs).shape == (3, 1)
    traced = found.predict.func.trace(*found.predict.args, inputs)
    most = len(search.task.space.decisions)  # The architecture is a constant.
    assert all(np.size(each) <= most for each in traced.jaxpr.consts)
    literals = re.findall(r"dense<(.*?)>", traced.lower().as_text())
    assert all(text.count(",") < most for text in literals)


@pytest.mark.slow
def test_a_search_goes_back_in_memory_as_in_a_folder(tmp_path):
    task = toy.ToyTask()
    search = Search(
        task=task,
        strategy=Enas(task.space, 2, Candidates(4, 1, 2), hidden=4),
        protection=make_protection(start_epoch=0),
        optimizer=Sgd(1e38),
        children=2,
        batches=2,
        eval_batches=2,
    )
    settings = {"epochs": 1, "max_bad_steps": 1}
    said = []
    for workdir in (tmp_path, None):
        with pytest.raises(UserError) as caught:
            wpl_jax.run(search, "toy examples", workdir=workdir, **settings)
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert "with a thousandth of the learning rate" in said[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs is 0, expected a whole number of at least 1"),
        ({"epochs": 1.5}, "epochs is 1.5, expected"),
        ({"epochs": 10**9}, "epochs is 1000000000, expected .* and at most"),
        ({"seed": -1}, "seed is -1, expected"),
        ({"seed": 2**32}, "seed is 4294967296, expected"),
        (
            {"learn_per_call": 3},
            "learn_per_call is 3, expected a divisor",
        ),
        ({"seed": 1.0}, "seed is 1.0, expected"),
        ({"max_bad_steps": 0}, "max_bad_steps is 0, expected"),
        ({"checkpoint_seconds": "60"}, "checkpoint_seconds is '60', expected"),
        ({"loggers": "wandb"}, "loggers is 'wandb', expected a list"),
    ],
)
def test_a_wrong_argument_is_named(search, settings, said):
    with pytest.raises(ValueError, match=said):
        wpl_jax.run(search, "toy examples", **{"epochs": 1, **settings})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"eval_batches": 1000},
            r"^eval_batches is 1000, expected at most 5, the batches of the validation",
        ),
        (
            {"strategy": RandomSearch(toy.ToySpace(), Candidates(2, 6, 1, 7))},
            r"^strategy\.candidates\.screen_batches is 6 and "
            r"strategy\.candidates\.judge_batches is 7, expected at most 5",
        ),
        (
            {"children": 1000, "children_per_step": 500},
            r"^children_per_step is 500, expected at most 5, the batches of the train",
        ),
        ({"average_from": 2}, "^average_from is 2, expected an epoch before 2"),
        ({"devices": Devices(9)}, "^devices is 9, expected 1 to 8, the number of cpu"),
        (
            {"devices": Devices(3)},
            "^rows_per_batch is 4, expected a multiple of 3, the dev",
        ),
    ],
)
def test_what_the_data_and_the_epochs_do_not_hold_is_named(search, changes, said):
    with pytest.raises(ValueError, match=said):
        wpl_jax.run(dataclasses.replace(search, **changes), "toy examples", epochs=2)


def test_advice_names_arguments(search, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*Give one .*with workdir"):
        wpl_jax.run(search, "toy", epochs=1, workdir=tmp_path / "file" / "run")
    with pytest.raises(UserError, match=r"wpl_jax\.retrain\(..., workdir=FOLDER\)"):
        wpl_jax.load(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"search": "another"}')
    with pytest.raises(UserError) as caught:
        wpl_jax.run(search, "toy", epochs=1, workdir=tmp_path / "run")
    assert "another search or training" in str(caught.value)
    assert "Repeat its call, or give another workdir." in str(caught.value)
    assert "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"children": 0}, "children is 0, expected"),
        ({"batches": 0}, "batches is 0, expected"),
        ({"eval_batches": 1.5}, "eval_batches is 1.5, expected"),
        ({"children_per_step": 5}, "children_per_step is 5, expected a divisor"),
        ({"average_from": -1}, "average_from is -1, expected"),
        ({"task": toy.ToyTask}, "task is .*, expected a task with a space"),
        ({"strategy": "enas"}, "strategy is 'enas', expected an instance of a class"),
        ({"protection": NoProtection}, "protection is .*, expected an instance"),
        ({"optimizer": optax.sgd(0.1)}, r"optimizer is .*optimizers\.Optimizer"),
        ({"reward": print}, r"reward is .*rewards\.Reward"),
        ({"devices": 2}, r"devices is 2, expected .*parallel\.Devices"),
        (
            {"children_per_step": 2, "devices": Devices(4, "children")},
            "^children_per_step is 2, expected 1 or a multiple of 4",
        ),
        (
            {"strategy": RandomSearch(toy.Points(3), Candidates(2, 1, 1))},
            "strategy is .*, expected one of the task's space, ToySpace",
        ),
    ],
)
def test_a_wrong_part_of_a_search_is_named(search, changes, said):
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(search, **changes)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ((0,), "count is 0, expected"),
        ((2, "child"), "mode is 'child', expected one of"),
    ],
)
def test_wrong_devices_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        Devices(*fields)


@pytest.mark.slow
def test_a_search_without_a_finite_step_is_an_error():
    # All steps are fewer than max_bad_steps.
    search = dataclasses.replace(
        searched(toy.ToyTask()), optimizer=Sgd(3e38), batches=2
    )
    with pytest.raises(
        UserError, match=r"2 steps in a row .* of the optimizer, and gi"
    ):
        wpl_jax.run(search, "toy examples", epochs=1, max_bad_steps=1000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seed": 1.5}, "seed is 1.5, expected"),
        ({"seed": "1"}, "seed is '1', expected"),
        ({"checkpoint_seconds": None}, "checkpoint_seconds is None, expected"),
        ({"optimizer": optax.sgd(0.1)}, r"optimizer is .*optimizers\.Optimizer"),
        ({"devices": 2}, "devices is 2, expected"),
        ({"task": Sines}, "task is .*, expected a task with a space"),
    ],
)
def test_a_wrong_argument_of_a_training_is_named(settings, said):
    given = {"task": Sines(SPACE), "optimizer": Sgd(0.1), "epochs": 1, **settings}
    with pytest.raises(ValueError, match=said):
        wpl_jax.retrain(given.pop("task"), [0, 1], **given)


def test_what_is_no_search_and_no_data_set_is_named(search):
    with pytest.raises(UserError, match=r"search is Toy.*expected a .*search\.Search"):
        wpl_jax.run(search.task, "toy examples", epochs=1)
    pair = np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, int)
    for task, given, said in (
        (Sines(SPACE), pair, "expected the ArrayDataset"),
        (ImageClassification(Normalized((8, 8, 3), 2)), pair, "load_images returns"),
        (LanguageModel(RecurrentCell(3, hidden=2)), "a text", "load_text returns"),
    ):
        with pytest.raises(UserError, match=f"dataset is .*{said}"):
            wpl_jax.run(searched(task), given, epochs=1)


def test_the_model_predicts_the_next_word():
    words = ["a", "b", "c", "d", "e", "f", "g", "h"]
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(words, 300)) + "\n" for _ in range(3)]
    data = text_of_strings(*texts)
    space = RecurrentCell(data.vocabulary_size, hidden=4, num_nodes=2)
    task = LanguageModel(space, length=5, batch_size=4)
    params = jax.jit(space.init)(jax.random.key(0))
    architecture = Architecture(jnp.zeros(len(space.decisions), jnp.int32))
    child = gather(params, space.rows(architecture))
    inputs = jnp.asarray(data.valid[:12].reshape(2, 6))
    predicted = jax.jit(task.predict)(child, architecture, None, inputs)
    found = np.asarray(predicted, np.float64)
    assert found.shape == (2, 6, data.vocabulary_size)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-5)
    # What it gives the targets is what an example's loss is made of.
    example_loss = jax.jit(task.example_loss)
    for row, sequence in zip(found, np.asarray(inputs), strict=True):
        example = jnp.asarray(sequence[:-1]), jnp.asarray(sequence[1:])
        loss = example_loss(child, architecture, example)
        own = -row[np.arange(5), sequence[1:]].mean()
        np.testing.assert_allclose(loss, own, rtol=1e-5)


def searched(task):
    """A random search on a task, which is not run."""
    return Search(
        task=task,
        strategy=RandomSearch(task.space, Candidates(2, 1, 1)),
        protection=NoProtection(),
        optimizer=Sgd(0.1),
        children=1,
        batches=1,
        eval_batches=1,
    )


@pytest.mark.parametrize("off", [-1, 1])
def test_a_space_has_the_sizes_of_the_data(off):
    """JAX takes a word or a class that there is not for another one, or for NaN."""
    text = text_of_strings(
        *(f"{words} " * 20 + "\n" for words in ("a b c d", "b", "c"))
    )
    words = text.vocabulary_size
    task = LanguageModel(RecurrentCell(words + off, hidden=2), length=5, batch_size=2)
    with pytest.raises(UserError) as caught:
        wpl_jax.run(searched(task), text, epochs=1)
    said = f"has vocabulary_size={words + off}, expected {words}, as the data has it"
    assert said in str(caught.value)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    data = images_of_arrays((images, np.arange(60) % 3), 6, 6)
    for shape, classes, name in (
        ((8, 8, 3), 3 + off, "num_classes"),
        ((8, 8 + off, 3), 3, "image_shape"),
    ):
        task = ImageClassification(Normalized(shape, classes), batch_size=6)
        with pytest.raises(UserError, match=f"has {name}="):
            wpl_jax.run(searched(task), data, epochs=1)
        with pytest.raises(UserError, match=f"has {name}="):
            wpl_jax.retrain(task, [0], data, optimizer=Sgd(0.1), epochs=1)


def test_outputs_may_have_another_shape_than_targets():
    """The loss takes both, and a space says in its own way how many there are."""
    x = np.random.default_rng(0).normal(size=(40, 3))

    def loss(outputs, targets):
        return (targets[:, 0] - outputs[:, 0]) ** 2 + outputs[:, 1] ** 2

    task = wpl_jax.task(loss=loss, train=(x, x[:, :1]))(Layers((3,), (2,)))
    check_sizes(task, task.open())
    classes = wpl_jax.task(kind="classification", train=(x, np.arange(40) % 3))
    task = classes(Normalized((1, 1, 3), 2))
    with pytest.raises(UserError, match="has num_classes=2, expected 3"):
        check_sizes(task, task.open())


def test_arrays_are_a_data_set():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 8, 8, 3), np.uint8)
    labels = np.arange(60) % 3
    data = images_of_arrays(
        (images, labels), valid=9, test=(images[:6] // 2, labels[:6])
    )
    assert data.image_shape == (8, 8, 3)
    assert data.num_classes == 3
    assert [len(s.labels) for s in (data.train, data.valid, data.test)] == [51, 9, 6]
    with pytest.raises(DataError, match="labels of train"):
        images_of_arrays((images, labels[:-1]))
    again = images_of_arrays(
        [images, labels], valid=9, test=[images[:6] // 2, labels[:6]]
    )
    np.testing.assert_array_equal(again.train.images, data.train.images)


IMAGES, LABELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)), np.arange(6)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"train": 0.5}, r"argument train: found 0\.5; expected a pair \(images, lab"),
        ({"train": (1, 2, 3)}, "argument train: found .* expected a pair"),
        ({"class_names": "abc"}, "argument class_names: found 'abc'"),
        ({"seed": "0"}, "argument seed: found '0'"),
        (
            {"train": (np.uint8(IMAGES).transpose(0, 3, 1, 2), LABELS)},
            r"shape \(6, 3, 8, 8\), which looks like channels first",
        ),
        (
            {"train": (np.ma.masked_array(np.uint8(IMAGES), IMAGES == 0), LABELS)},
            "images of train: found masked values",
        ),
        (
            {"train": ([[[1], [2]], [[3]]], LABELS)},
            "of type list that numpy cannot read",
        ),
    ],
)
def test_what_is_no_array_of_images_is_named(given, said):
    with pytest.raises(DataError, match=said):
        images_of_arrays(**{"train": (np.uint8(IMAGES), LABELS), **given})


def test_what_is_no_text_is_named():
    for name, text in (("train", b"a b"), ("valid", None), ("test", ["a", "b"])):
        given = {"train": "a b c\n", "valid": "a\n", "test": "b\n"} | {name: text}
        with pytest.raises(DataError, match=f"argument {name}: found .*expected text"):
            text_of_strings(**given)


def test_going_back_takes_the_state_of_the_landmark_and_its_records():
    made = []
    job = InMemory(
        total=6,
        start=lambda: {"count": jnp.int32(0), "key": jax.random.key(3)},
        record_of=lambda done: done,
        title="test",
        landmark=lambda done: done % 2 == 0,
    )
    with job:
        for number in job.calls():
            made.append(number)
            job.state = job.state | {"count": job.state["count"] + 1}
            if made == [0, 1, 2, 3]:
                job.go_back()
                assert int(job.state["count"]) == 2
                assert jax.random.key_data(job.state["key"])[1] == 3
                continue
            job.record(number, {"count": int(job.state["count"])})
    assert made == [0, 1, 2, 3, 2, 3, 4, 5]
    assert [record["count"] for record in job.records] == [1, 2, 3, 4, 5, 6]
