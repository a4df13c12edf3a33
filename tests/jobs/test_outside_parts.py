"""Parts of one's own: no module of the library, and no line in it, knows them."""

import json

import numpy as np
import pytest
from helpers import toy
from helpers.outside import FirstChoices
from ml_collections import ConfigDict

from wpl_jax.errors import ConfigError, UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.search_config import make_search

OWN = "helpers.outside:"


def get_config():
    """All parts are outside, but for the penalty of one arm."""
    config = toy.get_config()
    config.arms = ConfigDict(
        {
            "own": {"penalty": {"name": f"{OWN}Pull"}},
            "wpl": {"penalty": {"name": "wpl"}},
            "none": {"penalty": {"name": "none"}},
        }
    )
    config.main_arm = "own"
    with config.unlocked():
        config.penalty.Pull = ConfigDict({"pull": 0.5})
    config.strategy = ConfigDict({"name": f"{OWN}FirstChoices"})
    config.search.epochs = 2
    config.retrain.epochs = 0
    return config


@pytest.mark.slow
def test_a_search_of_them_runs_to_its_report(tmp_path):
    jobs.run(get_config(), tmp_path, "run")
    report = (tmp_path / "report.html").read_text()
    assert "It is on from epoch 2." in report  # That of the arm which has one.
    found = {}
    for arm in ("own", "wpl", "none"):
        folder = tmp_path / "searches" / f"{arm}-seed0"
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        found[arm] = [json.loads(line)["children/err1"] for line in lines]
    # What is proposed is the same; the pull changes what is trained.
    assert np.all(np.array(found["own"]) != np.array(found["none"]))
    assert found["wpl"][0] == found["none"][0]


def test_a_penalty_alone_makes_a_report(tmp_path):
    config = get_config()
    config.arms = ConfigDict({"own": {}})
    config.penalty = ConfigDict({"name": f"{OWN}Pull", "Pull": {"pull": 0.5}})
    config.search.epochs = 1
    jobs.run(config, tmp_path, "run")
    assert "It is on from epoch" not in (tmp_path / "report.html").read_text()


def test_they_are_made_with_their_settings_or_their_defaults():
    config = expand(get_config())[0].config
    search, _, about = make_search(config)
    assert search.protection.pull == 0.5
    assert search.strategy == FirstChoices(search.task.space)
    assert about == "toy examples"
    with config.unlocked():
        del config.penalty.Pull
    assert make_search(config)[0].protection.pull == 0.1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("helpers.outside:Nobody", "helpers.outside has no Nobody"),
        ("helpers.nowhere:Pull", "No module named 'helpers.nowhere'"),
        ("pull", "config.penalty.name is 'pull', expected one of"),
    ],
)
def test_a_part_that_is_not_there_is_named(name, said):
    config = expand(get_config())[0].config
    config.penalty.name = name
    with pytest.raises(ConfigError) as caught:
        make_search(config)
    assert said in str(caught.value)


def test_a_part_that_does_not_inherit_is_named():
    config = expand(get_config())[0].config
    config.penalty.name = "helpers.outside:Orphan"
    with pytest.raises(UserError, match=r"Orphan does not inherit from wpl_jax\."):
        make_search(config)


def test_a_section_that_no_arm_chooses_is_named():
    config = get_config()
    with config.unlocked():
        config.penalty.Pul = ConfigDict({"pull": 0.5})
    with pytest.raises(ConfigError, match=r"config\.penalty\.Pul is not a setting"):
        expand(config)
