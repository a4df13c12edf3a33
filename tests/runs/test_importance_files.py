"""Fishers and anchors in files: they come back, and what does not fit is named."""

import functools
import json
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.raising import assert_says

import wpl_jax
from wpl_jax.errors import UserError
from wpl_jax.runs.safetensors import read_safetensors, to_safetensors

RNG = np.random.default_rng(0)
ANCHOR = {
    "hidden": {"kernel": jnp.asarray(RNG.normal(size=(3, 4)), jnp.bfloat16)},
    "scale": jnp.float32(2.0),
}
FISHER = jax.tree.map(lambda p: jnp.asarray(RNG.random(p.shape), jnp.float32), ANCHOR)
ABOUT = {"estimator": "exact_fisher", "examples": 1000, "loss": "cross-entropy"}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "task.safetensors"
    wpl_jax.save_importance(path, FISHER, ANCHOR, ABOUT)
    return path


def assert_same(got, want):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == w.dtype
        np.testing.assert_array_equal(g, w)


def test_it_comes_back_with_what_is_known_about_it(path):
    found = wpl_jax.load_importance(path, like=ANCHOR)
    assert_same(found.fisher, FISHER)
    assert_same(found.anchor, ANCHOR)
    assert ABOUT.items() <= found.about.items()
    assert re.match(r"20\d\d-\d\d-\d\dT.*\+00:00$", found.about["date"])
    assert found.about["wpl_jax"] == wpl_jax.__version__
    assert re.fullmatch("[0-9a-f]{16}", found.about["fingerprint"])


def test_the_fingerprint_is_that_of_the_model(path, tmp_path):
    other = tmp_path / "other.safetensors"
    prints = [wpl_jax.load_importance(path).about["fingerprint"]]
    for fisher, anchor in (
        (jax.tree.map(lambda f: 2 * f, FISHER), ANCHOR),
        (FISHER, jax.tree.map(lambda p: 2 * p, ANCHOR)),
    ):
        wpl_jax.save_importance(other, fisher, anchor)
        prints.append(wpl_jax.load_importance(other).about["fingerprint"])
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_of_parameters_is_that_of_a_file_with_them(path):
    written = wpl_jax.load_importance(path).about["fingerprint"]
    found = wpl_jax.load_importance(path, like=ANCHOR)
    assert wpl_jax.fingerprint(ANCHOR) == wpl_jax.fingerprint(found.anchor) == written
    numpy = jax.tree.map(np.asarray, ANCHOR)
    assert wpl_jax.fingerprint(numpy) == written
    # A model that was fine-tuned has another one, and may load the file all the same.
    tuned = ANCHOR | {"scale": jnp.nextafter(ANCHOR["scale"], jnp.float32(3))}
    moved = {"hidden": ANCHOR["hidden"]["kernel"], "scale": ANCHOR["scale"]}
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), ANCHOR)
    others = {wpl_jax.fingerprint(params) for params in (tuned, moved, wide)}
    assert len(others | {written}) == 4
    assert_same(wpl_jax.load_importance(path, like=tuned).anchor, ANCHOR)
    with pytest.raises(ValueError, match="int32"):
        wpl_jax.fingerprint({"w": jnp.arange(3)})


def cross_entropy(params, example):
    raise NotImplementedError


def test_the_header_has_what_the_arguments_say(tmp_path):
    path = tmp_path / "x.safetensors"
    for estimator, loss, names in (
        (wpl_jax.exact_fisher, cross_entropy, ["exact_fisher", "cross_entropy"]),
        ("mine", "squared error", ["mine", "squared error"]),
    ):
        wpl_jax.save_importance(
            path,
            FISHER,
            ANCHOR,
            {"seed": 3},
            estimator=estimator,
            examples=np.int64(1000),
            loss=loss,
        )
        about = wpl_jax.load_importance(path).about
        assert [about["estimator"], about["loss"]] == names
        assert (about["examples"], about["seed"]) == (1000, 3)
    wpl_jax.save_importance(path, FISHER, ANCHOR, {"loss": "in about"}, examples=5)
    about = wpl_jax.load_importance(path).about
    assert about["loss"] == "in about"
    assert "estimator" not in about


def test_a_header_that_would_be_wrong_is_named(tmp_path):
    save = functools.partial(
        wpl_jax.save_importance, tmp_path / "x.safetensors", FISHER, ANCHOR
    )
    for options, said in (
        ({"examples": 0}, ["examples", "got 0"]),
        ({"examples": 2.5}, ["examples", "2.5"]),
        ({"estimator": 3}, ["estimator must be a text or a function", "3"]),
        ({"loss": functools.partial(cross_entropy)}, ["loss", "cross_entropy"]),
        ({"about": {"loss": "a"}, "loss": "b"}, ["['loss']", "already"]),
        ({"about": {"date": "a"}}, ["['date']", "already"]),
        ({"about": {"accuracy": np.float32(0.5)}}, ["about", "JSON", "x.item()"]),
    ):
        assert_says(functools.partial(save, **options), said)
    assert not any(tmp_path.iterdir())


def test_without_a_model_it_is_arrays_by_path(path):
    found = wpl_jax.load_importance(str(path))
    assert set(found.fisher) == set(found.anchor) == {"hidden/kernel", "scale"}
    np.testing.assert_array_equal(found.fisher["scale"], FISHER["scale"])


def test_the_official_package_reads_it(path):
    safetensors = pytest.importorskip("safetensors", reason="needs safetensors")
    with safetensors.safe_open(path, "flax") as file:
        names = set(file.keys())
        kernel = file.get_tensor("anchor/hidden/kernel")
    assert names == {
        f"{kind}/{name}"
        for kind in ("fisher", "anchor")
        for name in ("hidden/kernel", "scale")
    }
    assert kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(kernel, ANCHOR["hidden"]["kernel"])


def test_flax_models_of_both_kinds_come_back(tmp_path):
    path = tmp_path / "flax.safetensors"
    linen = nn.Dense(2).init(jax.random.key(0), jnp.ones((1, 3)))
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    for params in (linen, nnx.state(model, nnx.Param)):
        fisher = jax.tree.map(jnp.square, params)
        wpl_jax.save_importance(path, fisher, params)
        found = wpl_jax.load_importance(path, like=jax.eval_shape(lambda p=params: p))
        assert_same(found.fisher, fisher)
        tx = wpl_jax.weight_plasticity(1.0)
        state = wpl_jax.consolidate(tx.init(params), found.anchor, found.fisher)
        assert_same(state.fisher, fisher)


def test_a_penalty_in_fewer_bits_is_saved_as_numbers(tmp_path):
    path = tmp_path / "bits.safetensors"
    params = jax.tree.map(lambda p: p.astype(jnp.float32), ANCHOR)
    tx = wpl_jax.weight_plasticity(1.0, anchor_dtype="int8", fisher_dtype="uint8")
    tx = optax.chain(tx, optax.sgd(0.1))
    (state,) = wpl_jax.plasticity_states(
        wpl_jax.consolidate(tx.init(params), params, FISHER)
    )
    wpl_jax.save_importance(path, state.fisher, state.anchor)
    found = wpl_jax.load_importance(path, like=params)
    assert_same(found.fisher, state.fisher)


# What does not fit, or is no such file.


def test_a_model_that_differs_is_told_all_that_differs(path):
    like = {
        "hidden": {"kernel": jnp.ones((3, 5)), "bias": jnp.ones(5)},
        "last": jnp.ones(2),
    }
    with pytest.raises(UserError) as error:
        wpl_jax.load_importance(path, like=like)
    said = str(error.value)
    assert "the file lacks: hidden/bias, last." in said
    assert "the model lacks: scale." in said
    assert "'hidden/kernel' is (3, 4) in the file and (3, 5) in the model" in said


def test_many_differences_are_counted(path):
    like = {f"layer{i}": jnp.ones(2) for i in range(9)}
    with pytest.raises(UserError, match=r"layer4 and 4 more\. "):
        wpl_jax.load_importance(path, like=like)


def damaged(path, change):
    arrays, texts = read_safetensors(path)
    arrays = {name: np.array(x) for name, x in arrays.items()}
    change(arrays, texts)
    path.write_bytes(to_safetensors(arrays, texts))


def header(**changes):
    def change(arrays, texts):
        texts["importance"] = json.dumps(json.loads(texts["importance"]) | changes)

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a, t: a["fisher/scale"].__setitem__((), 3.0), "is damaged"),
        (lambda a, t: a.pop("anchor/scale"), "is damaged"),
        (lambda a, t: t.clear(), "no header of one"),
        (lambda a, t: t.update(importance="{}"), "no header of one"),
        (lambda a, t: t.update(importance="[1]"), "no header of one"),
        (header(about=3), "no header of one"),
        (header(form=9), "has form 9, and this version of wpl_jax reads form 1"),
    ],
)
def test_other_files_are_named(path, change, said):
    damaged(path, change)
    with pytest.raises(UserError, match=said):
        wpl_jax.load_importance(path, like=ANCHOR)


def test_a_file_that_is_none_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="cannot be read"):
        wpl_jax.load_importance(path)
    path.write_bytes(b"A picture of a cat")
    with pytest.raises(UserError, match=r"not a file of wpl_jax\.save_importance"):
        wpl_jax.load_importance(path)


@pytest.mark.parametrize(
    ("fisher", "anchor", "said"),
    [
        ({"w": jnp.ones(2)}, {"v": jnp.ones(2)}, "'w'"),
        ({"w": -jnp.ones(2)}, {"w": jnp.ones(2)}, "entries such as -1"),
        ({"w": jnp.ones(2)}, {"w": jnp.array([1, jnp.nan])}, "entries such as nan"),
        ({"w": jnp.ones(2)}, {"w": jnp.ones(2, jnp.complex64)}, "complex64"),
    ],
)
def test_what_cannot_be_saved_is_named(fisher, anchor, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        wpl_jax.save_importance(tmp_path / "x.safetensors", fisher, anchor)
    assert not any(tmp_path.iterdir())
