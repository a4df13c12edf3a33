"""What holds for every format: the entry point, its arguments, its checks."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wpl_jax.data import FORMATS, DataError, ImageDataset, Split, load_images
from wpl_jax.data.images.layout import check_layout


@pytest.fixture
def write(tmp_path, random_images):
    """Writes an npz of two classes, with some of its arrays replaced."""

    def write_npz(**changes):
        arrays = {
            "train_images": random_images(20),
            "train_labels": np.arange(20) % 2,
            "test_images": random_images(6, seed=1),
            "test_labels": np.arange(6) % 2,
        }
        arrays |= changes
        file = tmp_path / "two.npz"
        np.savez(file, **{k: v for k, v in arrays.items() if v is not None})
        return file

    return write_npz


def test_digits():
    from sklearn.datasets import load_digits

    data = load_images("digits", valid=0.1, test=0.2)
    assert data.image_shape == (8, 8, 1)
    assert data.num_classes == 10
    assert data.class_names == tuple("0123456789")
    splits = (data.train, data.valid, data.test)
    assert [len(split.labels) for split in splits] == [1294, 144, 359]
    for split in splits:
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int32
        assert split.images.shape == (len(split.labels), 8, 8, 1)
    # All the images with their labels, each once, whatever their order.
    original = load_digits()
    scaled = np.rint(original.images.reshape(1797, 64) * 255 / 16).astype(int)
    ours = np.concatenate([split.images.reshape(-1, 64) for split in splits])
    labels = np.concatenate([split.labels for split in splits])
    expected = np.column_stack([scaled, original.target]).tolist()
    assert sorted(np.column_stack([ours, labels]).tolist()) == sorted(expected)
    assert ours.max() == 255


def test_a_part_of_the_training_images_leaves_the_rest_out():
    whole, part = (load_images("digits", train=train) for train in (None, 300))
    for split in ("valid", "test"):
        np.testing.assert_array_equal(
            getattr(part, split).images, getattr(whole, split).images
        )
    counts = np.bincount(whole.train.labels)
    expected = 300 * counts / counts.sum()
    assert len(part.train.labels) == 300
    assert np.all(np.abs(np.bincount(part.train.labels) - expected) < 1)
    rows = {image.tobytes() for image in whole.train.images}
    assert all(image.tobytes() in rows for image in part.train.images)
    with pytest.raises(DataError, match="train"):
        load_images("digits", train=-1)


def test_same_seed_same_data():
    first, again = load_images("digits"), load_images("digits")
    other = load_images("digits", seed=np.int64(7))
    for split in ("train", "valid", "test"):
        images = getattr(first, split).images
        assert np.array_equal(images, getattr(again, split).images)
        assert not np.array_equal(images, getattr(other, split).images)


def test_dataset_cannot_be_changed():
    data = load_images("digits")
    assert isinstance(data, ImageDataset)
    assert isinstance(data.train, Split)
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.source = "elsewhere"


def test_own_validation_split_is_taken(write, random_images):
    images, labels = random_images(4, seed=2), np.array([0, 1, 1, 0])
    file = write(valid_images=images, valid_labels=labels)
    data = load_images("npz", file, valid=3)
    np.testing.assert_array_equal(data.valid.images, images)
    assert len(data.train.labels) == 20


def test_packages_of_formats_are_imported_when_needed():
    code = (
        "import sys, wpl_jax; before = set(sys.modules);"
        "import wpl_jax.data; print(*(set(sys.modules) - before))"
    )
    root = Path(__file__).resolve().parents[3]
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    heavy = {"PIL", "sklearn", "tensorflow_datasets"}
    assert not heavy & set(run.stdout.split())


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("cifar", "write 'cifar_binary'"),
        ("imagenet", "take one of those"),
        (["npz"], "write 'npz'"),
    ],
)
def test_unknown_format(name, remedy, data_error):
    with data_error("argument format", f"{name!r} for some/path", remedy):
        load_images(name, "some/path")


def test_every_format_is_named_in_the_error():
    with pytest.raises(ValueError, match="unknown format") as caught:
        load_images("no such format")
    for name in FORMATS:
        assert name in str(caught.value)


@pytest.mark.parametrize("option", ["sise", "read"])
@pytest.mark.parametrize("name", sorted(FORMATS))
def test_unknown_option(name, option, data_error):
    with data_error(f"format {name}", f"unknown option '{option}'", ""):
        load_images(name, "path", **{option: 3})


def test_an_option_of_a_format_without_any_is_to_be_left_out(data_error):
    with data_error("format digits", "unknown option 'size'", "leave it out"):
        load_images("digits", size=(8, 8))


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"digits"}))
@pytest.mark.parametrize("path", [None, 3, ""])
def test_no_path(name, path, data_error):
    with data_error("path", repr(path), "give"):
        load_images(name, path)


def test_digits_with_a_path(data_error):
    with data_error("path", "digits.npz", "leave it out"):
        load_images("digits", "digits.npz")


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"digits", "tfds"}))
def test_path_missing(name, tmp_path, monkeypatch, data_error):
    (tmp_path / "minst.data").touch()
    with data_error(tmp_path / "mnist.data", "nothing", "minst.data"):
        load_images(name, tmp_path / "mnist.data")
    with data_error(tmp_path / "a" / "b", "nothing", f"{tmp_path} holds minst.data"):
        load_images(name, tmp_path / "a" / "b")
    monkeypatch.chdir(tmp_path)
    with data_error("mnist.data", "nothing", f"working folder is {tmp_path}"):
        load_images(name, "mnist.data")


@pytest.mark.parametrize("name", ["cifar_binary", "folder", "idx"])
def test_file_for_a_folder(name, tmp_path, data_error):
    file = tmp_path / "archive.tar"
    file.write_bytes(b"x")
    with data_error(file, "a file", f"perhaps {tmp_path}"):
        load_images(name, file)


@pytest.mark.parametrize("name", ["cifar_binary", "folder", "idx"])
def test_empty_folder(name, tmp_path, data_error):
    (tmp_path / ".hidden").touch()
    with data_error(tmp_path, "an empty folder", "put the files"):
        load_images(name, tmp_path)


def test_home_is_expanded(tmp_path, monkeypatch, write):
    file = write()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_images("npz", f"~/{file.name}").source == str(file)


@pytest.mark.parametrize("argument", ["valid", "test"])
@pytest.mark.parametrize("share", [0, -1, 0.0, 1.0, 1.5, -0.1, True, "0.1", None, [1]])
def test_share_of_a_wrong_kind(argument, share, data_error):
    with data_error(f"argument {argument}", repr(share), f"{argument}=0.1"):
        load_images("digits", **{argument: share})


@pytest.mark.parametrize("seed", [-1, 0.5, None, True])
def test_seed_of_a_wrong_kind(seed, data_error):
    with data_error("argument seed", repr(seed), "seed=0"):
        load_images("digits", seed=seed)


@pytest.mark.parametrize("valid", [19, 20, 10**9, 0.99, 0.01])
def test_valid_too_large_or_too_small(valid, write, data_error):
    file = write()
    with data_error(file, f"valid={valid}", "choose valid"):
        load_images("npz", file, valid=valid)


@pytest.mark.parametrize(
    ("labels", "found", "remedy"),
    [
        (np.full(6, 2), "classes in test that are not in train: 2", "out of test"),
        (np.arange(6) - 1, "label -1 (example 0)", "leave out"),
        (np.full(6, 0.5), "dtype float64, e.g. np.float64(0.5)", "number the classes"),
        (np.full(6, True), "dtype bool", "number the classes"),
        (np.array(list("abcdef")), "dtype <U1", "number the classes"),
        (np.eye(6), "shape (6, 6)", "one-hot"),
        (np.zeros(0, int), "shape (0,)", "flatten"),
        (np.zeros(5, int), "5 labels", "same split"),
        (np.full(6, 2**40), f"label {2**40}", "number the classes"),
        (np.full(6, 2**63, np.uint64), f"label {2**63}", "number the classes"),
    ],
)
def test_wrong_labels(labels, found, remedy, write, data_error):
    file = write(test_labels=labels)
    with data_error(file, found, remedy):
        load_images("npz", file)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.arange(20) % 2 * 2, "1 of 3 classes without training examples: 1"),
        (np.arange(20) % 2 * (2**31 - 1), "training examples: 1, 2, 3, 4, 5, ..."),
        (np.arange(20) % 2 + 1, "1 of 3 classes without training examples: 0"),
    ],
)
def test_train_lacks_classes(labels, found, write, data_error):
    file = write(train_labels=labels, test_labels=np.full(6, labels.max()))
    with data_error(file, found, "number the classes from 0"):
        load_images("npz", file)


def test_named_classes_without_examples(write, data_error):
    file = write(class_names=np.array(["cat", "dog", "cow"]))
    with data_error(file, "1 of 3 classes without training examples: cow", "add"):
        load_images("npz", file)


def test_label_without_a_name(write, data_error):
    file = write(class_names=np.array(["cat"]))
    with data_error(file, "label 1 in train, and 1 class name", "name all"):
        load_images("npz", file)


@pytest.mark.parametrize(
    ("images", "found", "remedy"),
    [
        (np.zeros((6, 20), np.uint8), "shape (6, 20)", "reshape"),
        (np.zeros((6, 784), np.uint8), "shape (6, 784)", "images.reshape(-1, 28, 28)"),
        (np.zeros((6, 3072), np.uint8), "(6, 3072)", "reshape(-1, 3, 32, 32).transp"),
        (np.zeros((5, 4, 3, 6), np.uint8), "6 labels: the examples", "moveaxis"),
        (np.zeros((5, 4, 6), np.uint8), "the examples are its last axis", "moveaxis"),
        (np.zeros((6, 3, 32, 48), np.uint8), "channels first", "transpose(0, 2, 3, 1)"),
        (np.zeros((6, 0, 5), np.uint8), "shape (6, 0, 5)", "reshape"),
        (np.zeros((6, 3, 8, 8), np.uint8), "channels first", "transpose(0, 2, 3, 1)"),
        (np.zeros((6, 4, 5), np.int64), "dtype int64", "astype(numpy.uint8)"),
        (np.zeros((6, 4, 5), complex), "dtype complex128", "astype(numpy.uint8)"),
        (np.zeros((6, 4, 5), bool), "dtype bool", "astype(numpy.uint8) * numpy.uint8"),
        (
            np.full((6, 4, 5), 999, np.uint16),
            "uint16 from 999 to 999",
            "all splits alike",
        ),
        (np.full((6, 4, 5), 255.0), "floats from 255 to 255", "divide"),
        (np.full((6, 4, 5), -0.5), "floats from -0.5", "normalisation"),
        (np.full((6, 4, 5), np.nan), "floats from nan", "normalisation"),
        (np.zeros((6, 5, 4), np.uint8), "test images of (5, 4, 1)", "resize"),
        (np.zeros((6, 4, 5, 3), np.uint8), "test images of (4, 5, 3)", "resize"),
    ],
)
def test_wrong_images(images, found, remedy, write, data_error):
    file = write(test_images=images)
    with data_error(file, found, remedy):
        load_images("npz", file)


CHANNELS_FIRST = [
    *[(3, 32, 48), (1, 28, 20), (3, 48, 32), (4, 32, 48), (2, 9, 9), (3, 4, 4)],
    *[(1, 3, 3), (13, 64, 64), (13, 48, 64), (13, 64, 48)],
]
CHANNELS_LAST = [
    *[(32, 48, 3), (28, 20, 1), (48, 32, 3), (32, 48, 4), (9, 9, 2), (4, 4, 3)],
    *[(3, 3, 1), (64, 64, 13), (64, 48, 13), (48, 64, 13), (32, 32, 200), (24, 16, 32)],
    *[(4, 5, 1), (4, 4, 4), (1, 64, 3), (64, 1, 1), (3, 4, 3), (8, 8, 8)],
]


@pytest.mark.parametrize("shape", CHANNELS_FIRST)
def test_channels_first(shape, data_error):
    with data_error("file", "channels first", "images.transpose(0, 2, 3, 1)"):
        check_layout(np.zeros((2, *shape), np.uint8), "file")


def test_channels_are_where_the_caller_says(write, data_error):
    rng = np.random.default_rng(0)
    splits = {
        f"{name}_images": rng.integers(0, 256, (count, 9, 16, 12), np.uint8)
        for name, count in (("train", 20), ("test", 6))
    }
    file = write(**splits)
    with data_error(file, "channels first", "set channels_last=True"):
        load_images("npz", file, valid=1)
    data = load_images("npz", file, valid=1, channels_last=True)
    assert data.image_shape == (9, 16, 12)
    np.testing.assert_array_equal(data.test.images, splits["test_images"])
    with data_error("option channels_last", "'yes'", "channels_last=True"):
        load_images("npz", file, channels_last="yes")


@pytest.mark.parametrize("shape", CHANNELS_LAST)
def test_channels_last(shape):
    check_layout(np.zeros((2, *shape), np.uint8), "file")


def test_advice_about_examples_and_channels_is_right():
    """What the messages advise leads to images that are taken as they are meant."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (7, 32, 32, 3), np.uint8)
    first = images.transpose(0, 3, 1, 2)
    assert (first.transpose(0, 2, 3, 1) == images).all()
    flat = first.reshape(7, -1)
    assert (flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) == images).all()
    matlab = np.moveaxis(images, 0, -1)
    assert (np.moveaxis(matlab, -1, 0) == images).all()
    mask = images > 127
    assert np.unique(mask.astype(np.uint8) * np.uint8(255)).tolist() == [0, 255]


@pytest.mark.parametrize(
    ("images", "found"),
    [
        (np.full((20, 4, 5), 7, np.uint8), "pixels from 7 to 7, with a standard dev"),
        (np.full((20, 4, 5), 0.5), "pixels from 128 to 128"),
        ((np.arange(400) % 2).reshape(20, 4, 5).astype(np.uint8), "from 0 to 1"),
    ],
)
def test_training_images_of_one_colour(images, found, write, data_error):
    file = write(train_images=images)
    with data_error(file, found, "scale them to 0..255"):
        load_images("npz", file)


def test_channels_of_one_colour_each(write, data_error):
    images = np.full((20, 4, 5, 3), [9, 90, 200], np.uint8)
    file = write(train_images=images, test_images=images[:6])
    with data_error(file, "pixels from 9 to 200, with a standard deviation of 0", ""):
        load_images("npz", file)
    images[..., 0, 1] = 90 + np.arange(20)[:, None]  # One channel is enough.
    file = write(train_images=images, test_images=images[:6] + 1)
    assert load_images("npz", file).image_shape == (4, 5, 3)


def test_low_contrast_is_taken(write):
    values = np.random.default_rng(0).permutation(400) % 2 * 2
    images = values.reshape(20, 4, 5).astype(np.uint8)
    assert load_images("npz", write(train_images=images)).image_shape == (4, 5, 1)


@pytest.mark.parametrize("names", [None, np.array(["cat"])])
def test_a_single_class(names, write, data_error):
    zeros = np.zeros(20, int)
    file = write(train_labels=zeros, test_labels=zeros[:6], class_names=names)
    found = f"a single class, {'cat' if names is not None else '0'}"
    with data_error(file, found, "of another class"):
        load_images("npz", file)


def test_one_example_of_each_class(write, data_error):
    file = write(train_labels=np.arange(20), test_labels=np.arange(6))
    with data_error(file, "one training example of each of 20", "split of its own"):
        load_images("npz", file)
