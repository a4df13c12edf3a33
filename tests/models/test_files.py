"""Models in files: written, read, found in folders; and files that are none."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from helpers.models import make_inputs, make_model

import wpl_jax
from wpl_jax.errors import UserError
from wpl_jax.models.files import MODEL_FILE, describe, model_to_bytes
from wpl_jax.runs.run_files import to_json
from wpl_jax.runs.safetensors import read_safetensors, to_safetensors
from wpl_jax.spaces.nasbench201 import NasBench201

SMALL = NasBench201((4, 4, 1), 2)


def save(folder, model):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MODEL_FILE
    path.write_bytes(model_to_bytes(model))
    return path


def changed(path, change):
    """The file with other metadata."""
    arrays, texts = read_safetensors(path)
    about = json.loads(texts["wpl_jax"])
    change(about)
    path.write_bytes(to_safetensors(arrays, {"wpl_jax": json.dumps(about)}))


@pytest.mark.slow_except("recurrent_cell")
@pytest.mark.parametrize("name", ["nasbench201", "recurrent_cell", "micro_cell"])
def test_a_model_comes_back_as_it_was(name, tmp_path):
    model = make_model(name)
    found = wpl_jax.load(save(tmp_path, model))
    assert found.space == model.space
    assert found.predictor == model.predictor
    assert found.metrics == model.metrics
    assert found.path == tmp_path / MODEL_FILE
    assert found.labels == model.labels
    assert list(found.architecture) == [d.name for d in model.space.decisions]
    np.testing.assert_array_equal(found.choice, model.choice)
    of_both = [(each.params, each.statistics) for each in (found, model)]
    for one, other in zip(*of_both, strict=True):
        assert jax.tree.structure(one) == jax.tree.structure(other)
        jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.slow
def test_an_image_alone_is_judged_as_among_others():
    model = make_model("nasbench201")
    images = make_inputs(model)
    together = model(images)
    assert together.shape == (3, 3)
    np.testing.assert_allclose(np.exp(together).sum(-1), 1, rtol=1e-5)
    for image, expected in zip(images, together, strict=True):
        np.testing.assert_allclose(model(image)[0], expected, rtol=1e-5, atol=1e-6)


def test_text_has_the_next_words_of_each_word():
    model = make_model("recurrent_cell")
    found = model("the cat sat")
    assert found.shape == (3, 5)
    again = model(np.array([[0, 2, 3]]))
    np.testing.assert_array_equal(found, again[0])


def test_of_several_models_it_is_that_of_the_lowest_error(tmp_path):
    model = make_model("recurrent_cell")
    for seed, error in enumerate([3.0, 1.0, 2.0]):
        metrics = model.metrics | {"valid_error": error}
        folder = tmp_path / "searches" / f"wpl-seed{seed}" / "retrain"
        save(folder, dataclasses.replace(model, metrics=metrics))
    expected = tmp_path / "searches" / "wpl-seed1" / "retrain" / MODEL_FILE
    assert wpl_jax.load(tmp_path).path == expected
    of_search = wpl_jax.load(tmp_path / "searches" / "wpl-seed2")
    assert of_search.metrics["valid_error"] == 2.0
    other = model.metrics | {"error_name": "perplexity"}
    save(folder, dataclasses.replace(model, metrics=other))
    with pytest.raises(UserError, match="models of different tasks"):
        wpl_jax.load(tmp_path)


def test_a_folder_without_a_finished_training_is_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no .*nowhere, expected the folder"):
        wpl_jax.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"No training has finished in .*: there is no"):
        wpl_jax.load(tmp_path)
    retrain = tmp_path / "searches" / "a-seed0" / "retrain"
    retrain.mkdir(parents=True)
    (retrain / "retrained.json").write_text("{}")
    with pytest.raises(UserError, match=r"an earlier version trained it\. Delete"):
        wpl_jax.load(tmp_path)


@pytest.mark.parametrize("space", ["ladder:Ladder", dict, SMALL])
def test_what_is_no_class_of_spaces_is_named(space, tmp_path):
    with pytest.raises(UserError, match=r"space is .*, expected a class of spaces"):
        wpl_jax.load(tmp_path, space=space)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(b"\x89PNG and so on")
    with pytest.raises(UserError, match=r"cat\.png is not a model"):
        wpl_jax.load(path)
    path.write_bytes(to_safetensors({"x": np.float32([1])}, {"format": "pt"}))
    with pytest.raises(UserError, match="holds arrays but no model of wpl_jax"):
        wpl_jax.load(path)


@pytest.mark.slow_except("os:system", "None")
@pytest.mark.parametrize("name", ["os:system", "helpers.toy:Toy", None, ["a"]])
def test_a_file_imports_no_module(name, tmp_path):
    path = save(tmp_path, make_model("nasbench201"))
    changed(path, lambda about: about["space"].update(name=name))
    with pytest.raises(UserError, match=r"is a model of .*pass its class"):
        wpl_jax.load(path)
    assert wpl_jax.load(path, space=NasBench201).space.name == "nasbench201"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda about: about.update(form=2), r"has form 2, .* reads form 1"),
        (lambda about: about.pop("metrics"), "no model of wpl_jax"),
        (lambda about: about["space"]["settings"].update(wide=1), "wide"),
        (lambda about: about["space"]["settings"].update(channels=0), "channels"),
        (lambda about: about["space"]["settings"].update(channels=8), "shape"),
        (lambda about: about["architecture"]["decisions"].clear(), "edge_0_1"),
        (
            lambda about: about["predictor"].update(name="sound"),
            "a model of 'sound'",
        ),
    ],
)
def test_files_that_do_not_hold_together_are_named(change, said, tmp_path):
    path = save(tmp_path, make_model("nasbench201"))
    changed(path, change)
    with pytest.raises(UserError, match=said):
        wpl_jax.load(path)


def test_a_missing_array_is_named(tmp_path):
    model = make_model("nasbench201")
    path = save(tmp_path, model)
    arrays, _ = read_safetensors(path)
    del arrays["statistics/stem/mean"]
    path.write_bytes(to_safetensors(arrays, {"wpl_jax": to_json(describe(model))}))
    with pytest.raises(UserError, match="statistics/stem/mean"):
        wpl_jax.load(path)
