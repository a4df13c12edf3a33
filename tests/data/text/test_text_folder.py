"""Folders and files of text that cannot be read as they are."""

import codecs
import gzip

import pytest

from wpl_jax.data import load_text


@pytest.fixture
def folder(tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_text(f"some text for {name}\n")
    return tmp_path


@pytest.mark.parametrize("path", [None, 3, ""])
def test_no_path(path, data_error):
    with data_error("path", repr(path), "give"):
        load_text("folder", path)


def test_folder_missing(tmp_path, data_error):
    (tmp_path / "ptb").mkdir()
    with data_error(tmp_path / "ptp", "nothing", "ptb/"):
        load_text("folder", tmp_path / "ptp")


def test_file_for_a_folder(folder, data_error):
    with data_error(folder / "train.txt", "a file", f"perhaps {folder}"):
        load_text("folder", folder / "train.txt")


def test_empty_folder(tmp_path, data_error):
    with data_error(tmp_path, "an empty folder", "put the files"):
        load_text("folder", tmp_path)


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_split_missing(name, folder, data_error):
    (folder / f"{name}.txt").rename(folder / f"{name}.tokens")
    for found in (f"no {name}.txt, but", f"{name}.tokens"):
        with data_error(folder, found, f"put the file {folder / name}.txt there"):
            load_text("folder", folder)


def test_split_missing_with_a_prefix(folder, data_error):
    (folder / "train.txt").unlink()
    (folder / "valid.txt").rename(folder / "ptb.valid.txt")
    (folder / "test.txt").rename(folder / "ptb.test.txt")
    with data_error(folder, "no ptb.train.txt", str(folder / "ptb.train.txt")):
        load_text("folder", folder)


@pytest.mark.parametrize("alias", ["val", "validation", "dev"])
def test_split_under_another_name(alias, folder, data_error):
    (folder / "valid.txt").rename(folder / f"{alias}.txt")
    with data_error(folder, "no valid.txt", f"rename {folder / alias}.txt to"):
        load_text("folder", folder)


def test_no_split_at_all(tmp_path, data_error):
    (tmp_path / "corpus.txt").write_text("a b c")
    with data_error(tmp_path, "no train.txt, but corpus.txt", "train.txt there"):
        load_text("folder", tmp_path)


def test_two_texts_in_one_folder(folder, data_error):
    for name in ("train", "valid", "test"):
        (folder / f"ptb.{name}.txt").write_text(name)
    with data_error(folder, "ptb.train.txt, train.txt", "folder of their own"):
        load_text("folder", folder)


def test_a_folder_for_a_split(folder, data_error):
    (folder / "test.txt").unlink()
    (folder / "test.txt").mkdir()
    with data_error(folder / "test.txt", "a folder", "the file's own path"):
        load_text("folder", folder)


@pytest.mark.parametrize("name", ["train", "valid", "test"])
@pytest.mark.parametrize(
    ("data", "found", "remedy"),
    [
        (b"", "an empty file (0 bytes)", "copy or download"),
        (b" \n\t\r\n", "only whitespace (5 bytes)", "put text"),
        (codecs.BOM_UTF8 + b"\n", "only whitespace (4 bytes)", "put text"),
        (b"one\ncaf\xe9 au lait\n", "0xe9 at byte offset 7 (line 2)", "iconv"),
        ("é".encode() + b"\n\n\xff", "0xff at byte offset 4 (line 3)", "iconv"),
        (b"cut off \xc3", "0xc3 at byte offset 8 (line 1)", "iconv"),
        (b"one\ntwo\0\n", "NUL byte at byte offset 7 (line 2)", "UTF-8"),
        ("text".encode("utf-16"), "UTF-16, beginning with b'\\xff\\xfet", "UTF-8"),
        (gzip.compress(b"text", mtime=0), "beginning with b'\\x1f\\x8b", "unpack"),
    ],
)
def test_file_that_is_no_text(name, data, found, remedy, folder, data_error):
    (folder / f"{name}.txt").write_bytes(data)
    for level in ("word", "character"):
        with data_error(folder / f"{name}.txt", found, remedy):
            load_text("folder", folder, level=level)
