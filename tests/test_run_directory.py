"""The folder of a run: one owner, one configuration, files whole or not there."""

import contextlib
import errno
import fcntl
import gc
import json
import os
import pathlib
import subprocess
import sys

import pytest
from tiny import deaths

from wpl_jax import run_directory
from wpl_jax.errors import UserError
from wpl_jax.run_directory import (
    CONFIG_FILE,
    differing_fields,
    open_run,
    to_json,
    write_atomically,
)

CONFIG = {"job": "two_models", "data": {"path": None, "valid": 5}, "stops": (0.5, 0.25)}

HOLD_LOCK = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""


def test_first_run_makes_the_folder_and_writes_its_configuration(tmp_path):
    workdir = tmp_path / "new" / "run"
    with open_run(workdir, CONFIG) as opened:
        assert opened == workdir
        written = json.loads((workdir / CONFIG_FILE).read_text())
    assert written == {**CONFIG, "stops": [0.5, 0.25]}


def test_same_configuration_is_let_in_again(tmp_path):
    with open_run(tmp_path, CONFIG):
        pass
    before = (tmp_path / CONFIG_FILE).stat().st_mtime_ns
    with open_run(tmp_path, CONFIG):
        pass
    assert (tmp_path / CONFIG_FILE).stat().st_mtime_ns == before


def test_another_configuration_is_refused_field_by_field(tmp_path):
    with open_run(tmp_path, CONFIG):
        pass
    other = {
        "job": "two_models",
        "data": {"path": "x.npz", "valid": 5},
        "stops": (0.5,),
        "seed": 1,
    }
    with pytest.raises(UserError) as caught, open_run(tmp_path, other):
        pass
    first, *fields, last = str(caught.value).splitlines()
    assert str(tmp_path) in first
    assert fields == [
        "  data.path: None there, 'x.npz' now",
        "  seed: '(absent)' there, 1 now",
        "  stops: [0.5, 0.25] there, [0.5] now",
    ]
    assert "--workdir" in last


def test_refused_run_leaves_the_folder_as_it_was(tmp_path):
    with open_run(tmp_path, CONFIG):
        pass
    before = (tmp_path / CONFIG_FILE).read_bytes()
    with pytest.raises(UserError), open_run(tmp_path, {**CONFIG, "job": "other"}):
        pass
    assert (tmp_path / CONFIG_FILE).read_bytes() == before


def test_folder_of_a_process_that_runs_is_refused(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_LOCK, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        with (
            pytest.raises(UserError, match="Another process is running in") as caught,
            open_run(tmp_path, CONFIG),
        ):
            pass
        assert str(tmp_path) in str(caught.value)
        assert not (tmp_path / CONFIG_FILE).exists()
        other.kill()
        other.wait()
        with open_run(tmp_path, CONFIG):  # What a killed process held is free.
            assert (tmp_path / CONFIG_FILE).exists()


def test_folder_is_held_as_long_as_it_is_open(tmp_path):
    def is_locked():
        with (tmp_path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    with open_run(tmp_path, CONFIG):
        assert is_locked()
    assert not is_locked()
    with contextlib.suppress(ZeroDivisionError), open_run(tmp_path, CONFIG):
        raise ZeroDivisionError
    assert not is_locked()


@pytest.mark.parametrize("workdir", ["file", "file/below", ".lock is a folder"])
def test_folder_that_cannot_be_written_is_a_user_error(workdir, tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / ".lock is a folder" / ".lock").mkdir(parents=True)
    with (
        pytest.raises(UserError, match="cannot be written") as caught,
        open_run(tmp_path / workdir, CONFIG),
    ):
        pass
    assert str(tmp_path / workdir) in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way"


def test_full_disk_at_the_start_is_a_user_error(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"), open_run(tmp_path, CONFIG):
        pass


@pytest.mark.parametrize("text", ["", '{"job": "two_mo', "\x00\x01", "\xff{}"])
def test_damaged_configuration_is_a_user_error(text, tmp_path):
    (tmp_path / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with (
        pytest.raises(UserError, match="is not the JSON") as caught,
        open_run(tmp_path, CONFIG),
    ):
        pass
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_start_can_be_cut_off_at_every_line(tmp_path):
    folders = []

    def start():
        folders.append(tmp_path / str(len(folders)))
        with open_run(folders[-1], CONFIG):
            pass

    assert len(list(deaths(start, run_directory))) > 10
    gc.collect()  # Closes what the dead still hold, locks among it.
    for folder in folders:
        with open_run(folder, CONFIG):
            assert json.loads((folder / CONFIG_FILE).read_text())["data"]["valid"] == 5


def test_differing_fields_of_nested_dicts():
    old = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": 0.1, "gone": 1}
    new = {"a": 1, "b": {"c": [1, 3], "d": {"e": 0}}, "f": 0.2, "new": {"x": 1}}
    assert list(differing_fields(old, new)) == [
        ("b.c", [1, 2], [1, 3]),
        ("b.d.e", None, 0),
        ("f", 0.1, 0.2),
        ("gone", 1, "(absent)"),
        ("new", "(absent)", {"x": 1}),
    ]
    assert list(differing_fields(old, json.loads(json.dumps(old)))) == []
    assert list(differing_fields({"a": {"b": 1}}, {"a": 1})) == [("a", {"b": 1}, 1)]


def test_json_is_canonical_and_exact():
    numbers = [0.1, 1 / 3, 1e-300, 5e-324, 2**53 + 1]
    text = to_json({"b": numbers, "a": (1, None, True)})
    assert json.loads(text) == {"a": [1, None, True], "b": numbers}
    assert text == to_json({"a": [1, None, True], "b": numbers})
    assert text.endswith("\n")
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})


def test_write_atomically_replaces_the_file(tmp_path):
    path = tmp_path / "x.json"
    write_atomically(path, "old")
    write_atomically(path, "änother\n")
    assert path.read_bytes() == "änother\n".encode()
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_write_atomically_keeps_the_old_file_when_writing_fails(
    where, tmp_path, monkeypatch
):
    path = tmp_path / "x.json"
    write_atomically(path, "old")

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, where, full)
    if where == "replace":
        monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(UserError, match="No space") as caught:
        write_atomically(path, "new" * 1000)
    assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    monkeypatch.undo()
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_write_atomically_keeps_the_old_file_when_text_cannot_be_written(tmp_path):
    path = tmp_path / "x.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new" + "\ud800")
    assert path.read_text() == "old"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_write_atomically_can_be_cut_off_at_every_line(tmp_path):
    path = tmp_path / "x.json"
    name, new = str(path), "new" * 10000
    found = []

    def replace():
        with open(name, "w") as file:
            file.write("old")
        write_atomically(path, new)

    for _ in deaths(replace, run_directory, pathlib):
        with open(name) as file:
            found.append(file.read())
    # The old one up to some line, the new one from there: never a part.
    assert found == sorted(found, key=len)
    assert set(found) == {"old", new}
    assert path.read_text() == new
