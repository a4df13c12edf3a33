"""Paths as users write them mean the same in every way in."""

from pathlib import Path

import numpy as np
import pytest

import wpl_jax
from wpl_jax.common.paths import as_path, optional_path
from wpl_jax.errors import UserError
from wpl_jax.evaluation import table
from wpl_jax.jobs.command_line import with_built_in
from wpl_jax.jobs.compare import labelled
from wpl_jax.jobs.start_from import Start
from wpl_jax.models.export import EXPORTS
from wpl_jax.runs.run_directory import CHECKPOINTS


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder; the working folder is another one."""
    found = tmp_path / "home"
    found.mkdir()
    monkeypatch.setenv("HOME", str(found))
    monkeypatch.chdir(tmp_path)
    yield found
    assert [path.name for path in tmp_path.iterdir()] == ["home"]  # and no "~"


def test_a_home_folder_is_that_of_the_shell(home):
    assert as_path("~/runs/a b", "--workdir") == home / "runs" / "a b"
    assert as_path(Path("~"), "workdir") == home
    assert as_path("runs/~", "workdir") == Path("runs/~")
    assert optional_path(None, "workdir") is None
    for wrong in ("", None, 3, ["a"]):
        with pytest.raises(UserError, match=r"workdir is .*, expected a path\."):
            as_path(wrong, "workdir")
    with pytest.raises(UserError, match="home folder that this system does not know"):
        as_path("~nobody_here/runs", "workdir")


def test_files_are_read_and_written_there(home, monkeypatch):
    fisher, anchor = {"w": np.ones(2)}, {"w": np.zeros(2)}
    wpl_jax.save_importance("~/task.safetensors", fisher, anchor)
    assert (home / "task.safetensors").is_file()
    found = wpl_jax.load_importance("~/task.safetensors")
    np.testing.assert_array_equal(found.fisher["w"], fisher["w"])
    monkeypatch.setitem(EXPORTS, "empty", lambda model: {"none": b""})
    assert wpl_jax.export(None, "~/out", "empty") == home / "out"
    with pytest.raises(UserError, match=f"No training has finished in {home}:"):
        wpl_jax.load("~")
    with pytest.raises(UserError, match="path is None, expected the folder of a run"):
        wpl_jax.load(None)


def test_runs_are_found_there(home):
    assert labelled(["~/a", "B=~/b"]) == [(None, home / "a"), ("B", home / "b")]
    (home / "run" / CHECKPOINTS).mkdir(parents=True)
    start = Start("start_from", "~/run", None, None, None, None)
    assert start._find() == home / "run"
    (home / "rows.csv").write_text("space,choice,a_valid\nmine,0 1,2.5\n")
    assert table.read("~/rows.csv").space == "mine"
    config = home / "mine.py"
    assert with_built_in(["--config=~/mine.py:a"]) == [f"--config={config}:a"]
