"""Images and text that validation or test shares with training."""

import numpy as np
import pytest
from PIL import Image

from wpl_jax.data import Split, load_images, load_text, open_images
from wpl_jax.data.images.holdout import hold_out
from wpl_jax.data.repeats import (
    count_repeated,
    describe_repeated,
    hash_rows,
    share_repeated,
)
from wpl_jax.tasks.image_classification import ImageClassification
from wpl_jax.tasks.image_data import prepare
from wpl_jax.tasks.language_model import LanguageModel


@pytest.fixture
def write(tmp_path, random_images):
    """Writes an npz whose test split begins with so many training images."""

    def write_npz(repeated, valid=None):
        train = random_images(20)
        test = np.concatenate([train[:repeated], random_images(6 - repeated, seed=1)])
        arrays = {"train_images": train, "train_labels": np.arange(20) % 2}
        arrays |= {"test_images": test, "test_labels": np.arange(6) % 2}
        if valid is not None:
            arrays |= {"valid_images": valid, "valid_labels": np.arange(len(valid)) % 2}
        file = tmp_path / "images.npz"
        np.savez(file, **arrays)
        return file

    return write_npz


def test_hashes_are_those_of_the_pixels(random_images):
    images = random_images(3000, height=2, width=2)
    hashes = hash_rows(images)
    assert hashes.shape == (3000,)
    same = (images[:, None] == images[None, :50]).all((2, 3, 4))
    assert ((hashes[:, None] == hashes[None, :50]) == same).all()
    turned = np.ascontiguousarray(images.transpose(3, 1, 2, 0)).transpose(3, 1, 2, 0)
    assert (hash_rows(turned) == hashes).all()  # However they lie in memory.


@pytest.mark.parametrize("repeated", [0, 1, 5])
def test_repeated_images_are_counted_and_told(repeated, write):
    data = open_images("npz", write(repeated), valid=4)
    assert data.repeated == {"valid": 0, "test": repeated}
    said = f"{repeated} of 6 test images are in an earlier split as well"
    assert (said in ImageClassification(None).describe(data)) == (repeated > 0)
    assert load_images("npz", write(repeated), valid=4).repeated == data.repeated


@pytest.mark.parametrize("load", [open_images, load_images])
def test_a_test_split_of_training_images_is_refused(load, write, data_error):
    file = write(6)
    with data_error(file, "all 6 test images also in train or valid", "no other split"):
        load("npz", file)


def test_a_validation_split_of_training_images_is_refused(
    write, random_images, data_error
):
    file = write(0, valid=random_images(20)[5:9])
    with data_error(file, "all 4 valid images also in train", "held out"):
        load_images("npz", file)
    file = write(0, valid=random_images(6, seed=1))
    with data_error(file, "all 6 test images also in train or valid", "no other"):
        load_images("npz", file)


def test_counts_of_splits():
    hashes = {
        "train": np.array([1, 2, 3, 3]),
        "valid": np.array([3, 3, 4]),
        "test": np.array([1, 4, 5, 6]),
    }
    assert count_repeated(hashes, "x") == {"valid": 2, "test": 2}
    sizes = {"valid": 3, "test": 4000}
    assert describe_repeated({"valid": 2, "test": 1}, sizes) == (
        "2 of 3 valid images and 1 of 4,000 test images are in an earlier split as well"
    )
    assert describe_repeated({"valid": 0, "test": 0}, sizes) == ""


@pytest.fixture
def folder(tmp_path):
    """Images in files of their own; a function sets the grey of one."""

    def write(split, number, grey):
        place = tmp_path / split / ("cat" if number % 2 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), grey).save(place / f"{number}.png")

    for number in range(8):
        write("train", number, 10 * number)
        write("valid", number, 10 * number + 100)
        write("test", number, 10 * number + 101)
    write.root = tmp_path
    return write


def test_images_in_files_are_compared_when_they_are_read(folder, capsys, data_error):
    folder("test", 3, 20)  # As the second one of train.
    opened = open_images("folder", folder.root)
    assert opened.repeated is None
    assert opened.read().repeated == {"valid": 0, "test": 1}
    prepare(opened)
    said = f"{folder.root}: 1 of 8 test images are in an earlier split as well.\n"
    assert capsys.readouterr().out == said
    for number in range(8):
        folder("valid", number, 10 * (7 - number))
    opened = open_images("folder", folder.root)
    for read in (opened.read, lambda: prepare(opened)):
        with data_error(folder.root, "all 8 valid images also in train", ""):
            read()


def make_copies(groups):
    """Images of two classes, each number the grey of one."""
    images = np.array(groups, np.uint8).reshape(-1, 1, 1, 1)
    labels = np.arange(len(images), dtype=np.int32) % 2
    return Split(images, labels)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [2, 6, 0.4])
def test_copies_stay_on_one_side(share, seed):
    numbers = [*range(20), *range(20, 26), *range(20, 26), 25, 25]
    split = make_copies(np.random.default_rng(1).permutation(numbers))
    rest, held = hold_out(split, share, seed=seed, argument="valid", source="x")
    assert not set(rest.images.flat) & set(held.images.flat)
    assert sorted([*rest.images.flat, *held.images.flat]) == sorted(numbers)
    expected = share if isinstance(share, int) else round(share * len(numbers))
    assert len(held.labels) == expected
    assert np.bincount(rest.labels).min() >= 1


@pytest.mark.parametrize("seed", range(3))
def test_without_copies_on_both_sides_nothing_changes(seed):
    split = make_copies(np.arange(40))
    _, held = hold_out(split, 10, seed=seed, argument="valid", source="x")
    rng = np.random.default_rng([seed, *b"valid"])
    expected = [rng.permutation(np.arange(label, 40, 2))[:5] for label in (0, 1)]
    assert held.images.ravel().tolist() == sorted(np.concatenate(expected).tolist())


def test_fewer_are_held_out_where_most_are_copies(data_error):
    split = make_copies([7] * 10 + [8] * 10 + [1, 2])
    rest, held = hold_out(split, 10, seed=0, argument="valid", source="x")
    assert sorted(held.images.flat) == [1, 2]
    assert len(rest.labels) == 20
    with data_error("x", "only copies of the same images", "leave copies out"):
        split = make_copies([7] * 10 + [8] * 10)
        hold_out(split, 10, seed=0, argument="valid", source="x")


def slow_share(tokens, train, length):
    """The same, passage by passage."""
    known = {tuple(train[i : i + length]) for i in range(len(train) - length + 1)}
    covered = np.zeros(len(tokens), bool)
    for i in range(len(tokens) - length + 1):
        if tuple(tokens[i : i + length]) in known:
            covered[i : i + length] = True
    return covered.mean()


@pytest.mark.parametrize("length", [1, 2, 3, 7, 50])
@pytest.mark.parametrize("symbols", [2, 5, 400])
def test_share_of_text_in_common_passages(length, symbols):
    rng = np.random.default_rng(length)
    train, tokens = (rng.integers(0, symbols, n) for n in (900, 300))
    tokens[100:180] = train[300:380]
    tokens[-60:] = train[:60]
    expected = slow_share(tokens.tolist(), train.tolist(), length)
    assert expected >= 140 / 300
    assert share_repeated(tokens, train, length) == pytest.approx(expected, abs=1e-12)


def test_texts_shorter_than_a_passage_have_none_in_common():
    assert share_repeated(np.arange(4), np.arange(99), 5) == 0
    assert share_repeated(np.arange(99), np.arange(4), 5) == 0
    assert share_repeated(np.arange(5), np.arange(5), 5) == 1


@pytest.fixture
def texts(tmp_path):
    """A folder of text, of whose test split a share is copied from train."""

    def write(copied):
        rng = np.random.default_rng(0)

        def words(n):
            return [f"word{i}" for i in rng.integers(0, 500, n)]

        train, valid, test = words(4000), words(1000), words(1000)
        test[:copied] = train[2000 : 2000 + copied]
        for name, text in (("train", train), ("valid", valid), ("test", test)):
            (tmp_path / f"{name}.txt").write_text(" ".join(text))
        return tmp_path

    return write


@pytest.mark.parametrize("level", ["word", "character"])
def test_repeated_text_is_told(level, texts):
    data = load_text("folder", texts(200), level=level, max_vocabulary=20)
    assert data.repeated["valid"] == 0
    assert data.repeated["test"] == pytest.approx(0.2, abs=0.01)
    assert "of test is also in train" in LanguageModel(None).describe(data)
    data = load_text("folder", texts(0), level=level)
    assert data.repeated == {"valid": 0, "test": 0}
    assert "also in train" not in LanguageModel(None).describe(data)


@pytest.mark.parametrize("level", ["word", "character"])
def test_a_part_of_the_training_text_is_refused(level, texts, data_error):
    folder = texts(1000)
    with data_error(folder / "test.txt", "% is in passages of", "cut what is for test"):
        load_text("folder", folder, level=level)


def test_built_in_text_repeats_nothing():
    assert load_text("pydoc").repeated == {"valid": 0, "test": 0}
