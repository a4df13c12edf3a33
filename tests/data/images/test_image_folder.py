import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from wpl_jax.data import load_images, open_images
from wpl_jax.data.images.image_folder import read_image_folder
from wpl_jax.data.images.pixels import read_form, read_pixels


def _png(pixels):
    """A PNG written byte by byte: 8 bits, grey or RGB."""
    height, width = pixels.shape[:2]
    colour_type = 0 if pixels.ndim == 2 else 2
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(
            b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
        )
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def _write(file, pixels):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_png(pixels))


@pytest.fixture
def folder(tmp_path):
    """Two classes; the value of an image's pixels says which one it is."""
    for split, start, count in (("train", 0, 4), ("test", 100, 2)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                pixels = np.full((4, 5), start + 10 * c + i, np.uint8)
                _write(tmp_path / split / name / f"{i}.png", pixels)
    return tmp_path


def test_splits(folder):
    data = load_images("folder", folder, valid=2)
    assert data.class_names == ("cat", "dog")
    assert data.image_shape == (4, 5, 1)
    assert data.test.images[:, 3, 4, 0].tolist() == [100, 101, 110, 111]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.valid.labels.tolist() == [0, 1]
    values = [*data.train.images[:, 0, 0, 0], *data.valid.images[:, 0, 0, 0]]
    assert sorted(values) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_own_validation_split(folder):
    for c, name in enumerate(("cat", "dog")):
        _write(folder / "valid" / name / "v.PNG", np.full((4, 5), 200 + c, np.uint8))
    data = load_images("folder", folder)
    assert data.valid.images[:, 0, 0, 0].tolist() == [200, 201]
    assert len(data.train.labels) == 8


def test_colours_in_their_order(folder):
    pixels = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    _write(folder / "test" / "cat" / "0.png", pixels)
    data = load_images("folder", folder)
    assert data.image_shape == (4, 5, 3)
    np.testing.assert_array_equal(data.test.images[0], pixels)
    assert data.test.images[1, 0, 0].tolist() == [101] * 3  # grey among colours
    data = load_images("folder", folder, channels=1)
    assert data.image_shape == (4, 5, 1)
    red, green, blue = pixels[2, 3].astype(float)
    luminance = 0.299 * red + 0.587 * green + 0.114 * blue  # ITU-R BT.601
    assert abs(data.test.images[0, 2, 3, 0] - luminance) <= 1
    assert load_images("folder", folder, channels=3).image_shape == (4, 5, 3)


@pytest.mark.parametrize("ending", ["jpg", "JPEG", "bmp", "gif", "webp", "tif", "ppm"])
def test_formats(ending, folder):
    file = folder / "test" / "cat" / f"0.{ending}"
    (folder / "test" / "cat" / "0.png").unlink()
    Image.new("RGB", (5, 4), (255, 0, 0)).save(file)
    image = load_images("folder", folder).test.images[0].astype(int)
    assert abs(image - [255, 0, 0]).max() <= 3  # JPEG is not exact


@pytest.mark.parametrize("mode", ["1", "LA", "P", "PA", "RGBA", "CMYK"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_modes(mode, channels, folder):
    file = folder / "test" / "cat" / ("0.tif" if mode == "CMYK" else "0.png")
    (folder / "test" / "cat" / "0.png").unlink()
    white = Image.new("RGB", (5, 4), "white").convert("P" if mode == "PA" else mode)
    white.save(file, **({"transparency": b"\x80\x00"} if mode == "PA" else {}))
    image = load_images("folder", folder, channels=channels).test.images[0]
    assert image.shape == (4, 5, channels or (1 if mode in ("1", "LA") else 3))
    assert (image == 255).all()


def test_sizes(folder, data_error):
    file = folder / "train" / "dog" / "3.png"
    left_black = np.zeros((8, 10), np.uint8)
    left_black[:, 5:] = 250
    _write(file, left_black)
    with data_error(file, "8 x 10 pixels", "size=(height, width)"):
        load_images("folder", folder)
    data = load_images("folder", folder, size=(2, 6), valid=2)
    assert data.image_shape == (2, 6, 1)
    (image,) = (i for i in [*data.train.images, *data.valid.images] if i.max() == 250)
    assert image[:, :2].max() == 0
    assert image[:, 4:].min() == 250


@pytest.mark.parametrize("size", [32, (32,), (0, 3), (1.5, 2), (1, 2, 3), "22"])
def test_size_of_a_wrong_kind(size, folder, data_error):
    with data_error("option size", repr(size), "size=(32, 32)"):
        load_images("folder", folder, size=size)


@pytest.mark.parametrize("channels", [0, 2, 4, "RGB"])
def test_channels_of_a_wrong_kind(channels, folder, data_error):
    with data_error("option channels", repr(channels), "channels=1"):
        load_images("folder", folder, channels=channels)


def test_what_is_not_there_is_held_out(folder):
    expected = [0, 1, 2, 3, 10, 11, 12, 13]
    for name in ("", "train"):
        if not name:
            shutil.rmtree(folder / "test")
        data = load_images("folder", folder / name, valid=2, test=2)
        assert data.class_names == ("cat", "dog")
        splits = data.train, data.valid, data.test
        values = [split.images[:, 0, 0, 0] for split in splits]
        assert [len(each) for each in values] == [4, 2, 2]
        assert sorted(np.concatenate(values)) == expected
        for each, split in zip(values, splits, strict=True):
            assert [value // 10 for value in each] == split.labels.tolist()


def test_a_folder_around_the_splits_is_no_folder_of_classes(folder, data_error):
    for name in ("train", "test"):
        (folder / "inner").mkdir(exist_ok=True)
        (folder / name).rename(folder / "inner" / name)
    with data_error(folder, "no folder train/, but inner/", "one folder for each"):
        load_images("folder", folder)


def test_splits_without_classes_are_no_classes(folder, data_error):
    for name in ("train", "test"):
        shutil.rmtree(folder / name)
        _write(folder / name / "0.png", np.zeros((4, 5), np.uint8))
    with data_error(folder / "train", "0.png outside a class", "make a folder"):
        load_images("folder", folder)


@pytest.mark.parametrize("alias", ["val", "validation", "dev"])
def test_other_name_of_valid(alias, folder, data_error):
    (folder / alias).mkdir()
    with data_error(
        folder / alias, "unknown split", f"rename it to {folder / 'valid'}"
    ):
        load_images("folder", folder)


def test_no_test_folder(folder, data_error):
    (folder / "test").rename(folder / "tests")
    with data_error(folder, "no folder test/, but tests/", "make the folder"):
        load_images("folder", folder)


def test_images_outside_a_class(folder, data_error):
    _write(folder / "train" / "lost.png", np.zeros((4, 5), np.uint8))
    with data_error(folder / "train", "lost.png outside a class", "make a folder"):
        load_images("folder", folder)


@pytest.mark.parametrize("split", ["train", "test", "valid"])
def test_split_without_classes(split, folder, data_error):
    (folder / split).rename(folder / "old") if split != "valid" else None
    (folder / split).mkdir()
    with data_error(folder / split, "no classes", "make a folder for each class"):
        load_images("folder", folder)


@pytest.mark.parametrize("split", ["train", "test"])
def test_class_without_images(split, folder, data_error):
    (folder / split / "eel").mkdir()
    (folder / split / "eel" / ".DS_Store").touch()
    with data_error(folder / split / "eel", "a class without images", "add images"):
        load_images("folder", folder)


@pytest.mark.parametrize(
    ("has", "lacks"), [("train", "test"), ("test", "train"), ("valid", "train")]
)
def test_classes_differ(has, lacks, folder, data_error):
    if has == "valid":
        (folder / "test").rename(folder / "valid")
        _write(folder / "test" / "cat" / "0.png", np.zeros((4, 5), np.uint8))
        _write(folder / "test" / "dog" / "0.png", np.zeros((4, 5), np.uint8))
    _write(folder / has / "eel" / "0.png", np.zeros((4, 5), np.uint8))
    odd = folder / lacks / "eel"
    with data_error(
        folder / has / "eel", f"not in {lacks}/", f"images of it into {odd}"
    ):
        load_images("folder", folder)


@pytest.mark.parametrize("name", ["notes.txt", "image.svg", "no_ending"])
def test_file_that_is_no_image_by_name(name, folder, data_error):
    file = folder / "test" / "dog" / name
    file.write_text("text")
    with data_error(file, "no image, by its ending", "remove it"):
        load_images("folder", folder)


def test_folder_in_a_class(folder, data_error):
    (folder / "test" / "dog" / "puppies.jpg").mkdir()
    with data_error(folder / "test" / "dog" / "puppies.jpg", "a folder", "remove it"):
        load_images("folder", folder)


WHOLE = _png(np.random.default_rng(0).integers(0, 256, (4, 5), np.uint8))


@pytest.mark.parametrize(
    ("content", "found", "remedy"),
    [
        (b"", "an empty file", "download it again"),
        (b"text, not pixels", "no image, broken or truncated", "save it anew"),
        (WHOLE[:-25], "no image, broken or truncated", "save it anew"),
        (WHOLE[:20], "no image, broken or truncated", "save it anew"),
        (WHOLE[:45] + bytes(9) + WHOLE[54:], "no image, broken", "save it anew"),
    ],
)
def test_damaged_image(content, found, remedy, folder, data_error):
    file = folder / "test" / "dog" / "0.jpg"
    file.write_bytes(content)
    with data_error(file, found, remedy):
        load_images("folder", folder)


def test_truncated_jpeg(folder, data_error):
    file = folder / "test" / "dog" / "0.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-500])
    with data_error(file, "truncated", "save it anew"):
        load_images("folder", folder, size=(4, 5))


def test_opened_images_are_read_when_they_are_needed(folder):
    data = open_images("folder", folder, valid=2)
    whole = load_images("folder", folder, valid=2)
    assert data.image_shape == whole.image_shape
    for name in ("train", "valid", "test"):
        split, expected = getattr(data, name), getattr(whole, name)
        assert isinstance(expected.images, np.ndarray)
        assert split.images.shape == expected.images.shape
        assert split.labels.tolist() == expected.labels.tolist()
        some = np.array([1, 0, 1])
        np.testing.assert_array_equal(split.images[some], expected.images[some])
    # What is not needed is not looked at again.
    for file in (folder / "train").rglob("*.png"):
        file.unlink()
    assert np.asarray(data.test.images).tolist() == whole.test.images.tolist()


def test_with_size_and_channels_no_file_is_opened_too_early(folder):
    shutil.copytree(folder / "test", folder / "valid")  # Else train is compared.
    for file in folder.rglob("*.png"):
        file.write_bytes(b"text, not pixels")
    data = open_images("folder", folder, size=(3, 2), channels=3)
    assert data.image_shape == (3, 2, 3)


def test_a_file_that_has_changed_since_it_was_opened_is_named(folder, data_error):
    images = open_images("folder", folder).test.images
    file = folder / "test" / "dog" / "0.png"
    _write(file, np.zeros((5, 4), np.uint8))  # As many pixels.
    with data_error(file, "5 x 4 pixels", "give size"):
        np.asarray(images)


def test_a_damaged_image_is_told_of_by_who_reads_it(folder, data_error):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    file = folder / "test" / "dog" / "0.jpg"
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-500])
    images = open_images("folder", folder, size=(4, 5)).test.images
    place = images.files.tolist().index(file)
    assert np.asarray(images[np.arange(len(images)) != place]).shape == (4, 4, 5, 1)
    with data_error(file, "truncated", "save it anew"):
        np.asarray(images[np.array([place])])


def test_copies_among_files_stay_on_one_side(folder):
    """Also copies that another format holds, with the same pixels."""
    for c, name in enumerate(("cat", "dog")):
        for i in range(4):
            pixels = np.full((4, 5), 10 * c + i, np.uint8)
            Image.fromarray(pixels).save(folder / "train" / name / f"copy{i}.bmp")
        for i in range(10):
            pixels = np.full((4, 5), 200 + 20 * c + i, np.uint8)
            _write(folder / "train" / name / f"other{i}.png", pixels)
    for seed in range(3):
        data = open_images("folder", folder, valid=6, seed=seed)
        rest, held = (
            np.asarray(split.images)[:, 0, 0, 0] for split in (data.train, data.valid)
        )
        assert len(held) == 6
        assert not set(rest) & set(held)
        assert data.read().repeated == {"valid": 0, "test": 0}


def test_a_damaged_image_is_told_of_where_some_are_held_out(folder, data_error):
    file = folder / "train" / "dog" / "0.png"
    file.write_bytes(file.read_bytes()[:50])
    with data_error(file, "truncated", "save it anew"):
        open_images("folder", folder, size=(4, 5), channels=1)


def test_sixteen_bits(folder, data_error):
    file = folder / "test" / "dog" / "0.png"
    Image.fromarray(np.full((4, 5), 40_000, np.uint16)).save(file)
    with data_error(file, "mode I;16", "convert it to 8 bits"):
        load_images("folder", folder)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(orientation, ending, tmp_path):
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16] = 255  # a corner, in the rows as the camera stores them
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / f"photo.{ending}"
    Image.fromarray(stored).save(file, exif=exif)
    # The standard: what row 0 and column 0 of the file are in the upright image.
    upright = {
        1: lambda x: x,  # top, left
        2: lambda x: x[:, ::-1],  # top, right
        3: lambda x: x[::-1, ::-1],  # bottom, right
        4: lambda x: x[::-1],  # bottom, left
        5: lambda x: x.swapaxes(0, 1),  # left, top
        6: lambda x: x.swapaxes(0, 1)[:, ::-1],  # right, top
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
        8: lambda x: x.swapaxes(0, 1)[::-1],  # left, bottom
    }[orientation](stored)
    found = read_pixels(file, None, None)
    assert found.shape == upright.shape == read_form(file, None)
    np.testing.assert_allclose(found.astype(int), upright, atol=8)  # JPEG is lossy.
    small = read_pixels(file, (upright.shape[0] // 2, upright.shape[1] // 2), 1)
    assert np.argmax(small[[0, 0, -1, -1], [0, -1, 0, -1]]) == np.argmax(
        upright[[0, 0, -1, -1], [0, -1, 0, -1], 0]
    )


def test_a_folder_of_photographs_held_both_ways_has_one_size(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.new("RGB", (4, 5), (255, 0, 0))  # 5 rows of 4; upright 4 rows of 5
    turned.save(folder / "train" / "cat" / "turned.png", exif=exif)
    assert np.asarray(read_image_folder(folder).train.images).shape[1:] == (4, 5, 3)


def test_damaged_metadata_does_not_hide_an_image(tmp_path):
    file = tmp_path / "photo.jpg"
    Image.new("L", (5, 4), 255).save(file, exif=b"Exif\0\0no directory")
    assert read_pixels(file, None, None).shape == (4, 5)
