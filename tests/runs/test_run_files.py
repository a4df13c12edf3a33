"""Files of a run: whole or not there, and one message for whatever is damaged."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import stat

import pytest
from helpers.tiny import deaths, small_files

from wpl_jax.errors import UserError
from wpl_jax.runs import run_files
from wpl_jax.runs.run_files import (
    NUMBER,
    NUMBER_OR_NULL,
    TEXT,
    TRUTH,
    below,
    delete_leftovers,
    equal_to,
    list_of,
    make_folder,
    open_to_append,
    read_json,
    to_json,
    write_atomically,
)


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


def test_programs_that_write_the_same_file_do_not_disturb_each_other(
    tmp_path, monkeypatch
):
    """The second one begins and ends while the first one is about to replace it."""
    path, fsync, turns = tmp_path / "x.json", os.fsync, iter(["second"])

    def write_between(descriptor):
        fsync(descriptor)
        for content in turns:
            write_atomically(path, content)
            assert path.read_text() == "second"
            # What the first one has written is there still, beside it.
            assert len(os.listdir(tmp_path)) == 2

    monkeypatch.setattr(os, "fsync", write_between)
    write_atomically(path, "first")
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["x.json"]


def test_folder_is_synchronized_once_it_has_the_new_file(tmp_path, monkeypatch):
    path, fsync, seen = tmp_path / "x.json", os.fsync, []
    path.write_text("old")

    def watch(descriptor):
        fsync(descriptor)
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        seen.append((is_folder, path.read_text()))

    monkeypatch.setattr(os, "fsync", watch)
    write_atomically(path, "new")
    assert seen == [(False, "old"), (True, "new")]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_folder_that_cannot_be_synchronized(code, tmp_path, monkeypatch):
    fsync = os.fsync

    def fail(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    expected = contextlib.nullcontext()
    if code == errno.EIO:  # Not of a file system that cannot: the disk has failed.
        expected = pytest.raises(UserError, match="could not be written")
    with expected:
        write_atomically(tmp_path / "x.json", "new")
    assert (tmp_path / "x.json").read_text() == "new"


def test_file_may_have_the_longest_name(tmp_path):
    path = tmp_path / ("x" * 255)
    write_atomically(path, "new")
    assert path.read_text() == "new"


def test_file_that_is_deleted_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    flock, made = fcntl.flock, []

    def delete(file, operation):
        if not made:
            delete_leftovers_of(tmp_path)
        made.append(file)
        flock(file, operation)

    def delete_leftovers_of(folder):
        with monkeypatch.context() as undone:
            undone.setattr(fcntl, "flock", flock)
            delete_leftovers(folder)

    monkeypatch.setattr(fcntl, "flock", delete)
    write_atomically(tmp_path / "x.json", "new")
    assert len(made) == 2
    assert (tmp_path / "x.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["x.json"]


def test_what_was_written_of_a_file_is_removed_again(tmp_path):
    with small_files(1000), pytest.raises(UserError, match="could not be written"):
        write_atomically(tmp_path / "x.png", b"x" * 2000)
    assert os.listdir(tmp_path) == []


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_write_atomically_can_be_cut_off_at_every_line(tmp_path):
    path = tmp_path / "x.json"
    name, new = str(path), "new" * 10000
    found = []

    def replace():
        with open(name, "w") as file:
            file.write("old")
        write_atomically(path, new)

    for _ in deaths(replace, run_files, pathlib):
        with open(name) as file:
            found.append(file.read())
    # The old one up to some line, the new one from there: never a part.
    assert found == sorted(found, key=len)
    assert set(found) == {"old", new}
    assert path.read_text() == new


def test_write_atomically_goes_through_no_link(tmp_path):
    (tmp_path / "other").write_text("precious")
    (tmp_path / "x.json").symlink_to(tmp_path / "other")
    write_atomically(tmp_path / "x.json", "new")
    assert (tmp_path / "other").read_text() == "precious"
    assert (tmp_path / "x.json").read_text() == "new"
    assert not (tmp_path / "x.json").is_symlink()
    (tmp_path / "log").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="it is a symbolic link"):
        open_to_append(tmp_path / "log")


@pytest.mark.parametrize("what", ["file", "link to a file", "link to nowhere"])
def test_what_is_in_the_way_of_a_folder_is_named(what, tmp_path):
    path = tmp_path / "figures"
    if what == "file":
        path.write_text("in the way")
    else:
        path.symlink_to(tmp_path / "other")
        if what == "link to a file":
            (tmp_path / "other").write_text("in the way")
    with pytest.raises(UserError, match="figures cannot be made"):
        make_folder(path)


FIELDS = {
    "number": NUMBER,
    "perhaps": NUMBER_OR_NULL,
    "text": TEXT,
    "flags": list_of(TRUTH, 2),
    "curve": list_of(NUMBER_OR_NULL),
    "choices": below((2, 3)),
    "alpha": equal_to(0.1),
}
GOOD = {
    "number": 1.5,
    "perhaps": None,
    "text": "x",
    "flags": [True, False],
    "curve": [1, None],
    "choices": [1, 2],
    "alpha": 0.1,
}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("number", None, "is None, expected a number"),
        ("number", True, "is True, expected a number"),
        ("number", float("inf"), "is inf, expected a number"),
        ("number", 10**400, "expected a number"),
        ("perhaps", "1", "is '1', expected a number or null"),
        ("text", 3, "is 3, expected a text"),
        ("flags", [True], "expected a list of 2 of true or false"),
        ("curve", [], "is [], expected a list of numbers or nulls"),
        ("curve", 3.0, "is 3.0, expected a list of"),
        ("curve", [[1]], "is [[1]], expected a list of"),
        ("choices", [2, 0], "is [2, 0], expected an architecture of 2 decisions"),
        ("choices", [0, -1], "expected an architecture of 2 decisions"),
        ("choices", [0, 1.0], "expected an architecture"),
        ("choices", [0], "expected an architecture"),
        ("alpha", 0.2, "is 0.2, expected 0.1"),
        ("curve", ["x"] * 1_000_000, "is ['x', 'x', 'x', 'x', 'x', 'x', ...]"),
    ],
)
def test_wrong_field_is_named(name, value, expected, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(GOOD | {name: value}))
    with pytest.raises(UserError) as caught:
        read_json(path, FIELDS, "Delete it.")
    said = str(caught.value)
    assert said.startswith(f"{path} is damaged: the field {name!r} ")
    assert said.endswith(". Delete it.")
    assert expected in said
    assert len(said) < 400


def test_missing_field_is_named(tmp_path):
    path = tmp_path / "x.json"
    for name in FIELDS:
        path.write_text(json.dumps({k: v for k, v in GOOD.items() if k != name}))
        with pytest.raises(UserError, match=f"the field '{name}' is missing"):
            read_json(path, FIELDS, "Delete it.")
    path.write_text(json.dumps(GOOD | {"more": 1}))
    assert read_json(path, FIELDS, "Delete it.") == GOOD | {"more": 1}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"null", "found None, expected an object"),
        (b"[1]", "found [1], expected an object"),
        (b"\xff{}", "byte 0 is not UTF-8"),
        (b"[" * 1_000_000, "nested too deeply"),
        (b"1" * 10_000, "not JSON"),
        ("folder", "it is a folder or a device"),
        ("nothing", "No such file"),
    ],
)
def test_file_that_is_no_object_is_named(content, expected, tmp_path):
    path = tmp_path / "x.json"
    if content == "folder":
        path.mkdir()
    elif content != "nothing":
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path, FIELDS, "Delete it.")
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_path_that_is_not_utf8_is_written_in_escapes(tmp_path):
    name = b"b\xffd".decode(errors="surrogateescape")
    write_atomically(tmp_path / "page", f"data of {name}")
    assert (tmp_path / "page").read_text() == r"data of b\udcffd"
    assert list(tmp_path.iterdir()) == [tmp_path / "page"]
