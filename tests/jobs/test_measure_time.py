"""Times of arms, by a clock that shows what a test wants."""

import json
import re
import subprocess
from collections import Counter

import pytest
from helpers import toy
from ml_collections import ConfigDict

from wpl_jax.engine.plan import Plan
from wpl_jax.errors import UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.modes import measure_time
from wpl_jax.runs.machine import Machine

# Seconds of a call.
TRAIN, EVALUATE, LEARN, JUDGE = 2.0, 0.5, 4.0, 0.25
SECONDS = {"train": TRAIN, "evaluate": EVALUATE, "learn": LEARN, "judge": JUDGE}


@pytest.fixture
def clock(monkeypatch):
    """Calls that only take time: the first compiles, and one is slow."""
    now, made = [0.0], Counter()

    def advance(plan, state, data, number):
        call = plan[number]
        key = id(plan), call.phase
        made[key] += 1
        assert call.epoch >= plan.epochs - 1  # What begins later has begun.
        now[0] += 60.0 if made[key] == 1 else SECONDS.get(call.phase, 0.0)
        now[0] += 1.0 if made[key] == 3 else 0.0
        return state

    monkeypatch.setattr(Plan, "advance", advance)
    monkeypatch.setattr(measure_time.time, "perf_counter", lambda: now[0])
    return made


def get_config():
    """Two arms: an epoch of ``wpl`` trains 4 children, one of ``few`` trains 2."""
    config = toy.get_config()
    config.arms = ConfigDict({"wpl": {}, "few": {"search": {"children": 2}}})
    return config


EPOCH = {
    "wpl": 4 * (TRAIN + EVALUATE) + 2 * LEARN,
    "few": 2 * (TRAIN + EVALUATE) + 2 * LEARN,
}
SELECTION = 3 * JUDGE


def run(tmp_path, **machine):
    jobs.run(get_config(), tmp_path, "time", Machine(**machine))
    found = json.loads((tmp_path / "times.json").read_text())
    return found, (tmp_path / "epochs.flags").read_text()


@pytest.mark.usefixtures("clock")
def test_epochs_fit_the_budget(tmp_path, capsys):
    folder = tmp_path / "two words"
    folder.mkdir()
    found, flags = run(folder, budget=100.0)
    said = capsys.readouterr().out
    (command,) = re.findall(r"\$\((.*)\)$", said, re.MULTILINE)
    assert subprocess.check_output(command, shell=True, text=True) == flags
    assert found["budget"] == 100
    for arm, one in found["arms"].items():
        assert one["epoch"] == EPOCH[arm]
        assert one["selection"] == SELECTION
        assert one["calls"]["train"] == TRAIN
        assert SELECTION + one["epochs"] * EPOCH[arm] <= 100
        assert SELECTION + (one["epochs"] + 1) * EPOCH[arm] > 100
    assert flags.splitlines() == [
        f"--config.arms.{arm}.search.epochs={found['arms'][arm]['epochs']}"
        for arm in ("wpl", "few")
    ]
    rows = [line.split() for line in said.splitlines()]
    (few,) = [row for row in rows if row[:1] == ["few"]]
    search = 3 * EPOCH["few"] + SELECTION
    assert few == ["few", "2", "13", "0.75", "3", f"{search:.3g}", "7"]


@pytest.mark.usefixtures("clock")
def test_the_budget_is_that_of_the_main_arm_by_default(tmp_path):
    found, _ = run(tmp_path)
    assert found["budget"] == 3 * EPOCH["wpl"] + SELECTION
    assert found["arms"]["wpl"]["epochs"] == 3
    assert found["arms"]["few"]["epochs"] == int(3 * EPOCH["wpl"] / EPOCH["few"])


def test_long_calls_are_few(clock, tmp_path):
    run(tmp_path)
    made = Counter()
    for (_, phase), count in clock.items():
        made[phase] += count
    # Each of two arms makes one that compiles, and others in five rounds.
    assert made["judge"] == 2 * (2 + 4 * (1 + 5))  # One is not timed in a round.
    assert made["train"] == 2 * (1 + 5)
    assert made["learn"] == 2 * (1 + 3)  # of 4, 5 and 4 seconds


@pytest.mark.usefixtures("clock")
def test_a_budget_below_an_epoch_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="too few for an epoch of wpl") as caught:
        run(tmp_path, budget=SELECTION + EPOCH["few"])
    assert "epoch of wpl. Give" in str(caught.value)  # It has time for one.
    assert "at least 19," in str(caught.value)  # 18.75, rounded up
    assert not (tmp_path / "epochs.flags").exists()  # Those of another budget.
