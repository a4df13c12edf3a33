"""Searches as they are run: what they leave, interrupted or not."""

import contextlib
import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.interrupted import Interrupted
from helpers.tiny_search import RUNS, assert_same
from ml_collections import ConfigDict

from wpl_jax.data import DataError
from wpl_jax.engine.plan import Plan
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import retrain
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs import search_loop
from wpl_jax.jobs.expand import arm_names, expand
from wpl_jax.jobs.modes import run as run_mode
from wpl_jax.jobs.search_config import make_plan, make_search
from wpl_jax.reports import search_report
from wpl_jax.runs import machine
from wpl_jax.runs.run_directory import open_run
from wpl_jax.spaces.architecture_json import architecture_from_json
from wpl_jax.tasks import TASKS
from wpl_jax.tasks.guessing import Guess

# A round after each epoch, in two calls, on the toy space.
NAO = {
    "pool": 7,
    "every": 1,
    "updates": 4,
    "held_out": 0.5,
    "seeds": 3,
    "new": 2,
    "random": 1,
    "networks": {"embedding": 3, "hidden": 4, "layers": 1, "units": 3, "batch_size": 4},
    "candidates": {"proposed": 4, "screen_batches": 1, "keep": 2},
}


@pytest.fixture
def quick_report(monkeypatch):
    """A report that takes no time; it has tests of its own."""

    def write(workdir, *args):
        (workdir / "report.html").write_text("report")

    monkeypatch.setattr(search_report, "write", write)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run; tests may not write to it."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    jobs.run(toy.get_config(), workdir, "run")
    return workdir


def one_random_search():
    """With less to compile."""
    config = toy.get_config()
    del config.arms.none
    config.strategy.name = "random"
    config.retrain.epochs = 0
    return config


def records(folder):
    return [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]


def guess_by_hand():
    """The mean of the training examples, on the validation examples."""
    data = jax.tree.map(np.float64, toy.make_data())
    losses = ((data.valid - data.train.mean((0, 1))) ** 2).sum(-1).ravel() / 2
    least = losses.mean() - 3 * losses.std() / np.sqrt(losses.size)
    error = np.sqrt(2 * losses.mean())
    return {
        "loss": losses.mean(),
        "error": error,
        "least_error": np.sqrt(2 * max(least, 0)),
    }


def test_a_run_leaves_what_a_search_found(finished):
    assert (finished / "report.html").stat().st_size > 10_000
    config = toy.get_config()
    for run in RUNS:
        folder = finished / "searches" / run
        results = json.loads((folder / "results.json").read_text())
        architecture = architecture_from_json(
            toy.ToySpace(), (folder / "architecture.json").read_text()
        )
        assert architecture.tolist() == results["architecture"]
        assert results["valid_error"] == pytest.approx(
            np.sqrt(2 * results["valid_loss"]), rel=1e-6
        )
        lines = records(folder)
        assert [line["step"] for line in lines] == [0, 1, 2]
        for line in lines:
            err1, err2 = (
                np.array(line["children/err1"]),
                np.array(line["children/err2"]),
            )
            assert line["forgetting/loss_mean"] == pytest.approx(
                (err2 - err1).mean(), abs=1e-5
            )
            assert len(err1) == config.search.children
            assert line["children/best"] in [[a, b] for a in range(3) for b in range(3)]
        assert results["guess"] == pytest.approx(guess_by_hand(), rel=1e-5)
        retrained = json.loads((folder / "retrain" / "retrained.json").read_text())
        assert retrained["guess"] == results["guess"]
        assert retrained["architecture"] == results["architecture"]
        assert retrained["parameters"] == 3 * toy.SIZE
        assert retrained["test_error"] > 0
    wpl, none = (records(finished / "searches" / run) for run in RUNS)
    # The penalty begins in the second epoch.
    assert [line["penalty/alpha"] for line in wpl] == pytest.approx([0, 0.01, 0.01])
    assert [line["penalty/alpha"] for line in none] == [0, 0, 0]


def test_a_finished_run_is_not_repeated(finished, capsys, monkeypatch):
    """Its data is read, and compared; nothing else is done."""
    monkeypatch.setattr(search_loop, "Resumable", None)
    monkeypatch.setattr(run_mode, "check_devices", None)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*.json*")}
    jobs.run(toy.get_config(), finished, "run")
    said = capsys.readouterr().out
    assert said == f"This run is finished: {finished / 'report.html'}\n"
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*.json*")}


def with_other_data(monkeypatch, split="train"):
    """One number of the data is another one."""
    data = toy.make_data()
    changed = getattr(data, split).at[0, 0, 0].add(1)
    other = data._replace(**{split: changed})
    monkeypatch.setattr(toy.ToyTask, "put", lambda *_: other)


@pytest.mark.parametrize("mode", ["run", "derive", "rank"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_other_data_under_the_same_name_is_refused(mode, split, finished, monkeypatch):
    with_other_data(monkeypatch, split)
    monkeypatch.setattr(search_loop, "Resumable", None)
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match="holds a run with other data") as caught:
        jobs.run(toy.get_config(), finished, mode)
    assert str(finished) in str(caught.value)
    after = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert after == before


def test_a_finished_run_whose_data_is_gone_is_finished(finished, monkeypatch, capsys):
    def gone():
        raise DataError("data.npz", "found nothing", "a file", "give its path")

    monkeypatch.setattr(toy.ToyTask, "open", staticmethod(gone))
    jobs.run(toy.get_config(), finished, "run")
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"This run is finished: {finished / 'report.html'}"
    assert "not there to be compared" in second


@pytest.mark.slow_except("null-*")
@pytest.mark.parametrize("name", ["results.json", "retrain/retrained.json"])
@pytest.mark.parametrize("damage", [b"", b"null", b"\xff", b"{}"])
def test_damaged_results_are_named_before_anything_is_done(
    name, damage, finished, tmp_path, monkeypatch
):
    workdir = shutil.copytree(finished, tmp_path / "run")
    file = workdir / "searches" / "none-seed0" / name
    whole = file.read_bytes()
    file.write_bytes(damage)
    monkeypatch.setattr(search_loop, "Resumable", None)
    with pytest.raises(UserError, match="is damaged") as caught:
        jobs.run(toy.get_config(), workdir, "run")
    assert str(caught.value).startswith(str(file))
    assert "Delete it and run again" in str(caught.value)
    if damage:
        return
    # The advice works.
    monkeypatch.undo()
    file.unlink()
    jobs.run(toy.get_config(), workdir, "run")
    assert file.read_bytes() == whole


ARCHITECTURES = {
    "missing": (None, "No such file"),
    "not UTF-8": (b"\xff", "byte 0 is not UTF-8"),
    "not JSON": (b"{", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "a large list": (b"[" + b"1, " * 1_000_000 + b"1]", "of the space [1, 1, 1, 1,"),
    "another space": (b'{"space": "x"}', "of the space 'x', expected 'toy'"),
    "a wrong choice": (b'{"space": "toy", "decisions": {"first": "z"}}', "first"),
}


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("mode", ["run", "retrain"])
def test_damaged_architectures_are_named(name, mode, finished, tmp_path, monkeypatch):
    content, said = ARCHITECTURES[name]
    workdir = shutil.copytree(finished, tmp_path / "run")
    folder = workdir / "searches" / "none-seed0"
    (folder / "retrain" / "retrained.json").unlink()
    path = folder / "architecture.json"
    path.unlink() if content is None else path.write_bytes(content)
    config = toy.get_config()
    if mode == "retrain":
        workdir = tmp_path / "other"
        config.retrain.architecture = str(path)
        said = "expected the file" if content is None else said
    monkeypatch.setattr(search_loop, "Resumable", None)
    monkeypatch.setattr(retrain, "Resumable", None)
    with pytest.raises(UserError) as caught:
        jobs.run(config, workdir, mode)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 700
    if mode == "run":
        assert f"Delete {folder / 'results.json'}" in str(caught.value)


def run_in_parts(config, workdir, calls, monkeypatch):
    """Runs a configuration, a few calls at a time."""
    monkeypatch.setattr(machine, "StopRequest", Interrupted)
    compiled = {}
    fresh = run_mode._Arm

    # The processes of this test share what they compile.
    def arm(name, config, *args):
        made = compiled.get(name) or fresh(name, config, *args)
        return compiled.setdefault(name, made)

    monkeypatch.setattr(run_mode, "_Arm", arm)
    for _ in range(200):
        Interrupted.left = calls + 1
        with contextlib.suppress(SystemExit):
            jobs.run(config, workdir, "run")
            break
    assert (workdir / "report.html").exists()


@pytest.mark.parametrize("calls", [7])
def test_interruptions_change_nothing(
    calls, finished, tmp_path, monkeypatch, quick_report
):
    run_in_parts(toy.get_config(), tmp_path / "run", calls, monkeypatch)
    assert_same(tmp_path / "run", finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "changing"),
    [
        (
            {"name": "differentiable", "differentiable": {}},
            "children/discretization_gap_loss",
        ),
        ({"name": "nao", "nao": NAO}, "strategy/predicted"),
    ],
    ids=["differentiable", "nao"],
)
def test_interruptions_of_other_strategies_change_nothing(
    strategy, changing, tmp_path, monkeypatch, quick_report
):
    """After each call, and so in the middle of what a strategy learns in an epoch."""
    config = one_random_search()
    config.strategy = ConfigDict(strategy)
    jobs.run(config, tmp_path / "whole", "run")
    lines = records(tmp_path / "whole" / "searches" / "wpl-seed0")
    assert len({str(line[changing]) for line in lines}) == 3
    run_in_parts(config, tmp_path / "parts", 1, monkeypatch)
    for name in ("metrics.jsonl", "results.json"):
        whole, parts = (
            (tmp_path / run / "searches" / "wpl-seed0" / name).read_bytes()
            for run in ("whole", "parts")
        )
        assert whole == parts


@pytest.mark.slow
def test_too_many_bad_steps_go_back_with_half_the_rate(
    tmp_path, monkeypatch, capsys, quick_report
):
    class Steep(toy.ToyTask):
        """Steps above a rate of .03 lead out of the numbers from epoch 2 on."""

        def train_loss(self, child, architecture, data, stream, step, key, axis):
            nats, (seen, stream) = super().train_loss(
                child, architecture, data, stream, step, key
            )
            # What the stream counts tells the epoch; the first has 8 steps.
            moved = jnp.abs(child["shared"] - jnp.float32(0)).max()
            fast = data.test[0, 0, 0] > 0
            bad = jnp.where((stream[0] > 8) & (moved > 0) & fast, jnp.nan, 0.0)
            return nats + bad, (seen + bad, stream)

    monkeypatch.setitem(TASKS, "steep", Steep)
    config = one_random_search()
    config.task = ConfigDict({"name": "steep"})
    config.search.max_bad_steps = 3

    rates = []
    advance = Plan.advance

    def watched(plan, state, data, number):
        rate = float(state.rate_scale)
        rates.append((plan[number].epoch, rate))
        test = jnp.full_like(data.test, rate > 0.25)  # Lower is low enough.
        return advance(plan, state, data._replace(test=test), number)

    monkeypatch.setattr(Plan, "advance", watched)
    jobs.run(config, tmp_path / "run", "run")
    said = capsys.readouterr().out
    assert "3 steps in a row were not finite in epoch 2" in said or (
        "4 steps in a row were not finite in epoch 2" in said
    )
    assert "learning rate times 0.5" in said
    assert "learning rate times 0.25" in said
    # What is told last is no epoch more.
    assert "selection, judge" in said
    assert "epoch 4" not in said
    lines = records(tmp_path / "run" / "searches" / "wpl-seed0")
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert lines[0]["training/learning_rate"] == pytest.approx(0.05)
    assert lines[1]["training/learning_rate"] == pytest.approx(0.05 / 4)
    assert dict(rates)[2] == 0.25
    assert all(line["training/skipped"] == 0 for line in lines)
    # What random search does not learn has no reward.
    assert all(
        line["strategy/reward"] is line["strategy/entropy"] is None for line in lines
    )
    assert all(line["children/reward"] > 0 for line in lines)


def test_an_architecture_file_is_retrained(finished, tmp_path, capsys):
    config = toy.get_config()
    found = finished / "searches" / "wpl-seed0"
    config.retrain.architecture = str(found / "architecture.json")
    jobs.run(config, tmp_path / "run", "retrain")
    # The toy's examples are noise, of which there is no more to know than the mean.
    assert "No better than guessing" in capsys.readouterr().out
    again = json.loads((tmp_path / "run" / "retrain" / "retrained.json").read_text())
    assert again == json.loads((found / "retrain" / "retrained.json").read_text())
    jobs.run(config, tmp_path / "run", "evaluate")
    assert f"distance {again['valid_error']:.2f} on validation" in (
        capsys.readouterr().out
    )


def test_a_random_architecture_of_the_seed_is_retrained(tmp_path, capsys):
    config = toy.get_config()
    config.retrain.architecture = "random"
    jobs.run(config, tmp_path / "run", "retrain")
    capsys.readouterr()
    found = json.loads((tmp_path / "run" / "retrain" / "retrained.json").read_text())
    drawn = toy.ToySpace().sample(jax.random.key(config.seed))
    assert found["architecture"] == np.asarray(drawn).tolist()


def test_deriving_again_finds_the_same(finished, tmp_path, monkeypatch, capsys):
    """And says whether it is better than guessing, as the run does."""
    guesses = iter([Guess(0.5, 1.25, least_error=0.0), Guess(99.0, 99.0, 99.0)])
    monkeypatch.setattr(toy.ToyTask, "guess", lambda *_: next(guesses))
    workdir = shutil.copytree(finished, tmp_path / "run")
    path = workdir / "searches" / "wpl-seed0" / "architecture.json"
    expected = path.read_text()
    path.write_text("lost")
    jobs.run(toy.get_config(), workdir, "derive")
    assert path.read_text() == expected
    said = capsys.readouterr().out
    assert said.count("No better than guessing") == 1
    assert "wpl, seed 0, the best architecture (distance" in said
    assert "guessing 1.25)" in said


@pytest.mark.slow
def test_deriving_of_an_unfinished_search_leaves_it_unfinished(
    finished, tmp_path, monkeypatch, quick_report
):
    config, workdir = toy.get_config(), tmp_path / "run"
    del config.arms.none
    monkeypatch.setattr(machine, "StopRequest", Interrupted)
    Interrupted.left = 15
    with pytest.raises(SystemExit):
        jobs.run(config, workdir, "run")
    folder = workdir / "searches" / "wpl-seed0"
    Interrupted.left = 1000
    jobs.run(config, workdir, "derive")
    found = json.loads((folder / "derived_architecture.json").read_text())
    assert found["space"] == "toy"
    assert not (folder / "results.json").exists()
    jobs.run(config, workdir, "run")
    assert_same(workdir, finished, ["wpl-seed0"])


@pytest.mark.slow_except("loss")
@pytest.mark.parametrize("what", ["loss", "fisher"])
def test_a_search_that_cannot_go_on_says_so(what, tmp_path, monkeypatch, quick_report):
    data = toy.make_data()
    split = "train" if what == "loss" else "valid"
    bad = data._replace(**{split: getattr(data, split).at[:].set(jnp.nan)})
    monkeypatch.setattr(toy.ToyTask, "put", lambda *_: bad)
    said = "thousandth of the learning rate" if what == "loss" else "finite error"
    with pytest.raises(UserError, match=said):
        jobs.run(one_random_search(), tmp_path / "run", "run")


@pytest.mark.slow_except("enas-*", "random-wpl", "differentiable-wpl")
@pytest.mark.parametrize("penalty", ["none", "l2", "ewc", "wpl"])
@pytest.mark.parametrize("strategy", ["enas", "random", "differentiable", "nao"])
def test_every_strategy_goes_with_every_penalty(strategy, penalty):
    """By shapes alone: whatever the call, the state keeps its form."""
    config = toy.get_config()
    config.strategy.name, config.penalty.name = strategy, penalty
    config.strategy.differentiable = ConfigDict({})
    config.strategy.nao = ConfigDict(NAO)
    search, data, _ = make_search(config)
    state = jax.eval_shape(search.init, jax.random.key(0))
    phases, plan = set(), make_plan(config, search)
    for number, call in enumerate(plan):
        if call.phase not in phases:
            advance = functools.partial(plan.advance, data=data, number=number)
            after = jax.eval_shape(advance, state)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            for new, old in zip(*map(jax.tree.leaves, (after, state)), strict=True):
                assert (new.shape, new.dtype) == (old.shape, old.dtype)
            phases.add(call.phase)
    assert ("learn" in phases) == (strategy in ("enas", "nao"))


def test_the_main_arm_is_as_long_as_its_own_time(finished, tmp_path, capsys):
    """Whatever the times are; the flags of all arms are those of a configuration."""
    del finished  # It has compiled what is timed.
    jobs.run(toy.get_config(), tmp_path / "new", "time")
    found = json.loads((tmp_path / "new" / "times.json").read_text())
    assert found["arms"]["wpl"]["epochs"] == 3
    phases = {"train", "evaluate", "learn", "propose", "screen", "keep", "judge"}
    assert set(found["arms"]["none"]["calls"]) == phases
    assert all(one > 0 for one in found["arms"]["none"]["calls"].values())
    flags = (tmp_path / "new" / "epochs.flags").read_text().splitlines()
    assert flags[0] == "--config.arms.wpl.search.epochs=3"
    assert re.fullmatch(r"--config\.arms\.none\.search\.epochs=\d+", flags[1])
    assert "$(cat " in capsys.readouterr().out
    assert not (tmp_path / "new" / "config.json").exists()  # The run claims it.


def test_arms_and_seeds_are_expanded():
    config = toy.get_config()
    config.num_seeds = 2
    runs = expand(config)
    assert [(r.arm, r.seed) for r in runs] == [
        ("wpl", 0),
        ("none", 0),
        ("wpl", 1),
        ("none", 1),
    ]
    assert [r.config.penalty.name for r in runs] == ["wpl", "none"] * 2
    assert arm_names(config) == ["wpl", "none"]


def wrong(**changes):
    config = toy.get_config()
    with config.ignore_type(), config.unlocked():
        config.update(changes)
    return config


WRONG = {
    "epochs": ({"search": {"epochs": 0}}, "config.search.epochs is 0"),
    "divisor": ({"search": {"learn_per_call": 3}}, "a divisor of the strategy's 4"),
    "batches": ({"search": {"eval_batches": 99}}, "at most 5"),
    "penalty": (
        {"arms": {"wpl": {"penalty": {"name": "wlp"}}}},
        "config.arms.wpl.penalty.name is 'wlp'",
    ),
    "screening": (
        {"strategy": {"enas": {"candidates": {"screen_batches": 6}}}},
        "screen_batches is 6, expected at most 5",
    ),
    "batches of both": (
        {
            "search": {"eval_batches": 99},
            "strategy": {"enas": {"candidates": {"screen_batches": 6}}},
        },
        "eval_batches is 99 and config.strategy.enas.candidates.screen_batches is 6, "
        "expected at most 5, the batches of the validation data. Mend the config file, "
        "or pass --config.search.eval_batches=5 "
        "--config.strategy.enas.candidates.screen_batches=5.",
    ),
    "retrained task": ({"retrain": {"task": {"sed": 1}}}, "changes a setting"),
    "strategy": ({"strategy": {"name": "nas"}}, "config.strategy.name is 'nas'"),
    "task": ({"task": {"name": "toi"}}, "config.task.name is 'toi'"),
    "arm": ({"main_arm": "ewc"}, "config.main_arm is 'ewc'"),
    "seeds": ({"num_seeds": 0}, "config.num_seeds is 0"),
    "retraining": ({"retrain": {"epochs": -1}}, "config.retrain.epochs is -1"),
    "rate": (
        {"optimizer": {"sgd": {"learning_rate": 0}}},
        "optimizer.sgd.learning_rate is",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_are_refused_before_anything_is_made(name, tmp_path):
    changes, said = WRONG[name]
    with pytest.raises(ConfigError) as caught:
        jobs.run(wrong(**changes), tmp_path / "run", "run")
    assert said in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_an_arm_that_changes_an_unknown_field_is_refused(tmp_path):
    config = toy.get_config()
    config.arms = ConfigDict({"wpl": {"penalty": {"strenght": 3.0}}})
    with pytest.raises(ConfigError, match=r"config\.arms\.wpl .*strenght"):
        jobs.run(config, tmp_path / "run", "run")


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("report", "There is no run"),
        ("derive", "There is no run"),
        ("rank", "There is no run"),
        ("retrain", "expected the file of an architecture"),
        ("evaluate", "Run with --mode=retrain first"),
    ],
)
def test_modes_that_need_a_finished_search_say_so(mode, said, tmp_path):
    with pytest.raises(UserError, match=said):
        jobs.run(toy.get_config(), tmp_path / "run", mode)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("report", "has not finished"),
        ("derive", "There is no search"),
        ("rank", "has not finished"),
    ],
)
def test_modes_on_a_run_that_has_just_begun_say_so(mode, said, tmp_path):
    with open_run(tmp_path / "run", toy.get_config().to_dict()):
        pass
    with pytest.raises(UserError, match=said):
        jobs.run(toy.get_config(), tmp_path / "run", mode)
    other = toy.get_config()
    other.search.children = 5
    with pytest.raises(UserError, match=r"search\.children: 4 there, 5 now"):
        jobs.run(other, tmp_path / "run", mode)
