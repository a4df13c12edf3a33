"""The folder of a run: one owner, one configuration, files whole or not there."""

import contextlib
import errno
import fcntl
import gc
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers.tiny import deaths

from wpl_jax.errors import UserError, on_command_line
from wpl_jax.runs import run_directory, run_files
from wpl_jax.runs.run_directory import (
    CONFIG_FILE,
    DATA_FILE,
    check_same_run,
    claim,
    claim_data,
    differing_fields,
    in_turn,
    open_run,
)
from wpl_jax.runs.run_files import write_atomically


@pytest.fixture(autouse=True)
def _command():
    """Errors name flags."""
    with on_command_line():
        yield


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


# Processes that share a run.


def test_folder_is_open_to_one_process_or_to_several_that_share_it(tmp_path):
    with open_run(tmp_path, CONFIG, alone=False):
        with open_run(tmp_path, CONFIG, alone=False), pytest.raises(UserError) as why:
            open_run(tmp_path, CONFIG).__enter__()
        assert "Another process is running in" in str(why.value)
        with pytest.raises(UserError, match="another configuration"):
            open_run(tmp_path, {**CONFIG, "job": "x"}, alone=False).__enter__()
    with (
        open_run(tmp_path, CONFIG),
        pytest.raises(UserError, match="Another process is running in"),
        open_run(tmp_path, CONFIG, alone=False),
    ):
        pass


def test_folder_below_has_one_owner(tmp_path):
    with claim(tmp_path / "searches" / "a"):
        with pytest.raises(UserError, match="Another process is at work in") as why:
            claim(tmp_path / "searches" / "a").__enter__()
        assert str(tmp_path / "searches" / "a") in str(why.value)
        assert "--share=I/N" in str(why.value)
        with claim(tmp_path / "searches" / "b"):
            pass
    with claim(tmp_path / "searches" / "a"):
        pass


def test_common_files_are_written_in_turn(tmp_path):
    """By threads, which have locks of their own as processes do.

    Without turns they would lose counts, and each other's temporary files.
    """
    file = tmp_path / "count"
    file.write_text("0")

    def count():
        for _ in range(20):
            with in_turn(tmp_path):
                write_atomically(file, str(int(file.read_text()) + 1))

    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(count) for _ in range(4)]:
            each.result()
    assert file.read_text() == "80"


def test_file_system_without_locks_is_a_user_error(tmp_path, monkeypatch):
    def unsupported(file, kind):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with pytest.raises(UserError, match=r"\.lock cannot be locked") as caught:
        open_run(tmp_path, CONFIG).__enter__()
    assert "flock" in str(caught.value)


def test_runs_that_are_joined_have_one_configuration_and_the_same_data(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        with open_run(folder, CONFIG):
            pass
    claim_data(folders[1], {"wpl": "1", "none": "2"})
    claim_data(folders[2], {"wpl": "1"})
    check_same_run(folders)
    claim_data(folders[2], {"none": "3"})
    with pytest.raises(UserError) as caught:
        check_same_run(folders)
    assert f"{folders[1]} and {folders[2]} hold runs with different data" in str(
        caught.value
    )
    assert "of none is '2' in the first and '3' in the second" in str(caught.value)
    with open_run(tmp_path / "other", {**CONFIG, "stops": ()}):
        pass
    with pytest.raises(UserError) as caught:
        check_same_run([folders[0], tmp_path / "other"])
    assert f"  stops: [0.5, 0.25] in {folders[0]}, [] in {tmp_path}/other" in str(
        caught.value
    )
    with pytest.raises(UserError, match=f"There is no run in {tmp_path}/nowhere"):
        check_same_run([folders[0], tmp_path / "nowhere"])


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


@pytest.mark.parametrize(
    "text",
    ["", '{"job": "two_mo', "\x00\x01", "\xff{}", "null", "[" * 100_000, "[1]"],
    ids=["empty", "cut off", "zeros", "not UTF-8", "null", "deep", "a list"],
)
def test_damaged_configuration_is_a_user_error(text, tmp_path):
    (tmp_path / CONFIG_FILE).write_bytes(text.encode("latin-1"))
    with (
        pytest.raises(UserError, match="is damaged") as caught,
        open_run(tmp_path, CONFIG),
    ):
        pass
    assert str(tmp_path / CONFIG_FILE) in str(caught.value)


def test_configuration_that_is_a_folder_is_a_user_error(tmp_path):
    (tmp_path / CONFIG_FILE).mkdir()
    with pytest.raises(UserError, match="folder or a device"), open_run(tmp_path, {}):
        pass


def test_values_of_another_configuration_are_shortened(tmp_path):
    with open_run(tmp_path, {"many": [*range(100_000)]}):
        pass
    with pytest.raises(UserError) as caught, open_run(tmp_path, {"many": "x" * 10**6}):
        pass
    assert "many: [0, 1, 2, 3, 4, 5, ...] there, 'xxxx" in str(caught.value)
    assert len(str(caught.value)) < 500


# What is written through no symbolic link.


@pytest.mark.parametrize("name", [".lock", ".turn", CONFIG_FILE])
def test_nothing_is_written_through_a_link(name, tmp_path):
    other, workdir = tmp_path / "other", tmp_path / "run"
    other.write_text("precious")
    workdir.mkdir()
    (workdir / name).symlink_to(other)
    with contextlib.suppress(UserError), open_run(workdir, CONFIG):
        pass
    assert other.read_text() == "precious"


@pytest.mark.parametrize("alone", [True, False])
def test_what_killed_processes_left_is_deleted_in_all_folders(alone, tmp_path):
    folders = [tmp_path, tmp_path / "searches" / "wpl-seed0" / "retrain"]
    folders[1].mkdir(parents=True)
    name = ".wpl_jax-1234-0123456789abcdef.tmp"
    others = [".x.json.tmp", f"{name}x", name.upper(), ".wpl_jax-1-2.tmp"]
    for folder in folders:
        for each in (name, *others):
            (folder / each).write_text("half")
    with open_run(tmp_path, CONFIG, alone=alone):
        for folder in folders:
            found = {path.name for path in folder.iterdir() if path.is_file()}
            assert found >= set(others)
            assert name not in found


def test_what_a_process_is_writing_is_not_deleted(tmp_path):
    temporary, file = run_files._create_temporary(tmp_path)
    with file, open_run(tmp_path, CONFIG):
        file.write(b"whole")
        file.flush()
        assert temporary.read_bytes() == b"whole"
    with open_run(tmp_path, CONFIG):  # Its process has ended.
        assert not temporary.exists()


def test_lock_that_is_a_link_is_named(tmp_path):
    (tmp_path / ".lock").symlink_to(tmp_path / "other")
    with pytest.raises(UserError) as caught, open_run(tmp_path, CONFIG):
        pass
    assert f"{tmp_path / '.lock'}: it is a symbolic link" in str(caught.value)
    assert not (tmp_path / "other").exists()


def test_lock_keeps_what_is_in_it(tmp_path):
    (tmp_path / ".lock").write_text("mine")
    with open_run(tmp_path, CONFIG):
        pass
    assert (tmp_path / ".lock").read_text() == "mine"


@pytest.mark.parametrize(
    "name", ["checkpoints", "figures", "searches/wpl-seed0/tensorboard", "retrain"]
)
def test_folder_that_is_a_link_is_refused(name, tmp_path):
    (tmp_path / "other").mkdir()
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "other")
    with (
        pytest.raises(UserError, match="symbolic link to a folder") as caught,
        open_run(tmp_path / "run", CONFIG),
    ):
        pass
    assert str(link) in str(caught.value)


def test_workdir_itself_may_be_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with open_run(tmp_path / "run", CONFIG):
        pass
    assert (tmp_path / "disk" / CONFIG_FILE).exists()


@pytest.mark.parametrize("name", ["a\\b", "a\udcffb", "gs:"])
def test_path_from_which_nothing_can_be_restored_is_refused(name, tmp_path):
    workdir = tmp_path / name / "run"
    with (
        pytest.raises(UserError, match="cannot be read again") as caught,
        open_run(workdir, CONFIG),
    ):
        pass
    str(caught.value).encode()
    assert not workdir.exists()


# Data.


def test_data_is_noted_and_compared(tmp_path):
    with open_run(tmp_path, CONFIG):
        claim_data(tmp_path, {"wpl": "12"})
        claim_data(tmp_path, {"wpl, retraining": "34"})
        claim_data(tmp_path, {"wpl": "12", "wpl, retraining": "34"})
        before = (tmp_path / DATA_FILE).read_bytes()
        with pytest.raises(UserError) as caught:
            claim_data(tmp_path, {"wpl": "12", "wpl, retraining": "35"})
    said = str(caught.value)
    assert said.startswith(f"{tmp_path} holds a run with other data")
    assert "of wpl, retraining was '34', and is '35' now" in said
    assert "--workdir" in said
    assert (tmp_path / DATA_FILE).read_bytes() == before


@pytest.mark.parametrize("text", ["", "{}", '{"fingerprints": {"wpl": 3}}'])
def test_damaged_note_of_the_data_is_a_user_error(text, tmp_path):
    (tmp_path / DATA_FILE).write_text(text)
    with pytest.raises(UserError, match=r"data\.json is damaged") as caught:
        claim_data(tmp_path, {"wpl": "12"})
    assert "delete it" in str(caught.value)
    (tmp_path / DATA_FILE).unlink()
    claim_data(tmp_path, {"wpl": "12"})


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
