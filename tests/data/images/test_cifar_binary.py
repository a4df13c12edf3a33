import numpy as np
import pytest

from wpl_jax.data import load_images

CIFAR10 = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]


def _record(label, red, green, blue):
    """One record, from its label or labels and a flat list of each channel."""
    return bytes([*label]) + bytes(red) + bytes(green) + bytes(blue)


def _plain(*label, value=0):
    return _record(label, *[[value] * 1024] * 3)


@pytest.fixture
def folder(tmp_path):
    """CIFAR-10 of 20 images a batch; pixels say which batch and record it is."""
    for batch, name in enumerate(CIFAR10):
        records = [_plain(i % 10, value=20 * batch + i) for i in range(20)]
        (tmp_path / name).write_bytes(b"".join(records))
    return tmp_path


def test_cifar10(folder):
    data = load_images("cifar_binary", folder, valid=20)
    assert data.image_shape == (32, 32, 3)
    assert data.class_names == tuple("0123456789")
    np.testing.assert_array_equal(data.test.labels, np.arange(20) % 10)
    np.testing.assert_array_equal(data.test.images[:, 7, 8, 1], 100 + np.arange(20))
    np.testing.assert_array_equal(np.bincount(data.train.labels), [8] * 10)
    np.testing.assert_array_equal(np.bincount(data.valid.labels), [2] * 10)
    values = [*data.train.images[:, 0, 0, 0], *data.valid.images[:, 0, 0, 0]]
    assert sorted(values) == list(range(100))


def test_order_of_pixels(folder):
    red, green, blue = [0] * 1024, [0] * 1024, [0] * 1024
    red[1] = 11  # row 0, column 1
    green[32] = 22  # row 1, column 0
    blue[1023] = 33  # the last
    (folder / "test_batch.bin").write_bytes(_record([3], red, green, blue))
    test = load_images("cifar_binary", folder).test
    assert test.labels.tolist() == [3]
    (image,) = test.images
    assert image[0, 1].tolist() == [11, 0, 0]
    assert image[1, 0].tolist() == [0, 22, 0]
    assert image[31, 31].tolist() == [0, 0, 33]
    assert image.sum() == 66


def test_class_names(folder, data_error):
    names = folder / "batches.meta.txt"
    names.write_text("airplane\nb\nc\nd\ne\nf\ng\nh\ni\ntruck\n\n")
    data = load_images("cifar_binary", folder)
    assert data.class_names == ("airplane", *"bcdefghi", "truck")
    names.write_text("airplane\ntruck\n")
    with data_error(names, "2 lines", "delete the file"):
        load_images("cifar_binary", folder)


def test_cifar100_has_fine_classes(tmp_path, data_error):
    records = [_plain(i % 20, i % 100, value=i) for i in range(200)]
    (tmp_path / "train.bin").write_bytes(b"".join(records))
    (tmp_path / "test.bin").write_bytes(
        b"".join([*records[:99], _plain(0, 99, value=255)])
    )
    names = [f"name {i}" for i in range(100)]
    (tmp_path / "fine_label_names.txt").write_text("\n".join(names))
    data = load_images("cifar_binary", tmp_path, valid=0.3)
    assert data.class_names == tuple(names)
    np.testing.assert_array_equal(data.test.labels, np.arange(100))
    np.testing.assert_array_equal(data.test.images[:, 31, 0, 2], [*range(99), 255])
    (tmp_path / "test.bin").write_bytes(_plain(0, 100))
    with data_error(tmp_path / "test.bin", "label 100 in record 0", "right file"):
        load_images("cifar_binary", tmp_path)


@pytest.mark.parametrize("name", CIFAR10)
def test_missing_batch(name, folder, data_error):
    (folder / name).unlink()
    with data_error(folder / name, "nothing", "check the path"):
        load_images("cifar_binary", folder)


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (b"", "an empty file", "download it again"),
        (_plain(1)[:-1], "3072 bytes, 3072 more than whole", "truncated"),
        (_plain(1) + b"x", "3074 bytes, 1 more than whole", "another data set"),
        (_plain(9) + _plain(10), "label 10 in record 1", "right file"),
    ],
)
def test_wrong_batch(content, found, remedy, folder, data_error):
    file = folder / "data_batch_4.bin"
    file.write_bytes(content)
    with data_error(file, found, remedy):
        load_images("cifar_binary", folder)


def test_class_without_examples(folder, data_error):
    for name in CIFAR10:
        (folder / name).write_bytes(b"".join(_plain(i) for i in range(9)))
    with data_error(folder, "1 of 10 classes without training examples: 9", "add"):
        load_images("cifar_binary", folder)


def test_folder_of_another_version(tmp_path, data_error):
    (tmp_path / "data_batch_1").touch()
    with data_error(tmp_path, "but data_batch_1", "binary version"):
        load_images("cifar_binary", tmp_path)
