"""What damage is, and what passes."""

import errno
import os

import pytest

from wpl_jax.errors import UserError
from wpl_jax.runs.damage import is_passing, unreadable_below
from wpl_jax.runs.monitor import whole_records
from wpl_jax.runs.run_files import read_json


def caused(error, cause):
    try:
        raise error from cause
    except type(error) as found:
        return found


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(n, os.strerror(n)) for n in (errno.EMFILE, errno.EIO, errno.ESTALE)),
        PermissionError(errno.EACCES, "Permission denied"),
        MemoryError(),
        RuntimeError("can't start new thread"),
        ValueError("PERMISSION_DENIED: Failed to open: x"),
        ValueError("UNKNOWN: Error reading x [os_error_code='5']"),
        ValueError("FAILED_PRECONDITION: Error reading x [os_error_code='116']"),
        caused(KeyError("state"), OSError(errno.EIO, "Input/output error")),
    ],
    ids=repr,
)
def test_what_passes(error):
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(n, os.strerror(n)) for n in (errno.ENOENT, errno.EISDIR)),
        FileNotFoundError("File check/metadata not found."),
        ValueError("DATA_LOSS: Error decoding x"),
        ValueError("NOT_FOUND: Failed to open: x [os_error_code='2']"),
        ValueError("its arrays do not have the checksum they were saved with"),
        KeyError("key_type"),
        RecursionError("maximum recursion depth exceeded"),
        caused(KeyError("state"), FileNotFoundError("x")),
    ],
    ids=repr,
)
def test_what_is_damage(error):
    assert not is_passing(error)


def refuse(monkeypatch, refused):
    """Reading one file fails, as of a disk that fails."""
    opening = open

    def fail(file, *args, **options):
        if file == refused:
            raise OSError(errno.EIO, "Input/output error", str(file))
        return opening(file, *args, **options)

    monkeypatch.setattr("wpl_jax.runs.damage.open", fail, raising=False)


def test_every_file_below_a_folder_is_read(tmp_path, monkeypatch):
    paths = [tmp_path / "a" / "b" / "c", tmp_path / "d"]
    paths[0].parent.mkdir(parents=True)
    for path in paths:
        path.write_bytes(b"content")
    os.mkfifo(tmp_path / "pipe")  # Nobody writes to it.
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert unreadable_below(tmp_path) is None
    assert unreadable_below(tmp_path / "nothing") is None
    for path in paths:
        with monkeypatch.context() as patched:
            refuse(patched, path)
            assert unreadable_below(tmp_path).filename == str(path)


@pytest.mark.parametrize("read", [whole_records, lambda p: read_json(p, {}, "Delete.")])
def test_a_file_that_cannot_be_read_for_now_is_not_called_damaged(
    read, tmp_path, monkeypatch
):
    path = tmp_path / "x.json"
    path.write_text("{}")

    def fail(self):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(type(path), "read_bytes", fail)
    with pytest.raises(UserError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} could not be read this time (Too many open ")
    assert "Delete" not in message
