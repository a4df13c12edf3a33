"""Searches and trainings in Python that start from the weights of others."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tabular import SPACE, Sines, search_of_sines
from helpers.toy import Points, ToyTask

import wpl_jax
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.errors import UserError
from wpl_jax.jobs.python import start_of
from wpl_jax.jobs.start_from import START_FILE
from wpl_jax.runs.warm_start import read_source
from wpl_jax.supernet import Architecture, gather

# Steps that change no weight: what is evaluated is what a search starts with.
STILL = Sgd(1e-20)


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folder of a search."""
    folder = tmp_path_factory.mktemp("first")
    wpl_jax.run(search_of_sines(), epochs=1, workdir=folder)
    return folder


@pytest.fixture(scope="module")
def still():
    return search_of_sines(optimizer=STILL)


def losses_of(found):
    return np.array(found.metrics[0]["children/err2"])


def loss_of(weights, choice):
    """The loss of a child on the validation data, in float64 numpy."""
    data = Sines.dataset
    train = np.float64(data.train.inputs)
    x = (data.valid.inputs - train.mean(0)) / train.std(0)
    x = x @ weights["first"]
    for layer, index in enumerate(choice):
        y = x @ weights["layers"][2 * layer + index]
        x = x + (np.maximum(y, 0) if index == 0 else np.tanh(y))
    return ((x @ weights["last"] - data.valid.targets) ** 2).sum(1).mean() / 2


@pytest.mark.slow
def test_a_search_starts_with_the_weights_of_another(first, still, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(first, source)
    settings = {"epochs": 1, "start_from": source}
    in_memory = wpl_jax.run(still, **settings)
    assert "3 of 3 arrays fit." in capsys.readouterr().out
    weights = read_source(source).arrays
    expected = loss_of(weights, in_memory.architecture)
    np.testing.assert_allclose(in_memory.loss, expected, rtol=1e-4)
    fresh = wpl_jax.run(still, epochs=1)
    assert np.all(losses_of(fresh) != losses_of(in_memory))

    folder = tmp_path / "run"
    kept = wpl_jax.run(still, workdir=folder, **settings)
    assert kept.metrics == in_memory.metrics
    assert json.loads((folder / START_FILE).read_text())["from"] == str(source)
    shutil.rmtree(source)
    assert wpl_jax.run(still, workdir=folder, **settings).metrics == kept.metrics
    with pytest.raises(UserError, match=r"another|other"):
        wpl_jax.run(still, epochs=1, workdir=folder)


@pytest.mark.slow
def test_a_training_starts_with_the_rows_of_its_architecture(first):
    choice = [1, 0]
    model = wpl_jax.retrain(
        Sines(SPACE, batch_size=8),
        choice,
        optimizer=STILL,
        epochs=1,
        start_from=first,
    )
    shared = jax.tree.map(jnp.asarray, read_source(first).arrays)
    expected = gather(shared, SPACE.rows(Architecture(jnp.array(choice))))
    jax.tree.map(np.testing.assert_allclose, dict(model.params), expected)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", r"^start_from is 'nothing', where there is no checkpoint"),
        (3, "^start_from is 3, expected the folder of a search or of a training"),
    ],
)
def test_a_wrong_source_is_named_at_once(path, said, still, tmp_path):
    with pytest.raises(UserError, match=said):
        wpl_jax.run(still, epochs=1, start_from=path, workdir=tmp_path / "run")
    with pytest.raises(UserError, match=said):
        wpl_jax.retrain(still.task, [0, 0], optimizer=STILL, epochs=1, start_from=path)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_source_of_which_nothing_fits_is_refused(first):
    start = start_of(ToyTask(Points(3)), None, None, first, None)
    with pytest.raises(
        UserError, match=r"start_from is .*nothing of it fits the space"
    ):
        start.check()


@pytest.mark.slow
def test_several_devices_start_with_the_same_weights(first):
    """With a step that moves, so that what follows depends on the start."""
    one, four = (
        wpl_jax.run(search_of_sines(devices=Devices(count)), epochs=2, start_from=first)
        for count in (1, 4)
    )
    assert one.choices == four.choices
    for here, there in zip(one.metrics, four.metrics, strict=True):
        for name in ("children/err1", "children/err2"):
            np.testing.assert_allclose(here[name], there[name], rtol=1e-4)
    fresh = wpl_jax.run(search_of_sines(devices=Devices(4)), epochs=1)
    assert np.all(losses_of(fresh) != losses_of(four))
