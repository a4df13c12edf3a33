"""Baselines of a run: what they leave, interrupted or shared, and what is refused."""

import contextlib
import json
import shutil

import numpy as np
import pytest
from helpers import toy
from helpers.interrupted import Interrupted

from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import retrain
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs import search_loop
from wpl_jax.jobs.modes import run as run_mode
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.reports import search_report
from wpl_jax.runs import machine
from wpl_jax.runs.machine import Machine, Requests
from wpl_jax.runs.share import Share
from wpl_jax.runs.stopping import StopRequest

NAME = "helpers.toy:BASELINE"
FOLDER = "baselines/BASELINE-seed0"


@pytest.fixture(autouse=True, scope="module")
def quick_report():
    """A report of the baselines; it has tests of its own."""

    def write(workdir, config, searches, *args):
        shown = {each.folder: each.baselines for each in searches}
        (workdir / "report.html").write_text(json.dumps(shown))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_report, "write", write)
        yield


def get_config(names=(NAME,), parameters=None):
    """With little to compile."""
    config = toy.get_config()
    config.arms.wpl.penalty.name = "none"  # Searches that are equal compile once.
    config.strategy.name = "random"
    config.search.epochs = 1
    config.retrain.baselines.names = names
    config.retrain.baselines.parameters = parameters
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run; tests may not write to it."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    jobs.run(get_config(), workdir, "run")
    return workdir


def files(workdir):
    names = ("retrained.json", "metrics.jsonl")
    return [(workdir / FOLDER / name).read_bytes() for name in names]


@pytest.mark.slow
def test_a_baseline_is_trained_like_the_architecture(finished, tmp_path):
    """As large as that one, of 6 parameters, and like the same training by hand."""
    found = json.loads((finished / FOLDER / "retrained.json").read_text())
    assert found["parameters"] == 3 * toy.SIZE
    shown = json.loads((finished / "report.html").read_text())
    assert shown == {"wpl-seed0": {"BASELINE": found}, "none-seed0": {}}
    prepared = make_retraining(get_config())
    task = toy.ToyTask(space=toy.Points(3), seed=0)
    training = Retraining(
        task,
        prepared.retraining.optimizer,
        prepared.retraining.epochs,
        prepared.retraining.patience,
    )
    by_hand = retrain.run(
        *(training, toy.make_data(), np.zeros(0), 0, tmp_path, "by hand"),
        Requests(StopRequest(60.0)),
        1e6,
    )
    assert by_hand == found


@pytest.mark.slow
def test_the_number_of_parameters_can_be_given(finished, tmp_path, capsys):
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "baselines")
    for name in ("config.json", "report.html"):
        (workdir / name).unlink()
    jobs.run(get_config(parameters=41), workdir, "run")
    said = capsys.readouterr().out
    assert "wpl, seed 0: BASELINE has number=20 and 40 parameters, the best" in said
    assert "architecture 6.\n" in said
    found = json.loads((workdir / FOLDER / "retrained.json").read_text())
    assert found["parameters"] == 40


@pytest.mark.slow
def test_interruptions_change_nothing(finished, tmp_path, monkeypatch, capsys):
    """After each call of the training of the baseline."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "baselines")
    (workdir / "report.html").unlink()
    monkeypatch.setattr(machine, "StopRequest", Interrupted)
    stops = 0
    for _ in range(50):
        Interrupted.left = 1
        with contextlib.suppress(SystemExit):
            jobs.run(get_config(), workdir, "run")
            break
        stops += 1
    assert stops > 2
    assert files(workdir) == files(finished)
    assert (workdir / "report.html").read_bytes() == (
        finished / "report.html"
    ).read_bytes()
    capsys.readouterr()
    jobs.run(get_config(), workdir, "run")
    assert capsys.readouterr().out.startswith("This run is finished: ")


@pytest.mark.slow
def test_the_share_of_a_search_of_the_main_arm_has_its_baselines(
    finished, tmp_path, capsys
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "baselines")
    (workdir / "report.html").unlink()
    jobs.run(get_config(), workdir, "run", Machine(share=Share(2, 2)))
    said = capsys.readouterr().out
    assert "1 of 2 searches are not finished in " in said
    assert not (workdir / "baselines").exists()
    jobs.run(get_config(), workdir, "run", Machine(share=Share(1, 2)))
    assert files(workdir) == files(finished)
    assert (workdir / "report.html").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("lstmm",), r"config.retrain.baselines.names is \('lstmm',\), expected some"),
        (("residual",), "names has 'residual': the space residual needs image_shape"),
        (("helpers.toy:NOTHING",), "helpers.toy has no NOTHING"),
        (("helpers.toy:SIZE",), "it is no wpl_jax.evaluation.plain_networks.Baseline"),
    ],
)
def test_what_is_no_baseline_of_the_data_is_refused(names, said, tmp_path, monkeypatch):
    monkeypatch.setattr(search_loop, "Resumable", None)
    monkeypatch.setattr(run_mode, "check_devices", None)  # Nothing has been compiled.
    with pytest.raises(ConfigError, match=said):
        jobs.run(get_config(names), tmp_path / "run", "run")
    assert not (tmp_path / "run").exists()


def test_a_damaged_result_is_named_before_anything_is_done(
    finished, tmp_path, monkeypatch
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    path = workdir / FOLDER / "retrained.json"
    path.write_text("{}")
    monkeypatch.setattr(search_loop, "Resumable", None)
    with pytest.raises(UserError, match="is damaged") as caught:
        jobs.run(get_config(), workdir, "run")
    assert str(caught.value).startswith(str(path))


def test_without_a_retraining_there_are_no_baselines(finished, tmp_path):
    workdir, config = shutil.copytree(finished, tmp_path / "run"), get_config()
    shutil.rmtree(workdir / "baselines")
    for path in (workdir / "config.json", workdir / "report.html"):
        path.unlink()
    config.retrain.epochs = 0
    jobs.run(config, workdir, "run")
    assert (workdir / "report.html").exists()
    assert not (workdir / "baselines").exists()
