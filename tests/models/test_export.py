"""Models as programs: StableHLO, ONNX, and what cannot be exported."""

import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from helpers.models import make_inputs, make_model
from jax import export as jax_export

import wpl_jax
from wpl_jax.errors import UserError
from wpl_jax.spaces.nasbench201 import NasBench201


def expected(model, inputs):
    return jax.jit(model.apply)(model.params, inputs)


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


@pytest.mark.slow
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
