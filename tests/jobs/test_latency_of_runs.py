"""The measured latency of a run, with times that are made up."""

import re

import numpy as np
import pytest
from helpers.tiny_images import get_config

from wpl_jax.errors import UserError
from wpl_jax.evaluation import latency as measurements
from wpl_jax.jobs import latency
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.modes import measure_latency
from wpl_jax.jobs.search_config import make_search
from wpl_jax.spaces.costs import Latency
from wpl_jax.spaces.nasbench201 import NasBench201

SPACE = NasBench201((4, 4, 1), 2, channels=2, cells=1, exclude_none=True)


class Constant:
    """A timer that runs nothing."""

    def of_all(self, loops, calls):
        return [0.25] * len(loops), [2.0] * len(calls)


def limited(**limits):
    config = get_config()
    config.limits.update(limits)
    return config


@pytest.mark.slow
def test_it_is_measured_once(tmp_path, capsys):
    config = limited(latency_ms=9.0)
    found = latency.measure(config, [SPACE], tmp_path, Constant())
    assert found.tables[0].call == 2
    again = latency.measure(config, [SPACE], tmp_path, None)  # A clock is not needed.
    assert again.tables[0].parts == found.tables[0].parts
    assert latency.measured(tmp_path)(SPACE) == Latency(2.0, (0.25,) * len(SPACE.parts))
    assert "measuring ..." in capsys.readouterr().out
    config.latency.batch_size = 3
    with pytest.raises(UserError, match=r"latency.batch_size is 3, expected 1, as"):
        latency.measure(config, [SPACE], tmp_path, Constant())


def test_it_is_needed_for_limits_and_rewards(tmp_path):
    assert not latency.is_needed(limited(parameters=1e6))
    assert latency.is_needed(limited(latency_ms=9.0))
    config = get_config()
    config.reward.mnasnet.cost = "latency_ms"
    assert not latency.is_needed(config)
    config.reward.name = "mnasnet"
    assert latency.is_needed(config)
    runs = expand(config)
    assert latency.is_missing(runs, tmp_path)
    (tmp_path / measurements.LATENCY_FILE).write_text("{}")
    assert not latency.is_missing(runs, tmp_path)


@pytest.mark.slow
def test_a_limit_is_checked_by_what_is_measured():
    parts = {}

    def of(space):
        parts[space.name] = len(space.parts)
        return Latency(2.0, (0.25,) * len(space.parts))

    search, _, about = make_search(limited(latency_ms=30.0), latency_of=of)
    assert "at most 30 ms of latency" in about
    choice = np.array(search.strategy.limits.known)
    costs = search.strategy.limits.costs.of_choices(choice[None])
    # Every child of these 5 cells has 20 branches, and other parts beside them.
    assert 2 + 0.25 * 20 < costs["latency_ms"][0] <= 30
    with pytest.raises(UserError, match=r"latency_ms is 2\.5, expected at least"):
        make_search(limited(latency_ms=2.5), latency_of=of)
    with pytest.raises(UserError, match="measured first, with --mode=latency"):
        make_search(limited(latency_ms=30.0))


@pytest.mark.slow
def test_the_mode_writes_and_prints_the_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(latency, "Stopwatch", lambda rounds: Constant())
    config = limited()
    config.latency.children = 2
    measure_latency.measure_latency(config, tmp_path / "run")
    told = capsys.readouterr().out
    assert re.search(r"^stage_0/separable_3x3 +0\.2500$", told, re.MULTILINE)
    assert "mean relative error" in told
    assert measurements.read(tmp_path / "run").tables[0].space.startswith("MicroCell(")
