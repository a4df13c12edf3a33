import gzip
import struct

import numpy as np
import pytest

from wpl_jax.data import load_images


def _idx(array, magic=None):
    magic = magic or 0x800 + array.ndim
    header = struct.pack(f">I{array.ndim}I", magic, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def arrays(random_images):
    return {
        "train-images-idx3-ubyte": random_images(12)[..., 0],
        "train-labels-idx1-ubyte": np.arange(12, dtype=np.uint8) % 3,
        "t10k-images-idx3-ubyte": random_images(3, seed=1)[..., 0],
        "t10k-labels-idx1-ubyte": np.array([2, 1, 0], np.uint8),
    }


@pytest.fixture
def folder(tmp_path, arrays):
    for name, array in arrays.items():
        (tmp_path / name).write_bytes(_idx(array))
    return tmp_path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("mark", ["-", "."])
def test_splits(compressed, mark, tmp_path, arrays):
    for name, array in arrays.items():
        file = tmp_path / name.replace("-idx", f"{mark}idx")
        if compressed:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(_idx(array)))
        else:
            file.write_bytes(_idx(array))
    data = load_images("idx", tmp_path, valid=3)
    assert data.image_shape == (4, 5, 1)
    assert data.class_names == ("0", "1", "2")
    train, _, test, _ = arrays.values()
    np.testing.assert_array_equal(data.test.images[..., 0], test)
    np.testing.assert_array_equal(data.test.labels, [2, 1, 0])
    ours = np.concatenate([data.train.images, data.valid.images])[..., 0]
    assert sorted(ours.tolist()) == sorted(train.tolist())


def test_bytes_in_their_order(folder):
    """The file format, byte by byte, without any help of numpy."""
    pixels = bytes(range(12))
    header = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3])
    (folder / "t10k-images-idx3-ubyte").write_bytes(header + pixels)
    (folder / "t10k-labels-idx1-ubyte").write_bytes(
        bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 0])
    )
    header = bytes([0, 0, 8, 3, 0, 0, 0, 12, 0, 0, 0, 2, 0, 0, 0, 3])
    (folder / "train-images-idx3-ubyte").write_bytes(header + bytes(range(100, 172)))
    data = load_images("idx", folder, valid=3)
    assert data.test.images[..., 0].tolist() == [
        [[0, 1, 2], [3, 4, 5]],
        [[6, 7, 8], [9, 10, 11]],
    ]
    assert data.test.labels.tolist() == [1, 0]


@pytest.mark.parametrize("stem", ["train-images-idx3", "t10k-labels-idx1"])
def test_missing_file(stem, folder, data_error):
    (folder / f"{stem}-ubyte").unlink()
    with data_error(folder / f"{stem}-ubyte", "no such file", "rename"):
        load_images("idx", folder)


IMAGES = np.zeros((12, 2, 2), np.uint8)


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (b"", "an empty file", "download it again"),
        (b"\0\0", "magic number 0x0000", "download it again"),
        (_idx(IMAGES)[:10], "10 bytes: it is truncated", "download it again"),
        (_idx(IMAGES)[:-1], "63 bytes: it is truncated", "download it again"),
        (
            _idx(IMAGES) + b"x",
            "more than 64 bytes: it is too long",
            "download it again",
        ),
        (_idx(IMAGES, 0xD03), "0x00000d03 (no idx file", "download it again"),
        (_idx(IMAGES[:, 0, 0]), "0x00000801 (labels)", "exchanged"),
        (b"<html>404</html>", "0x3c68746d", "download it again"),
        (_idx(IMAGES[:5]), "5 images, and 12 labels", "same split"),
        (_idx(IMAGES[:0]), "shape (0, 2, 2)", "reshape"),
        (gzip.compress(_idx(IMAGES)), "a gzip file", "train-images-idx3-ubyte.gz"),
    ],
)
def test_wrong_image_file(content, found, remedy, folder, data_error):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(content)
    with data_error(file, found, remedy):
        load_images("idx", folder)


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (_idx(IMAGES), "not gzip", "ending .gz off"),
        (gzip.compress(_idx(IMAGES))[:-9], "broken or truncated", "again"),
        (gzip.compress(_idx(IMAGES))[:12] + bytes(40), "broken or truncated", "again"),
        (gzip.compress(_idx(IMAGES)[:-1]), "63 bytes: it is truncated", "again"),
    ],
)
def test_wrong_gzip_file(content, found, remedy, folder, data_error):
    (folder / "train-images-idx3-ubyte").unlink()
    file = folder / "train-images-idx3-ubyte.gz"
    file.write_bytes(content)
    with data_error(file, found, remedy):
        load_images("idx", folder)


def test_folder_with_the_name_of_a_file(folder, data_error):
    file = folder / "t10k-labels-idx1-ubyte"
    file.unlink()
    file.mkdir()
    with data_error(file, "a folder", "the file's own path"):
        load_images("idx", folder)
