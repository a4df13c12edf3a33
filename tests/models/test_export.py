"""Models as programs: StableHLO, ONNX, and what cannot be exported."""

import dataclasses
import json
import math
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import MODELS, WORDS, make_inputs, make_model
from jax import export as jax_export

import wpl_jax
from wpl_jax.errors import UserError
from wpl_jax.models.model import Model
from wpl_jax.spaces.images import Outputs
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.network import Block, Dense, Network, dense_weights
from wpl_jax.supernet import ALL, Space
from wpl_jax.tasks.array_predictor import ArrayPredictor
from wpl_jax.tasks.image_predictor import ImagePredictor


def expected(model, inputs):
    return jax.jit(model.apply)(model.params, inputs)


def traced_for_any_batch(model):
    """The shape of the predictions, with the names of sizes that may differ."""
    shape, dtype = model.predictor.form()
    sizes = jax_export.symbolic_shape(", ".join(map(str, shape)))
    return jax.eval_shape(
        lambda inputs: model.apply(model.params, inputs),
        jax.ShapeDtypeStruct(sizes, dtype),
    ).shape


@pytest.mark.slow_except("recurrent_cell")
@pytest.mark.parametrize("name", MODELS)
def test_every_space_takes_a_batch_of_any_size(name):
    model = make_model(name)
    batch, *rest = traced_for_any_batch(model)
    assert str(batch) == "batch"
    words = list(model.labels) == list(WORDS)
    assert [str(n) for n in rest] == (["time", "5"] if words else ["3"])


def test_images_that_are_made_smaller_may_be_any_number(tmp_path):
    shrinking = ImagePredictor(
        ("a", "b", "c"), (5, 4, 2), (0.0,) * 2, (1.0,) * 2, shrink=2
    )
    kernel = jnp.asarray(np.random.default_rng(3).normal(size=(8, 3)), jnp.float32)
    model = Model(
        Flat((2, 2, 2), 3), np.zeros(0, np.int32), shrinking, {"kernel": kernel}, (), {}
    )
    folder = wpl_jax.export(model, tmp_path, "stablehlo")
    content = bytearray((folder / "model.stablehlo").read_bytes())
    images = np.random.default_rng(4).integers(0, 256, (3, 5, 4, 2)).astype(np.uint8)
    squares = np.float64(images[:, :4]).reshape(3, 2, 2, 2, 2, 2).mean((2, 4)).round()
    scores = squares.reshape(3, 8) @ np.float64(kernel)
    right = scores - scores.max(1, keepdims=True)
    right -= np.log(np.exp(right).sum(1, keepdims=True))
    found = jax_export.deserialize(content).call(images)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nasbench201", "micro_cell", "recurrent_cell"])
def test_stablehlo_is_the_whole_model_for_any_batch(name, tmp_path):
    model = make_model(name)
    folder = wpl_jax.export(model, tmp_path, "stablehlo")
    content = bytearray((folder / "model.stablehlo").read_bytes())
    program = jax_export.deserialize(content)
    assert set(program.platforms) == {"cpu", "cuda", "tpu"}
    for count in (1, 3):
        inputs = make_inputs(model, count)
        np.testing.assert_allclose(
            program.call(inputs), expected(model, inputs), rtol=1e-5, atol=1e-5
        )
    about = json.loads((folder / "architecture.json").read_text())["stablehlo"]
    assert about["jax"] == jax.__version__
    assert about["inputs"].startswith(("uint8[batch, ", "int32[batch, time]"))
    assert "6 months" in about["compatibility"]


# jax2onnx reads weights in a way that newer versions of Flax warn of.
of_jax2onnx = pytest.mark.filterwarnings("ignore:'.value' access:DeprecationWarning")


@pytest.mark.slow
@of_jax2onnx
@pytest.mark.parametrize("name", ["nasbench201", "micro_cell", "recurrent_cell"])
def test_onnx_computes_the_same_in_another_runtime(name, tmp_path):
    pytest.importorskip("jax2onnx", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="the extra onnx is not installed"
    )
    model = make_model(name)
    folder = wpl_jax.export(model, tmp_path, "onnx")
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    for count in (1, 3):
        inputs = make_inputs(model, count)
        (found,) = session.run(["log_probabilities"], {"inputs": inputs})
        np.testing.assert_allclose(found, expected(model, inputs), rtol=1e-5, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Flat(Space):
    """A linear function of the pixels, with nothing to choose."""

    image_shape: tuple[int, int, int]
    num_classes: int

    name = "flat"
    decisions = ()

    def init(self, key):
        return {"kernel": jnp.zeros((math.prod(self.image_shape), self.num_classes))}

    def rows(self, architecture):
        return {"kernel": ALL}

    def apply(
        self, child, architecture, images, *, noise=None, batch_stats=None, axis=None
    ):
        return Outputs(images.reshape(images.shape[0], -1) @ child["kernel"], None, ())


class Graph:
    """A graph that is the function that it was made from."""

    def __init__(self, function):
        self.function = function

    def SerializeToString(self):  # noqa: N802 - ONNX names it so.
        return b""


def predict_of_onnx(model, folder, monkeypatch):
    """The function that is handed to ONNX, and the name of what it returns."""
    found = {}

    def to_onnx(function, inputs, *, output_names, **others):
        found.update(function=function, name=output_names[0])
        return Graph(function)

    converter = types.SimpleNamespace(to_onnx=to_onnx)
    monkeypatch.setitem(sys.modules, "jax2onnx", converter)
    wpl_jax.export(model, folder, "onnx")
    return found["function"], found["name"]


@dataclasses.dataclass(frozen=True)
class OneLayer(Space):
    """A linear function, with nothing to choose."""

    name = "one_layer"
    decisions = ()

    def init(self, key):
        return {"kernel": jnp.zeros((2, 3))}

    def rows(self, architecture):
        return {"kernel": ALL}

    def apply(self, child, architecture, inputs):
        return inputs @ child["kernel"]

    def network(self, choice, child, statistics):
        layers = {"layer": Dense(2, 3, bias=False)}
        block = Block("Network", "A layer.", layers, "x", "return self.layer(x)")
        init = "jax.nn.initializers.zeros"
        return Network((block,), init, (), dense_weights("layer", child))


def model_of_one_layer(predictor):
    """A model, and its kernel."""
    kernel = np.random.default_rng(3).normal(size=(2, 3))
    child = {"kernel": jnp.float32(kernel)}
    choice = np.zeros(0, np.int32)
    return Model(OneLayer(), choice, predictor, child, None, {}), kernel


@dataclasses.dataclass(frozen=True)
class Doubled(ArrayPredictor):
    """Predictions of its own: twice what the network returns."""

    def predictions(self, outputs):
        return 2 * outputs


@pytest.mark.parametrize(
    ("predictor", "name", "to_predictions"),
    [
        (
            ArrayPredictor((2,), "float32", "classification", ("a", "b", "c")),
            "log_probabilities",
            lambda x: x - np.log(np.exp(x).sum(-1, keepdims=True)),
        ),
        (ArrayPredictor((2,), "float32", "regression"), "outputs", lambda x: x),
        (ArrayPredictor((2,), "float32"), "outputs", lambda x: x),
        (Doubled((2,), "float32", "regression"), "outputs", lambda x: 2 * x),
    ],
)
def test_onnx_predicts_what_the_task_does(
    predictor, name, to_predictions, tmp_path, monkeypatch
):
    model, kernel = model_of_one_layer(predictor)
    inputs = np.random.default_rng(2).normal(size=(5, 2)).astype(np.float32)
    right = to_predictions(np.float64(inputs) @ kernel)
    function, named = predict_of_onnx(model, tmp_path, monkeypatch)
    assert named == name
    for found in (function(inputs), model(inputs)):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)


def test_onnx_of_a_predictor_that_does_not_say_its_predictions_is_an_error(
    tmp_path, monkeypatch
):
    predictor = types.SimpleNamespace(labels=())  # of the time before that method
    model, _ = model_of_one_layer(predictor)
    with pytest.raises(UserError, match=r"has no method predictions, .*stablehlo"):
        predict_of_onnx(model, tmp_path / "out", monkeypatch)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@of_jax2onnx
def test_onnx_of_a_regression_is_its_numbers(tmp_path):
    pytest.importorskip("jax2onnx", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="the extra onnx is not installed"
    )
    predictor = ArrayPredictor((2,), "float32", "regression", None, (0.5, 1), (2, 3))
    model, kernel = model_of_one_layer(predictor)
    folder = wpl_jax.export(model, tmp_path, "onnx")
    session = onnxruntime.InferenceSession(
        str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
    )
    inputs = np.random.default_rng(2).normal(size=(4, 2)).astype(np.float32)
    (found,) = session.run(["outputs"], {"inputs": inputs})
    right = (np.float64(inputs) - [0.5, 1]) / [2, 3] @ kernel
    np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model(inputs), right, rtol=1e-5, atol=1e-5)


def test_onnx_without_its_extra_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(
        UserError, match=r"needs jax2onnx: pip install 'wpl-jax\[onnx\]'"
    ):
        wpl_jax.export(make_model("nasbench201"), tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


@dataclasses.dataclass(frozen=True)
class Unwritten(NasBench201):
    """A space that does not say how it is written out."""

    def network(self, choice, child, statistics):
        return None


def test_a_space_that_is_not_written_out_is_an_error(tmp_path):
    model = make_model("nasbench201")
    space = Unwritten(**dataclasses.asdict(model.space))
    model = dataclasses.replace(model, space=space)
    with pytest.raises(
        UserError, match=r"does not say how .* with the format stablehlo"
    ):
        wpl_jax.export(model, tmp_path / "out", "nnx")
    with pytest.raises(UserError, match="The format is 'keras', expected one of"):
        wpl_jax.export(model, tmp_path / "out", "keras")
    assert not (tmp_path / "out").exists()
