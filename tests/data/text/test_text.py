"""Text in numbers: tokens, vocabulary, unknown words, and back to text."""

import dataclasses
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from wpl_jax.data import TEXT_FORMATS, TextDataset, load_text

PTB = Path(__file__).resolve().parents[4] / "shared" / "data" / "ptb"

# b occurs three times, a and c twice, <eos> three times.
TRAIN = "b c a\nb  b\tc\na\n"
VALID = "a d\n\nd b"  # d is unknown, a line is empty, the last has no newline
TEST = "c e\n"


@pytest.fixture
def folder(tmp_path):
    """A function that writes the three files, of str or bytes, and their folder."""

    def write(train=TRAIN, valid=VALID, test=TEST):
        for name, text in (("train", train), ("valid", valid), ("test", test)):
            data = text if isinstance(text, bytes) else text.encode()
            (tmp_path / f"{name}.txt").write_bytes(data)
        return tmp_path

    return write


def test_words(folder):
    root = folder()
    data = load_text("folder", root)
    assert data.vocabulary == ("<eos>", "b", "a", "c", "<unk>")
    assert data.vocabulary_size == 5
    assert data.train.tolist() == [1, 3, 2, 0, 1, 1, 3, 0, 2, 0]
    assert data.valid.tolist() == [2, 4, 0, 0, 4, 1, 0]
    assert data.test.tolist() == [3, 4, 0]
    assert data.unknown == {"train": 0, "valid": 2, "test": 1}
    assert data.source == str(root)
    for split in (data.train, data.valid, data.test):
        assert split.dtype == np.dtype("int32")


def test_words_back_to_text(folder):
    data = load_text("folder", folder())
    assert data.to_text(data.train) == "b c a\nb b c\na\n"
    assert data.to_text(data.valid) == "a <unk>\n\n<unk> b\n"
    assert data.to_text(data.valid[:1]) == "a"
    assert data.to_text([]) == ""


def test_characters(folder):
    data = load_text("folder", folder("aab\r\nb b", "b\n", "ü a"), level="character")
    assert data.vocabulary == ("b", "a", "\n", " ", "<unk>")
    assert data.train.tolist() == [1, 1, 0, 2, 0, 3, 0]
    assert data.valid.tolist() == [0, 2]
    assert data.test.tolist() == [4, 3, 1]
    assert data.unknown == {"train": 0, "valid": 0, "test": 1}
    assert data.to_text(data.train) == "aab\nb b"


def test_nothing_unknown_no_unknown_token(folder):
    data = load_text("folder", folder("a b\n", "b a\n", "b\n"))
    assert data.vocabulary == ("<eos>", "a", "b")
    assert data.unknown == {"train": 0, "valid": 0, "test": 0}


def test_literal_unknown_token(folder):
    root = folder("a <unk> <unk>\nb\n", "<unk> d\n", "a\n")
    data = load_text("folder", root)
    assert data.vocabulary == ("<eos>", "<unk>", "a", "b")
    # The literal <unk> is a word of the text; only d is outside the vocabulary.
    assert data.unknown == {"train": 0, "valid": 1, "test": 0}
    cut = load_text("folder", root, max_vocabulary=3)
    assert cut.vocabulary == ("<unk>", "<eos>", "a")
    assert cut.train.tolist() == [2, 0, 0, 1, 0, 1]
    assert cut.unknown == {"train": 1, "valid": 1, "test": 0}


@pytest.mark.parametrize(
    ("options", "vocabulary", "unknown"),
    [
        # Without room for all, <unk> stands for what is cut, by its frequency.
        ({"max_vocabulary": 4}, ("<eos>", "b", "<unk>", "a"), (2, 2, 2)),
        ({"max_vocabulary": 3}, ("<unk>", "<eos>", "b"), (4, 3, 2)),
        ({"max_vocabulary": 5}, ("<eos>", "b", "a", "c", "<unk>"), (0, 2, 1)),
        ({"min_count": 3}, ("<unk>", "<eos>", "b"), (4, 3, 2)),
        ({"min_count": 2}, ("<eos>", "b", "a", "c", "<unk>"), (0, 2, 1)),
    ],
)
def test_smaller_vocabulary(options, vocabulary, unknown, folder):
    data = load_text("folder", folder(), **options)
    assert data.vocabulary == vocabulary
    assert tuple(data.unknown.values()) == unknown
    assert data.train.max() < len(vocabulary)
    counts = np.bincount(data.train, minlength=len(vocabulary))
    assert (np.diff(counts) <= 0).all()


def test_unknown_token_counts_against_the_limit(folder):
    # All of train fits into 3, but with the <unk> of valid it would be 4.
    root = folder("a a b\n", "d\n", "b\n")
    assert load_text("folder", root).vocabulary_size == 4
    data = load_text("folder", root, max_vocabulary=3)
    assert data.vocabulary == ("a", "<eos>", "<unk>")


def test_end_of_line_is_kept_when_rare(folder):
    data = load_text("folder", folder("a a a b b\n", "a\n", "b"), min_count=2)
    assert data.vocabulary == ("a", "b", "<eos>")
    assert data.train.tolist() == [0, 0, 0, 1, 1, 2]


def test_byte_order_mark_and_newlines(folder):
    data = load_text("folder", folder(b"\xef\xbb\xbfa b\r\nb\r", "b\r\n", "a"))
    assert data.vocabulary == ("<eos>", "b", "a")
    assert data.to_text(data.train) == "a b\nb\n"


def test_file_names_with_a_prefix(folder):
    root = folder()
    expected = load_text("folder", root)
    for name in ("train", "valid", "test"):
        (root / f"{name}.txt").rename(root / f"ptb.{name}.txt")
    (root / "ptb.char.train.txt").write_text("of another, incomplete text")
    (root / "README").write_text("about it")
    assert load_text("folder", str(root)).vocabulary == expected.vocabulary


def test_dataset_cannot_be_changed(folder):
    data = load_text("folder", folder())
    assert isinstance(data, TextDataset)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.source = "elsewhere"


def test_same_in_every_process(folder):
    # Python hashes strings differently in each process, unless told not to.
    root = folder(" ".join(f"w{i % 97}" for i in range(500)), "w1 x", "w2 y")
    code = (
        "import sys, zlib; from wpl_jax.data import load_text\n"
        "for args in (('folder', sys.argv[1]), ('pydoc',)):\n"
        "    data = load_text(*args, min_count=2)\n"
        "    splits = (data.train, data.valid, data.test)\n"
        "    print(zlib.crc32(repr(data.vocabulary).encode()),"
        " *(zlib.crc32(s.tobytes()) for s in splits))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(root)],
        cwd=Path(__file__).resolve().parents[3],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )
    here = []
    for args in (("folder", root), ("pydoc",)):
        data = load_text(*args, min_count=2)
        splits = (data.train, data.valid, data.test)
        here.append(zlib.crc32(repr(data.vocabulary).encode()))
        here += [zlib.crc32(split.tobytes()) for split in splits]
    assert [int(number) for number in run.stdout.split()] == here


@pytest.mark.skipif(not PTB.is_dir(), reason=f"needs the Penn Treebank in {PTB}")
def test_penn_treebank():
    data = load_text("folder", PTB)
    assert len(data.train) == 929_589
    assert len(data.valid) == 73_760
    assert len(data.test) == 82_430
    assert data.vocabulary_size == 10_000
    assert data.unknown == {"train": 0, "valid": 0, "test": 0}
    assert data.vocabulary[:3] == ("the", "<unk>", "<eos>")
    lines = (PTB / "test.txt").read_text().splitlines()
    text = "".join(" ".join(line.split()) + "\n" for line in lines)
    assert data.to_text(data.test) == text


@pytest.mark.parametrize("ids", [[[0, 1]], [0.5], [True], 3, ["a"]])
def test_ids_of_a_wrong_kind(ids, folder, data_error):
    data = load_text("folder", folder())
    with data_error("argument ids", "shape", "one stream"):
        data.to_text(ids)


@pytest.mark.parametrize("wrong", [-1, 5])
def test_ids_outside_the_vocabulary(wrong, folder, data_error):
    data = load_text("folder", folder())
    with data_error("argument ids", str(wrong), data.source):
        data.to_text([0, wrong])


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("pydocs", "write 'pydoc'"), ("xyz", "take one of those"), (["folder"], "write")],
)
def test_unknown_format(name, remedy, data_error):
    with data_error("argument format", f"{name!r} for some/path", remedy):
        load_text(name, "some/path")


def test_every_format_is_named_in_the_error():
    with pytest.raises(ValueError, match="unknown format") as caught:
        load_text("no such format")
    for name in TEXT_FORMATS:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("level", "remedy"), [("words", "write 'word'"), (None, "take one of those")]
)
def test_unknown_level(level, remedy, data_error):
    with data_error("argument level", repr(level), remedy):
        load_text("pydoc", level=level)


@pytest.mark.parametrize("name", sorted(TEXT_FORMATS))
def test_unknown_option(name, data_error):
    with data_error(f"format {name}", "'max_vocab'", "write 'max_vocabulary'"):
        load_text(name, "path", max_vocab=3)


@pytest.mark.parametrize(
    ("level", "least", "token"), [("word", 3, "<eos>"), ("character", 2, "<unk>")]
)
def test_vocabulary_too_small(level, least, token, folder, data_error):
    root = folder()
    for size in (least - 1, 0, -1, True, 3.0, "3"):
        remedy = f"max_vocabulary={least}"
        with data_error("argument max_vocabulary", repr(size), remedy):
            load_text("folder", root, level=level, max_vocabulary=size)
    data = load_text("folder", root, level=level, max_vocabulary=np.int64(least))
    assert data.vocabulary_size == least
    assert token in data.vocabulary


@pytest.mark.parametrize("count", [0, -1, 1.0, True, None])
def test_min_count_of_a_wrong_kind(count, data_error):
    with data_error("argument min_count", repr(count), "min_count=1"):
        load_text("pydoc", min_count=count)


def test_min_count_cuts_everything(folder, data_error):
    root = folder()
    with data_error(root / "train.txt", "more than 3 times", "set min_count=3"):
        load_text("folder", root, min_count=4)
    root = folder(train="<unk>\n")
    with data_error(root / "train.txt", "no token but", "put other text"):
        load_text("folder", root)


@pytest.mark.parametrize(
    ("texts", "first", "second"),
    [
        ({"valid": TRAIN}, "train", "valid"),
        ({"test": TRAIN.strip()}, "train", "test"),
        ({"test": VALID + "\n"}, "valid", "test"),
    ],
)
def test_same_text_in_two_splits(texts, first, second, folder, data_error):
    root = folder(**texts)
    with data_error(root / f"{second}.txt", f"{first}.txt", "copy the right file"):
        load_text("folder", root)


@pytest.mark.parametrize("train", ["a b\nc <eos>\n", "a\n<eos>", "a\nb <eos> c"])
def test_end_of_line_in_the_text(train, folder, data_error):
    root = folder(train=train)
    with data_error(root / "train.txt", "<eos> in line 2", "remove every <eos>"):
        load_text("folder", root)
    assert load_text("folder", root, level="character").to_text([0])
