"""A tiny run of the two-model experiment: what it leaves, and what cannot harm it."""

import contextlib
import functools
import gc
import html
import importlib
import itertools
import json
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest
from helpers import tiny
from helpers.tiny import ARMS, assert_same_bytes, deaths, get_config, small_files

from wpl_jax.data import DataError, load_images
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.errors import ConfigError, UserError, on_command_line
from wpl_jax.jobs import two_models as two_models_job
from wpl_jax.jobs.two_models import settings_of
from wpl_jax.runs.run_directory import open_run
from wpl_jax.two_models import run as two_models_run
from wpl_jax.two_models.arms import CONVERGED, Arm
from wpl_jax.two_models.experiment import Curves
from wpl_jax.two_models.run import load_data, make_setting

SEEDS, EVALUATIONS = 2, 3


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The undisturbed run."""
    return tiny.undisturbed_run(tmp_path_factory)


@pytest.fixture
def results(finished):
    return strict_json((finished.workdir / "results.json").read_text())


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the undisturbed run, for a test to write to."""
    return shutil.copytree(finished.workdir, tmp_path / "run")


def load(config):
    return load_data(settings_of(config), config.data)


def strict_json(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def unfinish(workdir):
    """Takes from a run what it writes at its end."""
    (workdir / "results.json").unlink()
    (workdir / "report.html").unlink()
    shutil.rmtree(workdir / "figures")


# What a run leaves.


def test_results_hold_every_arm_and_seed(results):
    assert results["config"] == json.loads(json.dumps(get_config().to_dict()))
    assert results["stops"] == [0.2, 1.0]
    data, _ = load(get_config())
    shares = [np.mean(np.asarray(data.valid.labels) == label) for label in range(10)]
    assert results["guess"]["error"] == pytest.approx(100 * (1 - max(shares)))
    arms = results["arms"]
    found = [Arm(*(arm[name] for name in Arm._fields)) for arm in arms]
    assert found == settings_of(get_config()).arms()
    shapes = {
        "valid_a": (SEEDS, EVALUATIONS),
        "valid_b": (SEEDS, EVALUATIONS),
        "final_valid": (SEEDS, 2),
        "final_test": (SEEDS, 2),
        "start_valid": (SEEDS,),
        "start_test": (SEEDS,),
    }
    for arm in arms:
        for name, shape in shapes.items():
            values = np.array(arm[name], float)
            assert values.shape == shape
            assert ((values >= 0) & (values <= 1)).all()
        spread = np.array(arm["fisher_spread"], float)
        assert spread.shape == (SEEDS,)
        assert ((spread > 0) & (spread <= 1)).all()
        assert (spread == 1).all() == (arm["penalty"] != "wpl")
        assert np.shape(arm["penalty_value"]) == (SEEDS, EVALUATIONS)
        assert np.shape(arm["finite"]) == (SEEDS,)


def test_steps_of_a_stand_in_the_results(results):
    steps = np.array(results["steps_a"])
    assert steps.shape == (SEEDS, 2)
    assert (steps[:, 1] == get_config().model_a.steps).all()
    assert (steps[:, 0] < steps[:, 1]).all()


def test_arms_are_consistent_with_each_other(results):
    """What must be equal in different arms of the same A is."""
    by_setting = {}
    for arm in results["arms"]:
        by_setting.setdefault((arm["stop"], arm["shared"]), []).append(arm)
    assert len(by_setting) == 3
    for arms in by_setting.values():
        plain, frozen, *others = arms
        assert (plain["penalty"], frozen["penalty"]) == ("none", "frozen")
        assert not np.any(plain["penalty_value"])
        np.testing.assert_allclose(
            np.array(frozen["final_test"])[:, 0], frozen["start_test"], atol=1e-6
        )
        for arm in (frozen, *others):
            # Before B's first step all is the same; after it, it is not.
            assert arm["start_test"] == plain["start_test"]
            for name in ("valid_a", "valid_b", "penalty_value"):
                before = [values[0] for values in arm[name]]
                assert before == [values[0] for values in plain[name]]
            assert arm["final_test"] != plain["final_test"]
    one, two = by_setting[0.2, 1], by_setting[0.2, 2]
    assert one[0]["start_test"] == two[0]["start_test"]
    assert one[0]["final_test"] != two[0]["final_test"]
    converged = by_setting[1.0, 2]
    assert converged[0]["start_test"] != two[0]["start_test"]


def test_seeds_are_independent(results):
    for arm in results["arms"]:
        assert arm["start_test"][0] != arm["start_test"][1]


def test_training_that_diverged_is_marked_and_null_where_it_is_not_finite(results):
    diverged = [arm for arm in results["arms"] if not all(arm["finite"])]
    (arm,) = diverged
    assert (arm["step"], arm["alpha"]) == ("explicit", 10.0)
    assert None in arm["penalty_value"][0]
    for other in results["arms"]:
        if other is not arm:
            assert np.isfinite(other["penalty_value"]).all()
            assert (np.array(other["penalty_value"]) >= 0).all()


def test_metrics_are_one_line_for_each_arm(finished, results):
    lines = (finished.workdir / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == ARMS
    for step, (line, arm) in enumerate(zip(lines, results["arms"], strict=True)):
        record = strict_json(line)
        assert record.pop("step") == step
        record["step"] = record.pop("penalty_step")
        before, after = np.mean(arm["start_test"]), np.mean(arm["final_test"], 0)
        numbers = {
            "a_before": before,
            "a_after": after[0],
            "a_lost": before - after[0],
            "b_after": after[1],
            "diverged_seeds": arm["finite"].count(False),
        }
        assert set(record) == set(Arm._fields) | set(numbers)
        assert {name: record[name] for name in Arm._fields}.items() <= arm.items()
        for name, value in numbers.items():
            assert record[name] == pytest.approx(value, abs=1e-6)


def test_report_and_figures_are_written(finished):
    report = (finished.workdir / "report.html").read_text(encoding="utf-8")
    names = ["alpha_normalized", "methods", "sharing", "stops", "training"]
    assert report.count("<svg") == len(names)
    files = sorted(path.name for path in (finished.workdir / "figures").iterdir())
    assert files == sorted(f"{n}.{kind}" for n in names for kind in ("png", "svg"))
    assert all(
        path.stat().st_size > 5000 for path in (finished.workdir / "figures").iterdir()
    )
    assert str(finished.workdir) not in report
    assert not re.search(r"\bnan\b", report)


def test_tables_of_the_report_hold_means_over_seeds(finished, results):
    report = (finished.workdir / "report.html").read_text(encoding="utf-8")
    tables = [
        [re.findall("<td>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
        for table in html.unescape(report).split("<table>")[1:]
    ]
    rules = settings_of(get_config()).rules.values()

    def shown(values):
        return f"{np.mean(values):.3f} ± {np.std(values):.3f}"

    def final(arm, model):
        return shown(np.array(arm["final_test"])[:, model])

    def find(stop, shared, **fields):
        fields |= {"stop": stop, "shared": shared}
        (arm,) = [a for a in results["arms"] if fields.items() <= a.items()]
        return arm

    names = {(CONVERGED, 2): ("converged", "2")}
    names |= {(0.2, n): ("stopped at 20%", str(n)) for n in (1, 2)}
    assert len(tables[0]) == len(names) * len(rules)
    for row, (setting, rule) in zip(
        sorted(tables[0]),
        itertools.product(names, sorted(rules, key=str)),
        strict=True,
    ):
        assert tuple(row[:3]) == (*names[setting], str(rule))
        plain = find(*setting, penalty="none")
        alpha = float(row[9].rstrip("*"))
        chosen = find(*setting, step="proximal", alpha=alpha)
        assert row[3] == shown(plain["start_test"])
        assert row[4:6] == [final(plain, 0), final(chosen, 0)]
        assert row[7:9] == [final(plain, 1), final(chosen, 1)]
    # Areas, one row for each front of each setting.
    assert [row[:2] for row in tables[1]] == [
        *(["converged", "2"] for _ in ("explicit", "proximal")),
        *(["stopped at 20%", n] for n in "12"),
    ]
    # Rules, in the main setting.
    *of_rules, of_frozen = tables[2]
    assert len(of_rules) == 2 * len(rules)
    for row in of_rules:
        alpha = float(row[3].rstrip("*"))
        chosen = find(CONVERGED, 2, penalty="wpl", step=row[2], alpha=alpha)
        assert row[4:6] == [final(chosen, 0), final(chosen, 1)]
    frozen = find(CONVERGED, 2, penalty="frozen")
    assert of_frozen[4:6] == [final(frozen, 0), final(frozen, 1)]


def test_tensorboard_file_is_written(finished):
    (events,) = (finished.workdir / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents")
    content = events.read_bytes()
    assert content.count(b"a_lost") == content.count(b"b_after") == ARMS


def test_one_compilation_of_each_form_serves_all_arms(finished):
    compiled = finished.stderr.count("Compiling jit(train_b)")
    assert compiled == 2
    assert finished.stderr.count("Compiling jit(train_a)") == 1


def test_run_tells_where_it_is(finished):
    out = finished.stdout.splitlines()
    assert out[0] == "Training A ..."
    assert any(line.startswith(f"Training B: {ARMS}/{ARMS}") for line in out)
    assert out[-1] == f"Report: {finished.workdir / 'report.html'}"


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_in_another_folder(finished, tmp_path):
    process = finished.launch(tmp_path)
    assert process.returncode == 0, process.stderr
    assert_same_bytes(tmp_path, finished.workdir)


@pytest.mark.slow
def test_optimised_programs_give_the_same_bytes_too(tmp_path):
    env = tiny.environment(XLA_FLAGS="")
    for name in ("first", "second"):
        process = tiny.call(tiny.arguments(tmp_path / name), env)
        assert process.returncode == 0, process.stderr
    assert_same_bytes(tmp_path / "second", tmp_path / "first")


# Running again.


@pytest.fixture
def no_computing(monkeypatch):
    """Fails the test when a model is trained, or anything compiled."""

    def refuse(*args, **kwargs):
        raise AssertionError("This computes.")

    monkeypatch.setattr(two_models_run, "Experiment", refuse)
    monkeypatch.setattr(jax, "jit", refuse)


@pytest.mark.usefixtures("no_computing")
def test_finished_run_computes_nothing(copied, finished, capsys):
    two_models_job.run(get_config(), copied)
    assert (
        capsys.readouterr().out == f"This run is finished: {copied / 'report.html'}\n"
    )
    assert_same_bytes(copied, finished.workdir)


@pytest.mark.slow
@pytest.mark.usefixtures("no_computing")
def test_report_that_was_cut_off_is_written_by_the_same_command(copied, finished):
    (copied / "report.html").unlink()
    shutil.rmtree(copied / "figures")
    two_models_job.run(get_config(), copied)
    assert_same_bytes(copied, finished.workdir)


@pytest.mark.slow
@pytest.mark.usefixtures("no_computing")
def test_report_can_be_written_anew(copied, finished, capsys):
    (copied / "report.html").write_text("old")
    shutil.rmtree(copied / "figures")
    two_models_job.report(get_config(), copied)
    assert_same_bytes(copied, finished.workdir)
    assert str(copied / "report.html") in capsys.readouterr().out


def test_report_of_an_unfinished_run_is_a_user_error(copied, tmp_path):
    unfinish(copied)
    with pytest.raises(UserError, match="has not finished") as caught:
        two_models_job.report(get_config(), copied)
    assert str(copied / "results.json") in str(caught.value)
    with pytest.raises(UserError, match="There is no run in"):
        two_models_job.report(get_config(), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_report_is_written_into_a_folder_of_its_own_run_only(copied):
    with (
        open_run(copied, get_config().to_dict()),
        pytest.raises(UserError, match="Another process is running in"),
    ):
        two_models_job.report(get_config(), copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is damaged: not JSON"):
        two_models_job.report(get_config(), copied)


def without_an_arm(results):
    del results["arms"][3]


def with_field(name, value, arm=3):
    def damage(results):
        results["arms"][arm][name] = value

    return damage


def with_another_seed(results):
    results["config"]["seed"] = 7


@pytest.mark.usefixtures("no_computing")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("", "not JSON"),
        ('{"arms": [', "not JSON"),
        ("{}", "the field 'config' is missing"),
        ("null", "expected an object"),
        (without_an_arm, f"it has {ARMS - 1} arms, expected {ARMS}"),
        (with_another_seed, "config.seed is 7 there and 0 in the run"),
        (with_field("alpha", 3.5), "arm 4: the field 'alpha' is 3.5, expected"),
        (with_field("final_test", [[1.0, 2.0]]), "arm 4: the field 'final_test' is"),
        (with_field("valid_a", None), "arm 4: the field 'valid_a' is None"),
        (with_field("finite", [True, 0]), "arm 4: the field 'finite' is [True, 0]"),
    ],
)
@pytest.mark.parametrize("mode", ["run", "report"])
def test_damaged_results_are_named(mode, damage, said, copied):
    path = copied / "results.json"
    if callable(damage):
        results = json.loads(path.read_text())
        damage(results)
        path.write_text(json.dumps(results))
    else:
        path.write_text(damage)
    with pytest.raises(UserError) as caught:
        two_models_job.JOB.modes[mode].run(get_config(), copied)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert said in str(caught.value)
    assert "Delete it and run again" in str(caught.value)


@pytest.mark.usefixtures("no_computing")
@pytest.mark.parametrize("finished_too", [True, False])
def test_other_data_under_the_same_name_is_refused(finished_too, copied, monkeypatch):
    if not finished_too:
        unfinish(copied)
    data, names = load(get_config())
    labels = data.test.labels.at[0].set(1 - data.test.labels[0])
    other = data._replace(test=data.test._replace(labels=labels))
    monkeypatch.setattr(two_models_run, "load_data", lambda *args: (other, names))
    with pytest.raises(UserError, match="holds a run with other data") as caught:
        two_models_job.run(get_config(), copied)
    assert str(copied) in str(caught.value)


@pytest.mark.usefixtures("no_computing")
def test_finished_run_whose_data_is_gone_is_finished(copied, monkeypatch, capsys):
    def gone(*args):
        raise DataError("data.npz", "found nothing", "a file", "give its path")

    monkeypatch.setattr(two_models_run, "load_data", gone)
    two_models_job.run(get_config(), copied)
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"This run is finished: {copied / 'report.html'}"
    assert "not there to be compared" in second


@pytest.mark.usefixtures("no_computing")
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 1}, "  seed: 0 there, 1 now"),
        (
            {"model_b.sgd.learning_rate": 0.25},
            "  model_b.sgd.learning_rate: 0.2 there, 0.25",
        ),
        ({"stops": (0.2, 0.3)}, "  stops: [0.2] there, [0.2, 0.3] now"),
        ({"studies.loose.alphas": (1.0, 0.1)}, "  studies.loose.alphas: [0.1, 10.0]"),
    ],
)
def test_another_configuration_is_refused(change, field, copied):
    config = get_config()
    config.update_from_flattened_dict(change)
    with (
        on_command_line(),
        pytest.raises(UserError, match="another configuration") as caught,
    ):
        two_models_job.run(config, copied)
    assert len([x for x in str(caught.value).splitlines() if x.startswith("  ")]) == 1
    assert field in str(caught.value)


# What cannot be run, and is said before anything is computed.


ROOT = Path(__file__).parents[2]
WRONG = [
    *((f, v) for f in ("num_seeds", "hidden", "batch_size") for v in (0, -1)),
    *(("fisher_examples", value) for value in (0, -1)),
    ("eval_examples", 0),
    ("eval_examples", -1),
    ("seed", -1),
    ("activation", "swish"),
    ("activation", ("relu", "tanh")),
    ("layers_a", 1),
    ("layers_b", 1),
    *(
        (f"model_{model}.{field}", value)
        for model in "ab"
        for field, value in (
            ("sgd.learning_rate", 0.0),
            ("sgd.learning_rate", -1.0),
            ("sgd.learning_rate", float("nan")),
            ("sgd.learning_rate", float("inf")),
            ("optimizer", "newton"),
            ("steps", 0),
        )
    ),
    *(("model_b.eval_every", value) for value in (0, -10, 7, 40)),
    ("stops", (0.2, 1.5)),
    ("stops", (0.2, -0.5)),
    ("stops", (0.2, "soon")),
    ("rules.a_kept.value", 1.1),
    ("rules.a_kept.limit", "most"),
    ("checkpoint_seconds", -1.0),
    *(("studies.loose.penalties", v) for v in ((), ("none",), ("wpl", "ridge"))),
    *(("studies.loose.alphas", value) for value in ((), ("implicit",))),
    *(("studies.loose.stops", value) for value in ((), (0.3,), ("soon",))),
    *(("studies.loose.shared", value) for value in ((), (0,), (1, 3))),
    ("studies.loose.normalize", "mean"),
    *(
        ("studies.loose.alphas", value)
        for value in ((), (0.0,), (1.0, -1.0), (float("nan"),), (float("inf"),))
    ),
    ("main.penalty", "l2"),
    ("main.step", "implicit"),
    ("main.normalize", "none"),
    ("main.stop", 0.3),
    ("main.shared", 3),
    ("main.rule", "a_lost"),
]


@pytest.mark.usefixtures("no_computing")
@pytest.mark.parametrize(("field", "value"), WRONG)
def test_wrong_field_is_named_before_anything_happens(field, value, tmp_path):
    config = get_config()
    config.unlock()
    with config.ignore_type():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError) as caught:
        two_models_job.run(config, tmp_path / "run")
    message = str(caught.value)
    assert repr(value) in message
    if field.startswith("main.") and field != "main.rule":
        # The combination is what is wrong.
        assert "config.main is " in message
        assert "--config.main." in message  # All of it cannot be given in one flag.
    else:
        assert f"config.{field} is " in message
        assert f"--config.{field}=" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("field", ["num_seeds", "hidden", "batch_size", "layers_a"])
@pytest.mark.parametrize("value", [2.5, "two"])
def test_count_that_is_no_whole_number_is_a_config_error(field, value):
    config = get_config()
    with config.ignore_type():
        config[field] = value
    with pytest.raises(ConfigError, match=f"config.{field} is {value!r}"):
        settings_of(config).arms()


@pytest.mark.parametrize(
    "field", ["num_seeds", "model_b", "model_b.steps", "studies.loose.alphas", "main"]
)
def test_missing_field_is_a_config_error(field):
    config = get_config()
    *path, last = field.split(".")
    with config.unlocked():
        del functools.reduce(lambda c, name: c[name], path, config)[last]
    with pytest.raises(ConfigError, match=last):
        settings_of(config).arms()


def test_what_is_right_passes():
    """The other side of the limits that are tested above."""
    config = get_config()
    config.num_seeds = config.hidden = config.batch_size = 1
    config.fisher_examples = config.eval_examples = 1
    config.layers_b = config.layers_a
    config.model_a.steps = 1
    config.model_b.eval_every = config.model_b.steps
    config.rules.a_kept.value = 1.0
    assert len(settings_of(config).arms()) == ARMS


def test_stops_may_be_none():
    config = get_config()
    config.stops = ()
    del config.studies.loose
    assert {arm.stop for arm in settings_of(config).arms()} == {CONVERGED}


def test_studies_are_the_products_of_their_lists():
    config = get_config()
    config.studies.methods.penalties = ("l2", "wpl")
    arms = settings_of(config).arms()
    assert len(arms) == len(set(arms)) == (2 + 2 * 2 * 2) + 2 * (2 + 2)
    plain = [(arm.stop, arm.shared) for arm in arms if arm.penalty == "none"]
    assert set(plain) == {(0.2, 1), (0.2, 2), (1.0, 2)}
    expected = Arm(1.0, 2, "l2", "explicit", "tree", 10.0)
    assert arms.count(expected) == 1


def test_arms_of_overlapping_studies_run_once():
    config = get_config()
    alone = settings_of(config).arms()
    config.studies.again = config.studies.loose.copy_and_resolve_references()
    config.studies.again.alphas = (10.0, 100.0)
    arms = settings_of(config).arms()
    assert len(arms) == ARMS + 2  # 100 for one and for two shared layers
    assert set(alone) < set(arms)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "configs").glob("two_models_*.py"))
)
def test_every_configuration_passes(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    arms = settings_of(config).arms()
    assert len(arms) > 10
    json.dumps(config.to_dict(), allow_nan=False)


@pytest.mark.slow_except("change0")
@pytest.mark.parametrize(
    "change",
    [
        {"data.format": "npz", "data.path": "nowhere.npz"},
        {"data.format": "jpeg"},
        {"data.valid": 39},  # 20 of them serve the Fisher
    ],
)
def test_data_error_leaves_the_folder_free_for_the_mended_command(
    change, tmp_path, request
):
    config = get_config()
    with config.ignore_type():
        config.update_from_flattened_dict(change)
    with pytest.raises(UserError) as caught:
        two_models_job.run(config, tmp_path / "run")
    assert str([*change.values()][-1]) in str(caught.value)
    request.getfixturevalue("fake")
    two_models_job.run(get_config(), tmp_path / "run")
    assert (tmp_path / "run" / "results.json").exists()


# The data.


def rows(images):
    return [image.tobytes() for image in np.asarray(images).reshape(len(images), -1)]


def test_data_is_flattened_and_divided():
    config = get_config()
    data, names = load(config)
    source = load_images("digits", valid=60)
    assert names == tuple("0123456789")
    assert rows(data.train.images) == rows(source.train.images)
    assert rows(data.test.images) == rows(source.test.images)
    np.testing.assert_array_equal(data.train.labels, source.train.labels)
    assert data.fisher.images.shape == (20, 64)
    assert data.valid.images.shape == (40, 64)
    both = rows(data.fisher.images) + rows(data.valid.images)
    assert sorted(both) == sorted(rows(source.valid.images))
    labels = dict(zip(rows(source.valid.images), source.valid.labels, strict=True))
    for part in (data.fisher, data.valid):
        expected = [labels[row] for row in rows(part.images)]
        np.testing.assert_array_equal(part.labels, expected)
    pixels = np.asarray(source.train.images, np.float64)
    assert float(data.mean) == pytest.approx(pixels.mean())
    assert float(data.std) == pytest.approx(pixels.std())


def test_fisher_has_a_random_sample_of_the_validation_images():
    config = get_config()
    first = load(config)[0].fisher
    again = load(config)[0].fisher
    config.seed = 1
    other = load(config)[0].fisher
    assert rows(first.images) == rows(again.images)
    assert rows(first.images) != rows(other.images)
    assert len(np.unique(first.labels)) > 5


def test_setting_is_of_the_configuration():
    config = get_config()
    data, names = load(config)
    setting = make_setting(settings_of(config), data, len(names))
    assert setting.sizes_a == (64, 5, 10)
    assert setting.sizes_b == (64, 5, 5, 10)
    assert (setting.optimizer_a, setting.optimizer_b) == (Sgd(0.05), Sgd(0.2))
    assert (setting.steps_a, setting.steps_b, setting.eval_every) == (30, 20, 10)
    assert (setting.batch_size, setting.eval_examples) == (32, 30)


# Interruptions on made-up models: quick, and at moments that can be chosen.


class Fake:
    """An experiment that makes its numbers up, the same ones for the same arm."""

    trained: list[Arm]  # in order
    before_arm: Callable  # called with the number of those
    size = 3  # of A's layers

    def __init__(self, config, data, setting):
        self.models_a = np.random.default_rng(0).random((SEEDS, self.size))

    def _curves(self, arm):
        rng = np.random.default_rng(list(repr(arm).encode()))

        def numbers(*shape):
            return rng.random((SEEDS, *shape)).astype(np.float32)

        return Curves(
            valid_a=numbers(EVALUATIONS),
            valid_b=numbers(EVALUATIONS),
            penalty_value=numbers(EVALUATIONS),
            final_valid=numbers(2),
            final_test=numbers(2),
            start_valid=numbers(),
            start_test=numbers(),
            fisher_spread=numbers(),
            finite=np.ones(SEEDS, bool),
        )

    def initial_state(self, arms):
        return {
            "models_a": [self.models_a],
            "steps_a": np.full((SEEDS, 2), 30, np.int32),
            "curves": [
                np.zeros((len(arms), *x.shape), x.dtype) for x in self._curves(None)
            ],
        }

    def abstract_state(self, arms):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.initial_state(arms)
        )

    def train_b(self, arm, models_a):
        assert np.array_equal(models_a, [self.models_a])
        type(self).before_arm(len(self.trained))
        self.trained.append(arm)
        return self._curves(arm)


def nothing(count):
    """Happens before most arms."""


@pytest.fixture
def fake(monkeypatch):
    """Puts a made-up experiment in place of the real one, and gives it."""
    loaded = load(get_config())

    class Fresh(Fake):
        trained: ClassVar = []
        before_arm = nothing

    monkeypatch.setattr(two_models_run, "Experiment", Fresh)
    monkeypatch.setattr(two_models_run, "load_data", lambda *args: loaded)
    monkeypatch.setattr(two_models_run, "_report", lambda *args: None)
    return Fresh


def assert_same_records(workdir, expected):
    for name in ("results.json", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (expected / name).read_bytes()


def patient():
    """The configuration with no checkpoint but where one must be."""
    config = get_config()
    config.checkpoint_seconds = 1e6
    return config


@pytest.mark.slow
def test_made_up_run_trains_every_arm_once(fake, tmp_path):
    two_models_job.run(get_config(), tmp_path)
    assert fake.trained == settings_of(get_config()).arms()
    results = strict_json((tmp_path / "results.json").read_text())
    for arm, found in zip(fake.trained, results["arms"], strict=True):
        expected = fake._curves(fake, arm)
        for name, value in expected._asdict().items():
            np.testing.assert_array_equal(np.array(found[name], value.dtype), value)


@pytest.mark.slow_except("4-15-143", "12-2-130")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
@pytest.mark.parametrize("at", [0, 4, ARMS - 2])
def test_signal_saves_all_and_stops_after_the_arm(
    number, code, at, fake, tmp_path, caplog, capsys
):
    two_models_job.run(patient(), tmp_path / "undisturbed")
    fake.trained.clear()
    fake.before_arm = lambda count: count == at and signal.raise_signal(number)
    with pytest.raises(SystemExit) as caught:
        two_models_job.run(patient(), tmp_path / "run")
    assert caught.value.code == code
    assert len(fake.trained) == at + 1
    assert f"after {at + 1} of {ARMS} arms; all saved" in caplog.text
    assert not (tmp_path / "run" / "results.json").exists()
    fake.before_arm = nothing
    capsys.readouterr()
    two_models_job.run(patient(), tmp_path / "run")
    assert capsys.readouterr().out.startswith(
        f"Training B: resuming after {at + 1} of {ARMS} arms.\n"
    )
    assert fake.trained == settings_of(patient()).arms()  # None of them twice.
    assert_same_records(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.slow
def test_signal_in_the_last_arm_lets_the_run_finish(fake, tmp_path):
    last = ARMS - 1
    fake.before_arm = lambda count: (
        count == last and signal.raise_signal(signal.SIGTERM)
    )
    two_models_job.run(get_config(), tmp_path)
    assert (tmp_path / "results.json").exists()


class CrashError(Exception):
    pass


@pytest.mark.slow_except("3-False", "13-True")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("saves_often", [True, False])
@pytest.mark.parametrize("at", [0, 3, ARMS - 1])
def test_crash_costs_what_was_not_saved_and_nothing_else(
    at, saves_often, fake, tmp_path
):
    config = get_config() if saves_often else patient()
    two_models_job.run(config, tmp_path / "undisturbed")

    def crash(count):
        if count == at:
            raise CrashError

    fake.trained.clear()
    fake.before_arm = crash
    with pytest.raises(CrashError):
        two_models_job.run(config, tmp_path / "run")
    gc.collect()
    fake.before_arm = nothing
    fake.trained.clear()
    two_models_job.run(config, tmp_path / "run")
    assert len(fake.trained) == ARMS - at if saves_often else ARMS
    assert_same_records(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.filterwarnings(*tiny.ORBAX_FAILING)
def test_full_disk_is_a_user_error_and_the_same_command_goes_on(fake, tmp_path):
    fake.size = 10_000  # All but the checkpoints is smaller.
    two_models_job.run(get_config(), tmp_path / "undisturbed")
    fake.trained.clear()
    with contextlib.ExitStack() as stack:
        fake.before_arm = lambda count: (
            count == 2 and stack.enter_context(small_files(50_000))
        )
        with pytest.raises(UserError, match=r"Checkpoint 3 could not be written"):
            two_models_job.run(get_config(), tmp_path / "run")
    gc.collect()
    fake.before_arm = nothing
    two_models_job.run(get_config(), tmp_path / "run")
    assert_same_records(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.slow
def test_results_that_find_no_room_are_a_user_error(fake, tmp_path):
    two_models_job.run(get_config(), tmp_path / "undisturbed")
    size = (tmp_path / "undisturbed" / "results.json").stat().st_size
    assert size > (tmp_path / "undisturbed" / "metrics.jsonl").stat().st_size
    with small_files(size - 1), pytest.raises(UserError, match="could not be written"):
        two_models_job.run(get_config(), tmp_path / "run")
    gc.collect()
    two_models_job.run(get_config(), tmp_path / "run")
    assert_same_records(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.filterwarnings(*tiny.ORBAX_FAILING)
def test_run_can_be_cut_off_at_any_line(fake, tmp_path, monkeypatch):
    config = get_config()
    config.studies.methods.alphas = config.studies.loose.alphas = (0.1,)
    monkeypatch.setattr(
        two_models_run,
        "_report",
        lambda _, config, workdir: (workdir / "report.html").write_text("report"),
    )
    two_models_job.run(config, tmp_path / "undisturbed")
    folders = []

    def start():
        folders.append(tmp_path / str(len(folders)))
        two_models_job.run(config, folders[-1])

    # Every eleventh: an arm is as many lines and a few, so that all come to pass.
    assert len(list(deaths(start, two_models_run, stride=11))) > 20
    gc.collect()  # Closes what the dead still hold, locks among it.
    for folder in folders:
        two_models_job.run(config, folder)
        assert_same_records(folder, tmp_path / "undisturbed")
        assert (folder / "report.html").exists()


# Interruptions of the program itself.


# A fast one of runs/test_checkpoint.py passes over a damaged checkpoint, too.
@pytest.mark.slow
def test_damaged_newest_checkpoint_costs_an_arm_and_nothing_else(copied, finished):
    unfinish(copied)
    data = (copied / "checkpoints" / str(ARMS)).glob("state/ocdbt.process_0/d/*")
    for path in data:
        path.write_bytes(b"garbage" * 100)
    again = finished.launch(copied)
    assert again.returncode == 0, again.stderr
    assert f"Checkpoint {ARMS} in" in again.stderr
    assert f"Training B: resuming after {ARMS - 1} of {ARMS} arms." in again.stdout
    assert_same_bytes(copied, finished.workdir)


def kill_after(seconds):
    """Kills a process some time after its start, earlier where that came too late."""

    def kill(process, workdir, attempt):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds * 0.6**attempt)
        process.kill()

    return kill


def kill_in_save(number):
    """Kills a process within its first or a later save."""

    def kill(process, workdir, attempt):
        seen = set()
        while process.poll() is None:
            seen |= {path.name for path in workdir.glob("checkpoints/*tmp*")}
            if len(seen) >= max(1, number - attempt):
                break
            time.sleep(0.0005)
        process.kill()

    return kill


def survive(kills, finished, tmp_path):
    """Runs until each kill has hit, in some more folders if need be."""
    runs, hits = 0, []
    for kill in kills:
        for attempt in range(8):
            workdir = tmp_path / str(runs)
            with finished.start(workdir) as process:
                kill(process, workdir, attempt)
                process.wait()
            if process.returncode == -signal.SIGKILL:
                saves = [p.name for p in workdir.glob("checkpoints/*")]
                hits.append(sorted(saves))
                break
            assert process.returncode == 0
            assert_same_bytes(workdir, finished.workdir)
            runs += 1
        else:
            pytest.fail("Eight runs ended before they were killed.")
    last = finished.launch(workdir := tmp_path / str(runs))
    assert last.returncode == 0, last.stderr
    assert_same_bytes(workdir, finished.workdir)
    return hits


@pytest.mark.slow
def test_killed_run_leaves_the_same_bytes(finished, tmp_path):
    rng = random.Random(0)
    hits = survive([kill_in_save(rng.randrange(2, 5))], finished, tmp_path)
    assert any("tmp" in name for name in hits[0])


@pytest.mark.slow
def test_run_killed_many_times_leaves_the_same_bytes(finished, tmp_path):
    start = time.monotonic()
    finished.launch(tmp_path / "undisturbed")
    seconds = time.monotonic() - start
    rng = random.Random(1)
    strata = list(range(16))
    rng.shuffle(strata)
    kills = []
    for i in strata:
        kills.append(kill_after(seconds * (i + rng.random()) / len(strata)))
        if i % 3 == 0:
            kills.append(kill_in_save(rng.randrange(1, 4)))
    hits = survive(kills, finished, tmp_path)
    assert len(hits) >= 20
    # Some came before the first save, some within saves, some between.
    assert any(not saves for saves in hits)
    assert any("tmp" in name for saves in hits for name in saves)
    assert any(saves and "tmp" not in " ".join(saves) for saves in hits)
