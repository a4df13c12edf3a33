"""Loggers of one's own, of other packages, and what they can do wrong."""

import re
import sys
import types
from pathlib import Path

import pytest
from helpers import loggers as own
from helpers.tabular import SEARCH

import wpl_jax
from wpl_jax.errors import UserError
from wpl_jax.runs.loggers import Logged, Loggers, find_loggers
from wpl_jax.runs.monitor import Metrics, whole_records

RECORD = {"loss": 0.5, "seeds": 2, "flag": True, "word": "x", "nothing": None}
NUMBERS = {"loss": 0.5, "seeds": 2}


def test_a_logger_of_ones_own_gets_the_numbers_of_each_record(tmp_path):
    named = find_loggers(["helpers.loggers:Kept", "tensorboard"])
    assert [one.name for one in named] == ["helpers.loggers:Kept"]
    metrics = Metrics(tmp_path, 0, "Search", named)
    for step in range(2):
        metrics.write(step, RECORD)
    metrics.go_back(1)
    metrics.write(1, RECORD)
    metrics.close()
    first, second = own.take()
    assert first.logged == Logged("Search", 0, tmp_path)
    assert second.logged.first_step == 1
    assert first.records == [(0, NUMBERS), (1, NUMBERS)]
    assert second.records == [(1, NUMBERS)]
    assert first.closed == second.closed == 1
    assert any(path.stat().st_size for path in (tmp_path / "tensorboard").iterdir())


def test_loggers_of_one_name_are_all_told():
    """Lambdas have one name, and a function may be called as ours."""

    def tensorboard(logged):
        return own.Kept(logged)

    names = [lambda logged: own.Kept(logged) for _ in range(2)]
    loggers = Loggers(find_loggers([*names, tensorboard]), Logged("Search", 0, None))
    loggers.log(0, RECORD)
    loggers.close()
    assert [one.records for one in own.take()] == [[(0, NUMBERS)]] * 3
    again = find_loggers(["helpers.loggers:Kept", "helpers.loggers:Kept"])
    assert len(again) == 1


def test_the_logger_of_the_guide_prints_the_numbers(tmp_path, capsys):
    guide = Path(__file__).resolve().parents[2] / "docs" / "running.md"
    section = guide.read_text().partition("## Metrics in other programs\n")[2]
    found = {}
    exec(re.search(r"```python\n(.*?)```", section, re.DOTALL)[1], found)
    metrics = Metrics(tmp_path, 0, "Search", find_loggers([found["Prints"]]))
    metrics.write(0, RECORD)
    metrics.close()
    assert capsys.readouterr().out == f"Search 0 {NUMBERS}\n"


@pytest.mark.parametrize("where", ["start", "record", "end"])
def test_a_logger_that_raises_is_named_once_and_ends_nothing(where, tmp_path, capsys):
    def failing(logged):
        return own.Failing(where)

    metrics = Metrics(tmp_path, 0, "Search", find_loggers([failing, own.Kept]))
    for step in range(3):
        metrics.write(step, RECORD)
    metrics.close()
    said = capsys.readouterr().out.splitlines()
    places = {"start": "at the start", "record": "in record 0", "end": "at the end"}
    assert said == [
        f"Search: the logger failing failed {places[where]} and gets nothing more of "
        "this job, which goes on (OSError: no network). metrics.jsonl has all records."
    ]
    assert len(whole_records(tmp_path / "metrics.jsonl")) == 3
    (kept,) = own.take()
    assert [step for step, _ in kept.records] == [0, 1, 2]


def test_an_interruption_is_no_failure_of_a_logger(tmp_path):
    def interrupted(logged):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Loggers(find_loggers([interrupted]), Logged("", 0, tmp_path))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wandbb", r"no logger 'wandbb', expected one of \['mlflow', 'tensorboard'"),
        ("helpers.nowhere:Logger", "No module named 'helpers.nowhere'"),
        ("helpers.loggers:Nobody", "helpers.loggers has no Nobody"),
        (3, "There is no logger 3"),
        ("math:pi", "The logger math:pi is 3.14.*, expected a class"),
    ],
)
def test_a_logger_that_there_is_not_is_said_at_once(name, said):
    with pytest.raises(UserError, match=said):
        find_loggers([name])


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # Its import fails.
    said = rf"The logger {name}: it needs the package {name}: pip install 'wpl-jax\["
    with pytest.raises(UserError, match=said):
        find_loggers([name])


class FakeWandb(types.ModuleType):
    """What the logger uses of wandb."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = []

    def init(self, **settings):
        run = types.SimpleNamespace(settings=settings, logged=[], axes={}, ended=0)
        run.define_metric = lambda name, **axis: run.axes.update({name: axis})
        run.log = run.logged.append

        def finish():
            run.ended += 1

        run.finish = finish
        self.runs.append(run)
        return run


@pytest.fixture
def wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def in_a_run(tmp_path):
    """The folder of a search in a run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"seed": 3}')
    return tmp_path / "run" / "searches" / "wpl-seed3"


def test_weights_and_biases_has_a_run_for_each_job(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "cells")
    folder = in_a_run(tmp_path)
    named = find_loggers(["wandb"])
    for first, last, where in (
        (0, 2, folder),
        (1, 3, folder),
        (0, 1, folder / "retrain"),
    ):
        metrics = Metrics(where, first, "Search", named)
        for step in range(first, last):
            metrics.write(step, RECORD)
        metrics.close()
    first, resumed, retrained = wandb.runs
    for run in wandb.runs:
        assert run.settings["project"] == "cells"
        assert run.settings["resume"] == "allow"
        assert run.settings["config"] == {"seed": 3}
        assert run.settings["group"] == "run"
        assert "dir" not in run.settings  # Its links would be in the run's folder.
        assert run.axes["*"] == {"step_metric": "record"}
        assert run.ended == 1
    assert first.settings["id"] == resumed.settings["id"]
    assert first.settings["id"] != retrained.settings["id"]
    assert first.settings["name"] == "wpl-seed3"
    assert retrained.settings["name"] == "wpl-seed3/retrain"
    assert resumed.logged == [{"record": i, **NUMBERS} for i in (1, 2)]


@pytest.mark.slow
def test_a_search_in_memory_is_logged(wandb):
    found = wpl_jax.run(SEARCH, epochs=2, loggers=["wandb", own.Kept])
    (run,) = wandb.runs
    assert run.settings["config"] == {}
    assert run.settings["name"] == "Search"
    assert [line["record"] for line in run.logged] == [0, 1]
    expected = [record["children/reward"] for record in found.metrics]
    assert [line["children/reward"] for line in run.logged] == expected
    (kept,) = own.take()
    assert kept.closed == 1


def test_mlflow_keeps_the_records_of_a_resumed_job(tmp_path, monkeypatch):
    """With a real store in a folder, where mlflow is installed."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    folder = in_a_run(tmp_path)
    for first, last in ((0, 2), (1, 3)):
        metrics = Metrics(folder, first, "Search", find_loggers(["mlflow"]))
        for step in range(first, last):
            metrics.write(step, {"children/reward": step / 2, "word": "x"})
        metrics.close()
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("wpl_jax")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "wpl-seed3"
    history = client.get_metric_history(run.info.run_id, "children/reward")
    assert {(point.step, point.value) for point in history} == {
        (0, 0),
        (1, 0.5),
        (2, 1),
    }
