"""A job and its modes are declared in one place, which all checks read."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from wpl_jax.errors import ConfigError, UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.job import Job, Mode
from wpl_jax.runs.machine import FLAGS, Machine
from wpl_jax.runs.share import Share

CONFIG = ConfigDict({"job": "count", "seed": 0, "depth": 1})
GIVEN = {
    "share": Machine(share=Share(1, 2)),
    "join": Machine(joined=(Path("a"),)),
    "budget": Machine(budget=0.0),
    "input": Machine(input=Path("a")),
    "output": Machine(output=Path("a")),
    "format": Machine(formats=("nnx",)),
    "log": Machine(loggers=(("a", None),)),
}


@pytest.fixture
def calls(monkeypatch):
    """Calls of the modes of a job that only the registry names."""
    found = []

    def mode(name, *args, **kwargs):
        return Mode(lambda *given: found.append((name, *given)), *args, **kwargs)

    def reads_no_depth(config, mode):
        return {"": {"depth": f"{mode} is flat"}}

    job = Job(
        {
            "run": mode("run", ("share",)),
            "show": mode("show", needs_config=False, unread=reads_no_depth),
        }
    )
    monkeypatch.setitem(jobs.JOBS, "count", job)
    return found


def test_a_line_is_all_that_a_job_needs(calls, tmp_path):
    machine = Machine(share=Share(1, 2))
    jobs.run(CONFIG, tmp_path, "run", machine)
    jobs.run(None, tmp_path, "show")
    assert calls == [
        ("run", CONFIG, tmp_path, machine),
        ("show", None, tmp_path, Machine()),
    ]
    assert jobs.without_config()["show"] == "count"
    with pytest.raises(ConfigError, match="needs a configuration"):
        jobs.run(None, tmp_path, "run")
    said = "--share changes nothing in --mode=show .* for .*, --mode=run of the job cou"
    with pytest.raises(UserError, match=said):
        jobs.run(CONFIG, tmp_path, "show", machine)


def test_a_mode_may_have_unread_settings_of_its_own(calls):
    jobs.check_overrides(CONFIG, ["depth"], "run")
    jobs.check_overrides(CONFIG, ["seed"], "show")
    with pytest.raises(ConfigError, match="depth changes nothing: show is flat"):
        jobs.check_overrides(CONFIG, ["depth"], "show")


@pytest.mark.parametrize("flag", GIVEN)
def test_a_flag_is_refused_where_no_line_names_it(flag, calls, tmp_path):
    assert Machine(devices=2, grace_seconds=1.0).given_flags() == []
    assert GIVEN[flag].given_flags() == [flag]
    if flag != "share":
        with pytest.raises(UserError, match=f"--{flag} changes nothing in --mode=run"):
            jobs.run(CONFIG, tmp_path, "run", GIVEN[flag])
    assert calls == []


def test_all_flags_are_tried():
    assert set(GIVEN) == set(FLAGS.values())
    read = {
        f for job in jobs.JOBS.values() for m in job.modes.values() for f in m.flags
    }
    assert read == set(GIVEN)
