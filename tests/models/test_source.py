"""Written-out networks against the networks of the library, values and gradients."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.models import MODELS, make_inputs, make_model
from helpers.tiny import environment

from wpl_jax.models.export import export, import_network
from wpl_jax.supernet import Architecture

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
EVERY = [
    pytest.param(name, training, id=f"{name}-{'train' if training else 'eval'}")
    for name in MODELS
    for training in (False, True)
]


def assert_close(found, wanted, place):
    """Within 1e-5 of the largest entry.

    Through the batch statistics, a gradient is a small difference of large numbers.
    """
    size = max(1, np.max(np.abs(wanted)))
    np.testing.assert_allclose(found / size, wanted / size, **CLOSE, err_msg=place)


def written(model, folder, dialect):
    """The module that is exported, as its owner imports it."""
    return import_network(export(model, folder, dialect))


def scores_of(outputs):
    """Of a language model the scores alone, without its state."""
    return outputs[0] if isinstance(outputs, tuple) else outputs


def reference(model, params, inputs, statistics):
    """Scores by the space itself, of the prepared inputs."""
    architecture = Architecture(jnp.asarray(model.choice))
    if model.statistics is None:
        state = model.space.initial_state(len(inputs))
        hidden = model.space.apply(params, architecture, inputs, state=state)
        return model.space.logits(params, hidden.raw)
    images = model.predictor.to_network(inputs)
    return model.space.apply(
        params, architecture, images, batch_stats=statistics
    ).logits


def loss_of(scores):
    """A loss that every score is a part of, to a different extent."""
    weights = jnp.sin(jnp.arange(scores.size)).reshape(scores.shape)
    return jnp.sum(jax.nn.log_softmax(scores) * weights)


def expected(model, inputs, training):
    """Scores, and the gradient in the layout of the exported weights."""

    def loss(params):
        scores = reference(
            model, params, inputs, None if training else model.statistics
        )
        return loss_of(scores), scores

    gradient, scores = jax.jit(jax.grad(loss, has_aux=True))(model.params)
    # Weights are permuted and cut, which is linear: so are their gradients.
    network = model.space.network(
        model.choice, *jax.device_get((gradient, model.statistics))
    )
    is_weight = [not n.endswith((".mean", ".var")) for n in network.weights]
    names = [n for n, kept in zip(network.weights, is_weight, strict=True) if kept]
    return scores, {name: network.weights[name] for name in names}


@pytest.mark.slow_except("recurrent_cell-eval")
@pytest.mark.parametrize(("name", "training"), EVERY)
def test_the_nnx_module_computes_the_same(name, training, tmp_path):
    from flax import nnx

    model = make_model(name)
    # The moments of few pixels amplify rounding.
    inputs = make_inputs(model, count=16 if training else 3)
    module = written(model, tmp_path, "nnx")
    network = module.load()
    if training:
        network.train()
    prepared = inputs if model.statistics is None else module.prepare(inputs)

    @nnx.jit
    def gradient_of(network, prepared):
        def loss(network):
            scores = scores_of(network(prepared))
            return loss_of(scores), scores

        return nnx.grad(loss, has_aux=True)(network)

    found, scores = gradient_of(network, prepared)
    wanted, gradients = expected(model, inputs, training)
    np.testing.assert_allclose(scores, wanted, **CLOSE)
    flat = {".".join(map(str, p)): v[...] for p, v in nnx.to_flat_state(found)}
    assert flat.keys() == gradients.keys()
    for place, gradient in gradients.items():
        assert_close(flat[place], gradient, place)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "training"), EVERY)
def test_the_linen_module_computes_the_same(name, training, tmp_path):
    model = make_model(name)
    # The moments of few pixels amplify rounding.
    inputs = make_inputs(model, count=16 if training else 3)
    module = written(model, tmp_path, "linen")
    network, variables = module.load()
    prepared = inputs if model.statistics is None else module.prepare(inputs)

    def loss(params):
        outputs, _ = network.apply(
            {**variables, "params": params},
            prepared,
            train=training,
            mutable=["batch_stats"],
        )
        return loss_of(scores_of(outputs)), scores_of(outputs)

    found, scores = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    wanted, gradients = expected(model, inputs, training)
    np.testing.assert_allclose(scores, wanted, **CLOSE)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
    }
    assert len(flat) == len(gradients)
    for place, gradient in gradients.items():
        parts = place.split(".")
        joined = "_".join(parts[:2]) if parts[1:2] and parts[1].isdigit() else parts[0]
        rest = parts[2:] if joined != parts[0] else parts[1:]
        at = ".".join([joined, *rest])
        assert_close(flat[at], gradient, place)


ALONE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wpl_jax":
            raise ImportError("not here")
sys.meta_path.insert(0, Refuse())
import numpy as np
import network
model = network.load()
given = np.load("inputs.npy")
prepared = given if sys.argv[1] == "text" else network.prepare(given)
found = model(prepared)
np.save("found.npy", found[0] if isinstance(found, tuple) else found)
assert not any(name.partition(".")[0] == "wpl_jax" for name in sys.modules)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["micro_cell", "nasbench201", "recurrent_cell"])
def test_the_module_runs_where_the_library_is_not(name, tmp_path):
    model = make_model(name)
    inputs = make_inputs(model)
    export(model, tmp_path, "nnx")
    np.save(tmp_path / "inputs.npy", inputs)
    (tmp_path / "alone.py").write_text(ALONE)
    kind = "text" if model.statistics is None else "images"
    ended = subprocess.run(
        [sys.executable, "alone.py", kind],
        cwd=tmp_path,
        env=environment(PYTHONPATH=""),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert {"jax", "flax"} <= set(json.loads(ended.stdout))
    wanted = reference(model, model.params, inputs, model.statistics)
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), wanted, **CLOSE)
