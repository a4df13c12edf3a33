"""``--mode=predict`` and ``--mode=export`` on the model of a run."""

import csv
from pathlib import Path

import numpy as np
import pytest
from helpers.models import make_inputs, make_model

from wpl_jax.errors import ConfigError, UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.models.files import MODEL_FILE, model_to_bytes
from wpl_jax.models.model import Model
from wpl_jax.runs.machine import Machine


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """The folder of a run of one search, with its model and images."""
    folder = tmp_path_factory.mktemp("run")
    retrain = folder / "searches" / "wpl-seed0" / "retrain"
    retrain.mkdir(parents=True)
    model = make_model("nasbench201")
    (retrain / MODEL_FILE).write_bytes(model_to_bytes(model))
    np.save(folder / "images.npy", make_inputs(model))
    return folder


def test_predictions_are_those_of_the_model(workdir, capsys, tmp_path):
    output = tmp_path / "found.csv"
    machine = Machine(input=workdir / "images.npy", output=output)
    jobs.run(None, workdir, "predict", machine)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    model = make_model("nasbench201")
    expected = np.exp(model(np.load(workdir / "images.npy")))
    found = [[float(row[name]) for name in model.labels] for row in rows]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert [row["class"] for row in rows] == [
        model.labels[i] for i in expected.argmax(-1)
    ]
    said = capsys.readouterr().out
    assert "% error 50.00 on validation data and 51.00 on test data" in said
    assert f"3 rows in {output}" in said


def test_files_are_exported_by_format(workdir, capsys):
    jobs.run(None, workdir, "export", Machine(formats=("nnx", "linen")))
    for name in ("nnx", "linen"):
        folder = workdir / "export" / name
        assert sorted(path.name for path in folder.iterdir()) == [
            *("architecture.json", "network.py", "weights.safetensors")
        ]
        assert f"{name}: {folder}" in capsys.readouterr().out or name == "linen"
    assert "wpl_jax" not in [
        line.split()[1]
        for line in (workdir / "export/nnx/network.py").read_text().splitlines()
        if line.startswith(("import", "from"))
    ]


@pytest.mark.parametrize(
    ("mode", "machine", "said"),
    [
        ("predict", Machine(), "needs --input=FILE_OR_FOLDER"),
        (
            "export",
            Machine(formats=("nnx", "keras")),
            "format is 'keras', expected",
        ),
        ("export", Machine(input="a"), "--input changes nothing in --mode=export"),
        ("report", Machine(), "--mode=report needs a configuration"),
        (
            "predict",
            Machine(input=Path("a"), output=Path("nowhere/found.csv")),
            "nowhere/found.csv cannot be written: there is no folder nowhere",
        ),
        (
            "predict",
            Machine(input=Path("a"), output=Path("/")),
            "/ cannot be written: it is a folder",
        ),
    ],
)
def test_wrong_flags_are_named(mode, machine, said, workdir, monkeypatch):
    def table(*args):
        raise AssertionError("It predicts before the flags are checked.")

    monkeypatch.setattr(Model, "table", table)
    with pytest.raises((ConfigError, UserError), match=said):
        jobs.run(None, workdir, mode, machine)


@pytest.mark.parametrize("mode", ["export", "predict"])
def test_a_folder_without_a_model_is_named(mode, tmp_path):
    machine = Machine(input=Path("a") if mode == "predict" else None)
    with pytest.raises(UserError, match="No training has finished in"):
        jobs.run(None, tmp_path, mode, machine)
    with pytest.raises(UserError, match=r"There is no .*nowhere, expected the"):
        jobs.run(None, tmp_path / "nowhere", mode, machine)
