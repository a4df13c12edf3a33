"""Searches and trainings that start from the weights of others."""

import json
import shutil

import jax
import numpy as np
import pytest
from helpers import toy
from ml_collections import ConfigDict

from wpl_jax.errors import UserError
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.modes.run import run
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.jobs.search_config import make_plan, make_search
from wpl_jax.jobs.search_loop import resumable
from wpl_jax.jobs.start_from import START_FILE, Start, path_of
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.warm_start import read_source
from wpl_jax.supernet import Architecture, gather


def small_config(**fields):
    config = toy.get_config()
    config.arms = ConfigDict({"none": {"penalty": {"name": "none"}}})
    config.main_arm = "none"
    config.strategy.name = "random"
    config.search.epochs = 1
    config.retrain.epochs = 1
    config.update_from_flattened_dict(fields)
    return config


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run, with its retraining."""
    workdir = tmp_path_factory.mktemp("first")
    run(small_config(), workdir)
    return workdir


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A finished run without a retraining, which takes its time to compile."""
    workdir = tmp_path_factory.mktemp("searched")
    run(small_config(**{"retrain.epochs": 0}), workdir)
    return workdir


SEARCH = "searches/none-seed0"


@pytest.mark.slow
def test_a_search_begins_with_the_weights_of_another(first, tmp_path, capsys):
    source = tmp_path / "source"
    shutil.copytree(first, source)
    config = small_config(**{"search.start_from": str(source), "search.children": 8})
    run(config, tmp_path / "run")
    told = capsys.readouterr().out
    assert f"starts from {source / SEARCH}, checkpoint " in told
    assert "3 of 3 arrays fit." in told
    found = json.loads((tmp_path / "run" / SEARCH / START_FILE).read_text())
    assert found["from"] == str(source / SEARCH)
    assert sorted(found["fitting"]) == ["a", "b", "shared"]
    # What is resumed, or finished, does not need the source any more.
    shutil.rmtree(source)
    run(config, tmp_path / "run")
    assert "This run is finished" in capsys.readouterr().out


@pytest.mark.slow
def test_the_first_state_has_the_weights_and_the_rest_is_fresh(first, tmp_path):
    config = small_config()
    (each,) = expand(config)
    search, _, _ = make_search(config)
    plan = make_plan(config, search)
    start = Start(
        *("search.start_from", str(first), each.name),
        *(search.task.space, None, tmp_path),
    )
    start.check()
    with Machine().requests() as requests:
        arguments = (search, plan, each.seed, tmp_path, "Search", requests, 1e6)
        with resumable(*arguments, start.function("Search")) as job:
            state = job.state

        def fail(params):
            raise AssertionError("a search that is resumed does not start again")

        with resumable(*arguments, fail) as job:
            jax.tree.map(
                np.testing.assert_array_equal,
                job.state.shared.params,
                state.shared.params,
            )
    arrays = read_source(first / SEARCH).arrays
    fresh = search.init(each.key())
    for name, expected in arrays.items():
        np.testing.assert_array_equal(state.shared.params[name], expected)
        assert np.any(np.asarray(fresh.shared.params[name]) != expected)
    jax.tree.map(np.testing.assert_array_equal, state.epoch, fresh.epoch)
    jax.tree.map(np.testing.assert_array_equal, state.selection, fresh.selection)


@pytest.mark.slow
@pytest.mark.parametrize("below", [SEARCH, f"{SEARCH}/retrain"])
def test_a_retraining_begins_with_the_rows_of_its_architecture(first, tmp_path, below):
    config = small_config(**{"retrain.start_from": str(first / below)})
    run(config, tmp_path / "run")
    folder = tmp_path / "run" / SEARCH
    found = json.loads((folder / "retrain" / START_FILE).read_text())
    assert found["from"] == str(first / below)
    assert found["fresh"] == []
    source, key = read_source(first / below), jax.random.key(5)
    retraining = make_retraining(config).retraining
    choice = jax.numpy.array(
        json.loads((folder / "results.json").read_text())["architecture"]
    )
    start = Start(
        *("retrain.start_from", str(first / below), None),
        *(retraining.task.space, None, tmp_path),
    )
    params = start.function("Retrain")(retraining.init_params(key))
    found = retraining.init(key, choice, params).params
    expected = source.arrays
    if source.choice is None:
        rows = toy.ToySpace().rows(Architecture(choice))
        expected = gather(jax.tree.map(jax.numpy.asarray, expected), rows)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
def test_a_retraining_may_start_from_the_search_before_it(tmp_path, capsys):
    config = small_config(**{"retrain.start_from": str(tmp_path / "run")})
    run(config, tmp_path / "run")
    told = capsys.readouterr().out
    assert f"starts from {tmp_path / 'run' / SEARCH}, checkpoint" in told


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nothing", "where there is no checkpoint of a search or a training"),
        (3, "expected the folder of a search or of a training"),
    ],
)
def test_a_wrong_source_is_named_before_the_folder_is_claimed(tmp_path, path, said):
    config = small_config()
    with config.unlocked(), config.ignore_type():
        config.search.start_from = path
    with pytest.raises(UserError, match=said):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_seeds_and_the_own_folder_are_refused(searched, tmp_path):
    config = small_config(**{"search.start_from": str(searched), "seed": 1})
    with pytest.raises(UserError, match=rf"Give .*{SEARCH}\."):
        run(config, tmp_path / "run")
    space, own = toy.ToySpace(), searched / SEARCH
    start = Start("search.start_from", str(own), None, space, None, own)
    with pytest.raises(UserError, match="the folder of the search that is to start"):
        start._find()


def test_a_source_of_which_nothing_fits_is_refused(searched, tmp_path):
    start = Start(
        *("search.start_from", str(searched / SEARCH), None),
        *(toy.Points(3), None, tmp_path),
    )
    with pytest.raises(UserError, match="nothing of it fits the space points: 0 of 1"):
        start.check()


def test_a_field_that_is_not_there_means_no_start():
    config = small_config()
    assert path_of(config, "search.start_from") is None
    assert path_of(config, "retrain.start_from") is None
