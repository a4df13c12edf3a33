"""Input that cannot be run: one message each, before a folder is claimed."""

import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
from helpers import tiny, tiny_search
from helpers.flags import parse
from ml_collections import ConfigDict, config_dict

from wpl_jax.engine.plan import Call, Plan
from wpl_jax.errors import UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.runs.machine import Machine

# ml_collections loads files by a method that Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

CELL = "recurrent_cell"
SEARCH = "tests/helpers/tiny_search.py"
IMAGES = "configs/enas_cnn_digits.py"
TWO_MODELS = "tests/helpers/tiny.py"


@pytest.fixture
def no_compiling(monkeypatch):
    """Fails where something would be compiled."""

    def compiles(*_, **__):
        raise AssertionError("something is compiled")

    monkeypatch.setattr("wpl_jax.search.Search.train_child", compiles)
    monkeypatch.setattr("wpl_jax.two_models.run.Experiment.train_a", compiles)


def refused(config, workdir, overrides=()):
    """What a job says that cannot be run."""

    def run():
        jobs.check_overrides(config, overrides, "run")
        jobs.run(config, workdir, "run")

    with pytest.raises(UserError) as caught:
        run()
    assert not workdir.exists()
    return str(caught.value)


ON_THE_COMMAND_LINE = {
    # An override that no run reads.
    "name": (SEARCH, "penalty.name=ewc", "every arm sets", "wpl", "none"),
    "the arms' own": (SEARCH, "penalty.name=wpl", "config.penalty.name changes"),
    # The data's own options.
    "hold-out": (
        *(IMAGES, "task.data.valid=5000", "found valid=5000"),
        "--config.task.data.valid=VALUE",
    ),
    "share": (
        *(IMAGES, "task.data.train=5000", "or train=None for all"),
        "--config.task.data.train=VALUE",
    ),
    "text": (
        *(SEARCH, "task.data.min_count=1000000", "set min_count="),
        "--config.task.data.min_count=VALUE",
    ),
    "no share": (
        *(IMAGES, "task.data.valid=2.0", "found 2.0"),
        "--config.task.data.valid=VALUE",
    ),
    "images of two models": (
        *(TWO_MODELS, "data.valid=5000", "found valid=5000"),
        "--config.data.valid=VALUE",
    ),
    # Seeds and sizes.
    "seed": (SEARCH, "seed=4294967296", "seed is 4294967296", "at most 4294967295"),
    "large seed": (SEARCH, f"seed={2**63}", "config.seed is", "at most 4294967295"),
    "seeds": (SEARCH, "num_seeds=100000000", "num_seeds", "at most 10000"),
    "seed of two models": (TWO_MODELS, "seed=4294967296", "at most 4294967295"),
    "one node": (
        SEARCH,
        "space.recurrent_cell.num_nodes=1",
        "config.space.recurrent_cell.num_nodes is 1",
        "at least 2",
    ),
    "nodes": (
        SEARCH,
        "space.recurrent_cell.num_nodes=2000",
        "config.space.recurrent_cell.num_nodes is 2000",
        "at most 100",
    ),
    "nodes of images": (
        IMAGES,
        "space.micro_cell.num_nodes=2000",
        "config.space.micro_cell.num_nodes is 2000",
        "at most 100",
    ),
    "epochs": (SEARCH, "search.epochs=3000000000", "epochs", "at most 1000000"),
    "all batches": (
        SEARCH,
        "search.children=1000000000",
        "config.search.epochs is ",
        "expected at most",
        "training batches are counted over all epochs, by int32",
    ),
    "layers": (TWO_MODELS, "layers_b=100000", "layers_b is 100000", "at most 100"),
    "layers of a": (TWO_MODELS, "layers_a=101", "layers_a is 101", "at most 100"),
    "steps": (TWO_MODELS, "model_b.steps=1000000000000", "steps", "at most 1000000"),
    "steps of a": (TWO_MODELS, "model_a.steps=1000000000", "in one call", "1000000."),
    "batches": (SEARCH, "search.batches=1000000000", "in one call", "most 1000000."),
    "batches of the Fisher": (
        SEARCH,
        "penalty.wpl.batch.batches=1000000000",
        "config.penalty.wpl.batch.batches is 1000000000",
        "(in one call) and at most 1000000.",
    ),
    "patience": (SEARCH, "retrain.patience=1000000000", "patience", "at most 10000"),
    "samples": (SEARCH, "strategy.enas.samples_per_step=1000000000", "at most 10000"),
    "learning": (SEARCH, "search.learn_per_call=1000000000", "at most 1000000"),
    # Values that float32 cannot hold.
    "rate": (SEARCH, "optimizer.sgd.learning_rate=1e39", "learning_rate", "float32"),
    "small rate": (SEARCH, "optimizer.sgd.learning_rate=1e-40", "1e-40", "float32"),
    "strength": (
        SEARCH,
        "penalty.wpl.strength=1e300",
        "penalty.wpl.strength",
        "float32",
    ),
    "not a number": (
        SEARCH,
        "penalty.wpl.strength=nan",
        "config.penalty.wpl.strength is nan",
    ),
    "alphas": (TWO_MODELS, "studies.methods.alphas=(1e39,)", "alphas", "float32"),
    "alpha": (TWO_MODELS, "model_b.sgd.learning_rate=1e39", "learning_rate", "float32"),
    # None where it may not be.
    "none": (SEARCH, "search.epochs=None", "config.search.epochs is None"),
    # Named where it is set.
    "of the retraining": (
        SEARCH,
        "retrain.task.language_model.batch_size=-1",
        "config.retrain.task.language_model.batch_size is -1",
        "pass --config.retrain.task.language_model.batch_size=",
    ),
    "space of the retraining": (
        IMAGES,
        "retrain.space.micro_cell.layers=4",
        "config.retrain.space.micro_cell.layers is 4, expected a multiple of 3",
        "pass --config.retrain.space.micro_cell.layers=",
    ),
    # Images.
    "crop": (
        IMAGES,
        "task.image_classification.augmentation.crop=1000",
        "config.task.image_classification.augmentation.crop is 1000",
        "at most 8",
    ),
}


@pytest.mark.usefixtures("no_compiling")
@pytest.mark.parametrize("name", ON_THE_COMMAND_LINE)
def test_what_the_command_line_sets_wrong_is_said(name, tmp_path):
    file, override, *expected = ON_THE_COMMAND_LINE[name]
    message = refused(
        *parse(file, override)[:1], tmp_path / "run", parse(file, override)[1]
    )
    for part in expected:
        assert part in message


MISSING = {
    "search": (SEARCH, "run", ["retrain.space", "retrain.task", "space", "task.data"]),
    "retraining": (
        SEARCH,
        "retrain",
        ["retrain", "retrain.architecture", "seed"],
    ),
    "two models": (TWO_MODELS, "run", ["data", "data.format", "main", "main.step"]),
}


@pytest.mark.usefixtures("no_compiling")
@pytest.mark.parametrize("name", MISSING)
def test_what_a_file_lacks_is_said(name, tmp_path):
    file, mode, fields = MISSING[name]
    for field in fields:
        config, _ = parse(file)
        *above, last = field.split(".")
        part = config
        for section in above:
            part = part[section]
        with part.unlocked():
            del part[last]
        with pytest.raises(
            UserError, match=rf"config\.{re.escape(field)}\S* is missing"
        ):
            jobs.run(config, tmp_path / "run", mode)
    assert not (tmp_path / "run").exists()


def test_the_seed_of_a_training_of_one_architecture_is_checked(tmp_path):
    config, _ = parse(SEARCH, f"seed={2**63}")
    with pytest.raises(UserError, match=r"config\.seed is .*at most 4294967295"):
        jobs.run(config, tmp_path / "run", "retrain")


def changed(module, **fields):
    config = module.get_config()
    config.unlock()
    with config.ignore_type():
        for name, value in fields.items():
            config[name] = value
    return config


IN_A_FILE = {
    "arms": (tiny_search, {"arms": 3}, ["config.arms is 3", "names with settings"]),
    "no arms": (tiny_search, {"arms": ConfigDict()}, ["config.arms", "at least one"]),
    "an arm": (tiny_search, {"arms": ConfigDict({"wpl": None})}, ["config.arms.wpl"]),
    "retrain": (tiny_search, {"retrain": None}, ["config.retrain is None"]),
    "space": (
        tiny_search,
        {"space": ConfigDict({"name": CELL, CELL: {"hidden": 4, "node": 3}})},
        ["config.space.recurrent_cell.node is not a setting", "num_nodes"],
    ),
    "no size": (
        tiny_search,
        {"space": ConfigDict({"name": CELL, CELL: {}})},
        ["config.space.recurrent_cell.hidden is missing"],
    ),
    "size of the data": (
        tiny_search,
        {"space": ConfigDict({"name": CELL, CELL: {"vocabulary_size": 3}})},
        ["config.space.recurrent_cell.vocabulary_size is not a setting"],
    ),
    "job": (tiny_search, {"job": ["search"]}, ["config.job is ['search']"]),
    "typo": (
        tiny_search,
        {"arms": ConfigDict({"wpl": {"penalty": {"nam": "l2"}}})},
        ["config.arms.wpl", "penalty.nam", "Did you mean name?"],
    ),
    "arm of a field": (
        tiny_search,
        {"arms": ConfigDict({"wpl": {"penalty": 3}})},
        ["config.arms.wpl sets penalty to 3", "expected settings"],
    ),
}
IN_A_FILE["no number of epochs"] = (
    tiny_search,
    {"retrain": ConfigDict({"epochs": None})},
    ["config.retrain.epochs is None", "at least 0"],
)
for name, value in {
    "path": pathlib.Path("x"),
    "set": {1, 2},
    "nan": float("nan"),
    "infinity": [1.0, float("inf")],
    "bytes": b"x",
    "complex": 1j,
    "number of an array": np.float32(0.5),
    "function": len,
    "nested": (1, [2, ({3},)]),
}.items():
    IN_A_FILE[name] = (tiny_search, {"main_arm": value}, ["config.main_arm is "])
    IN_A_FILE[f"{name} of two models"] = (tiny, {"stops": value}, ["config.stops is "])
IN_A_FILE["required"] = (
    tiny,
    {"seed": config_dict.required_placeholder(int)},
    ["config.seed has no value", "--config.seed=VALUE"],
)
IN_A_FILE["whole number as a name"] = (
    tiny,
    {"main": ConfigDict({3: 4})},
    ["config.main has the name 3"],
)
NAMES = ["a/b", "/tmp/a", "$\\frac{$", "a" * 250, '"><script>alert(1)<', "\x1b[2J", ""]


@pytest.mark.usefixtures("no_compiling")
@pytest.mark.parametrize("name", IN_A_FILE)
def test_what_a_file_sets_wrong_is_said(name, tmp_path):
    module, fields, expected = IN_A_FILE[name]
    message = refused(changed(module, **fields), tmp_path / "run")
    for part in expected:
        assert part in message
    assert len(message) < 400
    # No flag sets a whole section.
    assert not re.search(r"--config\.(arms|retrain|space)(\.wpl)?=", message)


@pytest.mark.usefixtures("no_compiling")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("module", "field"), [(tiny_search, "arms"), (tiny, "studies")]
)
def test_names_are_those_of_folders(module, field, name, tmp_path):
    config = module.get_config()
    with config.unlocked():
        first = next(iter(config[field].values()))
        config[field][name] = first
    message = refused(config, tmp_path / "run")
    assert f"config.{field} has the name" in message
    assert "\x1b" not in message
    assert len(message) < 300


def test_two_models_take_no_more_than_one_device(tmp_path):
    with pytest.raises(UserError, match="Omit --devices"):
        jobs.run(tiny.get_config(), tmp_path / "run", "run", Machine(devices=2))


@pytest.mark.parametrize("get_config", [tiny.get_config, tiny_search.get_config])
@pytest.mark.parametrize("mode", ["run", "report"])
def test_devices_that_there_are_not_are_said_before_the_data_is_read(
    get_config, mode, tmp_path
):
    config = get_config()
    data = config.data if "data" in config else config.task.data
    data.path = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--devices is 9, expected 1 to 8"):
        jobs.run(config, tmp_path / "run", mode, Machine(devices=9))


@pytest.mark.parametrize("found", [None, 3, "", "nowhere.json"])
def test_an_architecture_that_is_no_file_is_said(found, tmp_path):
    config = tiny_search.get_config()
    with config.retrain.unlocked(), config.retrain.ignore_type():
        config.retrain.architecture = found
    with pytest.raises(UserError) as caught:
        jobs.run(config, tmp_path / "run", "retrain")
    assert f"config.retrain.architecture is {found!r}" in str(caught.value)


FLAGS = {
    "port": (["--coordinator=foo", "--processes=2", "--process=0"], "HOST:PORT"),
    "wait": (["--wait=3"], "Error: --wait is for several processes"),
    "profile": (["--profile=-1"], "--profile=-1"),
    "positional": (["run"], "Error: Unexpected arguments: ['run']"),
    "syntax": (["--config={folder}/syntax.py"], "syntax.py: invalid syntax"),
}


@pytest.mark.slow_except("wait")
@pytest.mark.parametrize("name", FLAGS)
def test_wrong_flags_are_said_in_few_lines(name, tmp_path):
    (tmp_path / "syntax.py").write_text("def get_config(:\n")
    given, expected = FLAGS[name]
    given = [flag.format(folder=tmp_path) for flag in given]
    command = [sys.executable, "launch.py", f"--config={TWO_MODELS}"]
    command += [f"--workdir={tmp_path / 'run'}", *given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 4
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "field",
    [
        "optimizer.sgd.clip_norm",
        "optimizer.sgd.momentum",
        "penalty.wpl.flush_every",
        "penalty.wpl.max_norm",
        "penalty.wpl.decay_epochs",
        "space.recurrent_cell.max_norm",
        "strategy.enas.tanh_constant",
        "retrain.patience",
        "task.data.max_vocabulary",
    ],
)
def test_fields_that_may_be_none_can_be_set_to_it(field):
    config, overrides = parse(SEARCH, f"{field}=None")
    assert overrides == [field]
    value = config
    for name in field.split("."):
        value = value[name]
    assert value is None


def test_an_override_that_some_arm_does_not_set_is_read():
    config, overrides = parse(SEARCH, "penalty.wpl.strength=0.5", "search.epochs=3")
    jobs.check_overrides(config, overrides, "run")
    with config.unlocked():
        config.arms.wpl.penalty.wpl = ConfigDict({"strength": 1.0})
        config.arms.none.penalty.name = "wpl"
    jobs.check_overrides(config, overrides, "run")


def all_calls(epochs, children, steps, per_call, proposed, judged):
    """The same, written as a list."""
    phases = [("train", i) for i in range(children)]
    phases += [("evaluate", i) for i in range(children)]
    phases += [("learn", i) for i in range(0, steps, per_call)]
    calls = [
        Call(epoch, phase, first, i == len(phases))
        for epoch in range(epochs)
        for i, (phase, first) in enumerate(phases, 1)
    ]
    selecting = [("propose", 0), *(("screen", i) for i in range(proposed))]
    selecting += [("keep", 0), *(("judge", i) for i in range(judged))]
    return calls + [Call(epochs, phase, first, False) for phase, first in selecting]


def lazy_calls(epochs, children, steps, per_call, proposed, judged):
    candidates = types.SimpleNamespace(proposed=proposed)
    strategy = types.SimpleNamespace(
        steps_after=lambda epoch: steps,
        check_epochs=lambda number: None,
        candidates=candidates,
    )
    search = types.SimpleNamespace(
        children=children, strategy=strategy, num_judged=judged, average_from=None
    )
    return Plan(search, epochs, per_call)


@pytest.mark.parametrize("sizes", [(2, 3, 4, 2, 4, 1), (3, 1, 0, 5, 2, 2)])
def test_calls_are_those_of_the_list(sizes):
    calls, expected = lazy_calls(*sizes), all_calls(*sizes)
    assert list(calls) == expected
    starts = {0, *(i for i, call in enumerate(expected, 1) if call.last)}
    assert {i for i in range(len(calls)) if calls.begins_epoch(i)} == starts
    assert expected[calls.selection].phase == "propose"


def test_calls_of_a_huge_search_are_not_made():
    calls = lazy_calls(10**4, 3, 2 * 10**9, 2, 4, 1)
    assert len(calls) == 10**4 * (10**9 + 6) + 7
    assert calls[10**9 + 6] == Call(1, "train", 0, False)
    assert calls[-1].phase == "judge"


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_paths_that_the_system_refuses_are_said(name, tmp_path):
    with pytest.raises(UserError, match=r"--workdir=.* cannot be a folder") as caught:
        jobs.run(tiny.get_config(), tmp_path / name, "run")
    assert len(str(caught.value)) < 250
