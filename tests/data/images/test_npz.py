import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from wpl_jax.data import load_images

MNIST = Path(__file__).resolve().parents[4] / "shared" / "data" / "mnist.npz"


@pytest.fixture
def arrays(random_images):
    return {
        "train_images": random_images(12, channels=3),
        "train_labels": np.arange(12, dtype=np.uint8) % 3,
        "test_images": random_images(3, channels=3, seed=1),
        "test_labels": np.array([2, 1, 0], ">i8"),
    }


@pytest.fixture
def file(tmp_path):
    return tmp_path / "images.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_splits_and_names(save, file, arrays):
    save(file, class_names=np.array(["a", "b", "c"]), **arrays)
    data = load_images("npz", file, valid=3)
    assert data.class_names == ("a", "b", "c")
    assert data.image_shape == (4, 5, 3)
    assert data.source == str(file)
    np.testing.assert_array_equal(data.test.images, arrays["test_images"])
    np.testing.assert_array_equal(data.test.labels, [2, 1, 0])
    assert data.test.labels.dtype == np.dtype("int32")
    np.testing.assert_array_equal(np.bincount(data.valid.labels), [1, 1, 1])
    np.testing.assert_array_equal(np.bincount(data.train.labels), [3, 3, 3])
    both = np.concatenate([data.train.images, data.valid.images])
    order = {image.tobytes(): i for i, image in enumerate(arrays["train_images"])}
    assert sorted(order[image.tobytes()] for image in both) == list(range(12))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_scaled_back_exactly(dtype, file):
    grey = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    unit = (grey / 255).astype(dtype)
    labels = np.array([0, 1, 0, 1])
    np.savez(
        file,
        train_images=1 - unit,
        train_labels=labels,
        test_images=unit,
        test_labels=labels,
    )
    data = load_images("npz", file, valid=1)
    np.testing.assert_array_equal(data.test.images, grey[..., np.newaxis])


def test_other_keys(file, arrays):
    names = ("x_train", "y_train", "x_test", "y_test")
    renamed = dict(zip(names, arrays.values(), strict=True))
    np.savez(
        file,
        x_v=255 - arrays["test_images"],
        y_v=[0, 1, 2],
        names=list("abc"),
        **renamed,
    )
    options = dict(zip(arrays, names, strict=True))
    options |= {"valid_images": "x_v", "valid_labels": "y_v", "class_names": "names"}
    data = load_images("npz", file, **options)
    assert data.class_names == ("a", "b", "c")
    assert data.valid.labels.tolist() == [0, 1, 2]
    assert len(data.train.labels) == 12


def test_the_keys_of_keras_are_found(file, arrays):
    names = ("x_train", "y_train", "x_test", "y_test")
    np.savez(file, **dict(zip(names, arrays.values(), strict=True)))
    data = load_images("npz", file, valid=3)
    np.testing.assert_array_equal(data.test.images, arrays["test_images"])
    assert sorted([*data.train.labels, *data.valid.labels]) == sorted(
        arrays["train_labels"]
    )


def test_own_keys_come_before_those_of_keras(file, arrays):
    np.savez(file, x_test=255 - arrays["test_images"], y_test=[2, 1, 0], **arrays)
    data = load_images("npz", file, valid=3)
    np.testing.assert_array_equal(data.test.images, arrays["test_images"])


@pytest.mark.parametrize(
    "key", ["train_images", "train_labels", "test_images", "test_labels"]
)
def test_missing_key(key, file, arrays, data_error):
    del arrays[key]
    np.savez(file, **arrays)
    with data_error(f"{file}[{key}]", ", ".join(arrays), f"{key}='KEY'"):
        load_images("npz", file)


def test_half_a_validation_split(file, arrays, data_error):
    np.savez(file, valid_images=arrays["test_images"], **arrays)
    with data_error(f"{file}[valid_labels]", "no such key", "valid_labels='KEY'"):
        load_images("npz", file)


@pytest.mark.parametrize("option", ["valid_images", "valid_labels", "class_names"])
def test_missing_key_that_was_asked_for(option, file, arrays, data_error):
    np.savez(file, valid_labels=[0], valid_images=arrays["test_images"][:1], **arrays)
    with data_error(f"{file}[typo]", "no such key", f"{option}='KEY'"):
        load_images("npz", file, **{option: "typo"})


@pytest.mark.parametrize("names", [np.arange(3), np.array([["a", "b", "c"]])])
def test_class_names_that_are_none(names, file, arrays, data_error):
    np.savez(file, class_names=names, **arrays)
    with data_error(f"{file}[class_names]", "an array of", "'first class'"):
        load_images("npz", file)


def test_folder_for_a_file(tmp_path, file, data_error):
    file.touch()
    with data_error(tmp_path, "a folder (images.npz)", "the file's own path"):
        load_images("npz", tmp_path)


def _npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (b"", "an empty file", "download it again"),
        (b"P5 4 4 255 not a zip", "not a zip file, beginning with b'P5 4'", "savez"),
        (_npy(np.zeros(3)), "not a zip file", "savez"),
        (b"PK\x03\x04" + bytes(99), "truncated", "download it again"),
    ],
)
def test_file_that_is_no_npz(content, found, remedy, file, data_error):
    file.write_bytes(content)
    with data_error(file, found, remedy):
        load_images("npz", file)


def test_truncated_file(file, arrays, data_error):
    np.savez(file, **arrays)
    file.write_bytes(file.read_bytes()[:-100])
    with data_error(file, "truncated", "download it again"):
        load_images("npz", file)


@pytest.mark.parametrize(
    ("position", "found"),
    [
        (400, "cannot be read (Bad CRC-32"),  # in the pixels of the first array
        (30, "cannot be read (File name in directory"),
    ],
)
def test_damaged_member(position, found, file, arrays, data_error):
    np.savez(file, **arrays)
    content = bytearray(file.read_bytes())
    content[position] ^= 255
    file.write_bytes(content)
    with data_error(f"{file}[train_images]", found, "download"):
        load_images("npz", file)


@pytest.mark.parametrize(
    ("position", "where", "found"),
    [
        (0, "", "cannot be read (Bad magic number"),
        (8, "[train_images]", "cannot be read"),  # the flags: encrypted and more
        (10, "[train_images]", "cannot be read (That compression method"),
    ],
)
def test_damaged_directory(position, where, found, file, arrays, data_error):
    """A zip file's directory is at its end, with an entry for each member."""
    np.savez(file, **arrays)
    content = bytearray(file.read_bytes())
    content[content.index(b"PK\x01\x02") + position] ^= 255
    file.write_bytes(content)
    with data_error(f"{file}{where}", found, "download"):
        load_images("npz", file)


def test_damaged_start(file, arrays, data_error):
    np.savez(file, **arrays)
    file.write_bytes(b"??" + file.read_bytes()[2:])
    with data_error(file, "not a zip file, beginning with b'??", "savez"):
        load_images("npz", file)


@pytest.mark.parametrize(
    ("member", "found"),
    [
        (_npy(np.array([{}]), allow_pickle=True), "cannot be read (Object arrays"),
        (_npy(np.zeros((9, 9)))[:-50], "cannot be read"),
        (b"", "not an array"),
        (b"neither numpy nor anything", "not an array"),
    ],
)
def test_member_that_is_no_array(member, found, file, data_error):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train_images.npy", member)
    with data_error(f"{file}[train_images]", found, "sav"):
        load_images("npz", file)


@pytest.mark.skipif(not MNIST.exists(), reason="needs ../shared/data/mnist.npz")
def test_mnist():
    data = load_images("npz", MNIST, valid=5000)
    sizes = [len(split.labels) for split in (data.train, data.valid, data.test)]
    assert sizes == [55_000, 5_000, 10_000]
    assert data.image_shape == (28, 28, 1)
    # The counts of the digits 0..9 in MNIST's own training and test set.
    counts = np.bincount(data.train.labels) + np.bincount(data.valid.labels)
    expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    np.testing.assert_array_equal(counts, expected)
    expected = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    np.testing.assert_array_equal(np.bincount(data.test.labels), expected)
    np.testing.assert_array_equal(data.test.labels[:5], [7, 2, 1, 0, 4])
    pixels = np.concatenate([data.train.images, data.valid.images])
    assert abs(pixels.mean() / 255 - 0.1307) < 5e-5  # the usual mean of MNIST
