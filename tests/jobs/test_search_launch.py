"""The search from the command line: what it leaves, killed or not."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.processes import processes
from helpers.tiny import call, environment
from helpers.tiny_search import RUNS, assert_same

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow


def command(workdir, *flags):
    config = f"--config={ROOT / 'tests' / 'helpers' / 'tiny_search.py'}"
    return [
        sys.executable,
        str(ROOT / "launch.py"),
        config,
        f"--workdir={workdir}",
        *flags,
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run, and the compiled programs it leaves to the others."""
    folder = tmp_path_factory.mktemp("search")
    env = environment(folder / "cache")
    process = call(command(folder / "run"), env, timeout=300)
    assert process.returncode == 0, process.stderr
    return folder / "run", env, process


def test_a_search_tells_what_it_does_and_what_it_found(finished):
    workdir, _, process = finished
    out = process.stdout
    assert "tokens" in out.splitlines()[0]
    assert "vocabulary 50" in out.splitlines()[0]
    assert "unknown" in out.splitlines()[0]
    assert "[1/2] wpl, seed 0: the best has a validation perplexity of" in out
    assert "on validation data and" in out
    assert out.endswith(f"Report: {workdir / 'report.html'}\n")
    assert "Traceback" not in process.stderr
    for run in RUNS:
        found = json.loads(
            (workdir / "searches" / run / "architecture.json").read_text()
        )
        assert found["space"] == "recurrent_cell"
        assert found["decisions"]["parent_1"] == "node_0"


def test_killed_at_random_moments_a_search_leaves_the_same_bytes(finished, tmp_path):
    expected, env, _ = finished
    rng, kills = random.Random(0), 0
    for number in range(10):
        if kills >= 5:
            break
        workdir = tmp_path / f"run{number}"
        while not ends_before(rng.randint(1, 12), rng.random(), workdir, env):
            kills += 1
            assert kills < 40, "It did not come to its end between forty kills."
        assert_same(workdir, expected)
    assert kills >= 5


def saved(workdir):
    """How many calls are saved of all searches and their retraining."""
    searches = [RUNS[0], RUNS[1], *(f"{run}/retrain" for run in RUNS)]
    folders = [workdir / "searches" / name / "checkpoints" for name in searches]
    newest = (max((_number(p) for p in saved_in(f)), default=0) for f in folders)
    return sum(newest)


def saved_in(checkpoints):
    return [p for p in checkpoints.glob("*") if p.name.isdigit()]


def ends_before(calls, share, workdir, env):
    """Lets a search go on for so many calls; whether it came to its end before.

    It is killed when they are saved, and at a share of what comes after; where that
    is depends on the machine, but there are as many kills on a slow one.
    """
    start = saved(workdir)
    with subprocess.Popen(
        command(workdir),
        env=env,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            if saved(workdir) >= start + calls:
                time.sleep(0.05 * share)
                process.kill()
                process.wait()
                return False
            time.sleep(0.002)
        assert process.returncode == 0, process.stderr.read()
        return True


def test_shares_of_one_folder_do_not_disturb_each_other(finished, tmp_path):
    """At the same time, one of them killed and started again."""
    expected, env, _ = finished
    workdir = tmp_path / "run"
    shares = [command(workdir, f"--share={number}/2") for number in (1, 2)]
    with processes(shares, env) as (first, second):
        killed = workdir / "searches" / RUNS[0] / "checkpoints"
        while max(map(_number, saved_in(killed)), default=0) < 3:
            assert first.poll() is None, first.communicate()
            time.sleep(0.002)
        first.send_signal(signal.SIGSTOP)  # It would end before what follows.
        again = call(shares[0], env)
        assert again.returncode == 2
        assert "Another process is at work in" in again.stderr
        alone = call(command(workdir), env)
        assert alone.returncode == 2
        assert "Another process is running in" in alone.stderr
        first.kill()
        first.wait()
        out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert "Share 2/2 is finished. 1 of 2 searches are not finished" in out
    assert not (workdir / "report.html").exists()
    resumed = call(shares[0], env, timeout=300)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming after" in resumed.stdout
    assert_same(workdir, expected)
    page, whole = (
        re.sub(r"took [\d.]+ \w+", "took a time", text.replace(str(path), "FOLDER"))
        for path in (workdir, expected)
        for text in [(path / "report.html").read_text()]
    )
    assert page == whole


def test_shares_that_end_together_leave_a_whole_report(finished, tmp_path):
    """Whichever is last writes it; both may."""
    expected, env, _ = finished
    workdir = tmp_path / "run"
    shares = [command(workdir, f"--share={number}/2") for number in (1, 2)]
    with processes(shares, env) as started:
        said = [one.communicate(timeout=300) for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    assert sum("Report: " in out for out, _ in said) >= 1
    assert_same(workdir, expected)
    for path in expected.rglob("figures/*"):
        again = workdir / path.relative_to(expected)
        assert again.read_bytes() == path.read_bytes(), path


def test_a_damaged_newest_checkpoint_is_told_of_and_passed_over(finished, tmp_path):
    expected, env, _ = finished
    workdir = tmp_path / "run"
    checkpoints = workdir / "searches" / "wpl-seed0" / "checkpoints"

    def saved():
        return sorted(saved_in(checkpoints), key=_number)

    with subprocess.Popen(
        command(workdir), env=env, cwd=ROOT, stdout=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and (not saved() or _number(saved()[-1]) < 8):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    steps = saved()
    for path in steps[-1].rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    again = call(command(workdir), env, timeout=300)
    assert again.returncode == 0, again.stderr
    assert f"Checkpoint {steps[-1].name}" in again.stderr
    assert "trying the one before" in again.stderr
    assert_same(workdir, expected)


def _number(path):
    return int(path.name)
