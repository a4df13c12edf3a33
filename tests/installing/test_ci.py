"""The script of continuous integration, with programs that only print; versions."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from wpl_jax import __version__

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / ".ci" / "run"


def put(path, *lines):
    """A program of these lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return str(path)


def put_python(path, minor):
    """An interpreter that answers like one of this version."""
    return put(path, f'echo {minor} "$0"')


@pytest.fixture
def run(tmp_path):
    """Runs it with the interpreters of the folders ``bin`` and ``home`` alone."""
    put(tmp_path / "bin" / "make", 'echo "make $*"')
    for name in ("bash", "dirname", "sort"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    env = {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path / "home")}
    bash = tmp_path / "bin" / "bash"
    return lambda: subprocess.run(
        [bash, RUN], env=env, capture_output=True, text=True, timeout=60
    )


def test_the_oldest_and_the_newest_python_have_environments_of_their_own(run, tmp_path):
    versions = tmp_path / "home" / ".pyenv" / "versions"
    oldest = put_python(tmp_path / "bin" / "python3.11", 11)
    put_python(versions / "3.11.9" / "bin" / "python3.11", 11)
    put_python(versions / "3.12.1" / "bin" / "python3.12", 12)
    newest = put_python(versions / "3.13.0" / "bin" / "python3.13", 13)
    put(tmp_path / "bin" / "python3.14", "echo not selected >&2", "exit 127")
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"make lint docs test PYTHON={oldest} VENV=.venv-3.11",
        f"make test PYTHON={newest} VENV=.venv-3.13",
    ]


def test_a_single_python_runs_the_tests_once(run, tmp_path):
    only = put_python(tmp_path / "bin" / "python3.12", 12)
    done = run()
    assert done.returncode == 0, done.stderr
    expected = f"make lint docs test PYTHON={only} VENV=.venv-3.12\n"
    assert done.stdout == expected


def test_without_a_python_it_fails(run):
    done = run()
    assert done.returncode == 1
    assert "No Python 3.11 or newer" in done.stderr
    assert done.stdout == ""


def test_the_oldest_jax_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / ".ci" / "oldest.txt").read_text("utf-8").splitlines()
    pins = {line.replace("==", ">=") for line in lines if not line.startswith("#")}
    assert {pin.partition(">=")[0] for pin in pins} == {"jax", "jaxlib"}
    assert pins <= set(project["dependencies"])


def test_the_citation_is_of_this_version():
    citation = (ROOT / "CITATION.cff").read_text("utf-8")
    assert re.search(r"^version: (\S+)$", citation, re.MULTILINE)[1] == __version__
