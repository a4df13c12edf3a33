"""Images of a model's user: read, checked, and in a table."""

import csv
import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tabular import Layers, Normalized, layers_in_numpy
from PIL import Image

from wpl_jax.errors import UserError
from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.image_predictor import ImagePredictor

PREDICTOR = ImagePredictor(
    ("cat", "dog"), (4, 6, 3), (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
)
GREY = ImagePredictor(("a", "b"), (2, 2, 1), (0.0,), (1.0,), shrink=2)
IMAGES = np.random.default_rng(0).integers(0, 256, (70, 4, 6, 3)).astype(np.uint8)


def predict(images):
    """The first class is as probable as the first pixel's red is bright."""
    assert images.shape == (64, 4, 6, 3)  # One shape is compiled.
    assert images.dtype == np.uint8
    red = images[:, 0, 0, 0] / 255
    with np.errstate(divide="ignore"):
        return np.log(np.stack([red, 1 - red], 1))


def rows_of(table):
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def check(rows, images):
    assert len(rows) == len(images)
    for row, image in zip(rows, images, strict=True):
        red = image[0, 0, 0] / 255
        assert row["class"] == ("cat" if red >= 0.5 else "dog")
        assert float(row["cat"]) == pytest.approx(red, abs=1e-5)
        assert float(row["probability"]) == pytest.approx(max(red, 1 - red), abs=1e-5)


def test_a_folder_of_images_is_a_row_each_in_the_order_of_the_names(tmp_path):
    (tmp_path / "more").mkdir()
    for i, image in enumerate(IMAGES[:3]):
        Image.fromarray(image).save(tmp_path / "more" / f"{i}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    rows = rows_of(PREDICTOR.table(tmp_path, predict))
    check(rows, IMAGES[:3])
    assert [row["image"][-10:] for row in rows] == [f"more/{i}.png" for i in range(3)]
    one = rows_of(PREDICTOR.table(tmp_path / "more" / "1.png", predict))
    check(one, IMAGES[1:2])


def test_an_array_of_more_images_than_a_call_takes(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    rows = rows_of(PREDICTOR.table(tmp_path / "images.npy", predict))
    check(rows, IMAGES)
    assert rows[69]["image"].endswith("images.npy[69]")


def test_a_name_of_two_lines_stays_a_row(tmp_path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "a\nb.png")
    text = io.StringIO()
    table = PREDICTOR.table(tmp_path, predict)
    csv.writer(text).writerows(table.rows)
    assert len(text.getvalue().splitlines()) == 1


def test_images_are_normalized_by_channel_and_shrunk():
    found = PREDICTOR.to_network(IMAGES)
    expected = (np.float64(IMAGES) - [10, 20, 30]) / [2, 4, 8]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    squares = np.uint8([[[[1], [2]], [[3], [4]]]])
    np.testing.assert_array_equal(GREY.to_network(squares), [[[[2]]]])


def test_a_network_is_called_with_the_arguments_that_it_has():
    """As in training: a space of images need not know batch statistics."""
    space = Layers((4, 6, 3))
    shapes = [(3, 4), (2, 4, 4), (4, 2)]
    rng = np.random.default_rng(1)
    first, layers, last = (np.float32(rng.normal(size=shape)) for shape in shapes)
    child = {"first": first, "layers": layers, "last": last}
    architecture = Architecture(jnp.array([0, 1]))
    for statistics in (None, ()):
        found = PREDICTOR.apply(space, child, architecture, statistics, IMAGES[:2])
        pixels = (np.float64(IMAGES[:2]) - [10, 20, 30]) / [2, 4, 8]
        scores = layers_in_numpy(child, [0, 1], pixels)
        expected = scores - np.logaddexp.reduce(scores, -1, keepdims=True)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert jax.tree.leaves(PREDICTOR.statistics_form(space, child, architecture)) == []


def test_batch_statistics_have_the_form_that_the_network_returns():
    space = Normalized((4, 6, 3), 2)
    child = {"kernel": np.ones((1, 72, 2), np.float32)}
    mean, variance = PREDICTOR.statistics_form(space, child, Architecture(np.zeros(1)))
    assert mean.shape == variance.shape == (3,)
    statistics = Moments(np.float32([1, 2, 3]), np.float32([0.9, 1.9, 3.9]))
    found = PREDICTOR.apply(space, child, Architecture(None), statistics, IMAGES[:2])
    np.testing.assert_allclose(found, np.log(0.5), rtol=1e-5)  # Equal kernels.


def test_one_image_and_one_channel_may_lack_their_axis():
    assert PREDICTOR.prepare(IMAGES[0]).shape == (1, 4, 6, 3)
    assert GREY.prepare(np.zeros((5, 2, 2), np.uint8)).shape == (5, 2, 2, 1)
    assert GREY.prepare(np.zeros((2, 2), np.uint8)).shape == (1, 2, 2, 1)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (IMAGES / 255, "are float64, expected uint8 from 0 to 255"),
        (IMAGES[:, :3], r"shape \(70, 3, 6, 3\), expected \[n, 4, 6, 3\]"),
        (IMAGES[None], "expected"),
    ],
)
def test_wrong_arrays_are_named(inputs, said):
    with pytest.raises(UserError, match=said):
        PREDICTOR.prepare(inputs)


def test_a_file_of_another_size_is_named_or_resized_as_in_training(tmp_path):
    Image.fromarray(IMAGES[0, :, :5]).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a\.png has 4 x 5 pixels .* expected 4 x 6"):
        list(PREDICTOR.table(tmp_path, predict).rows)
    resizing = dataclasses.replace(PREDICTOR, resize=True)
    assert len(list(resizing.table(tmp_path, predict).rows)) == 1


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(UserError, match="a folder without image files"):
        PREDICTOR.table(tmp_path, predict)
    with pytest.raises(UserError, match="nowhere"):
        PREDICTOR.table(tmp_path / "nowhere", predict)
    (tmp_path / "images.npy").write_text("no array")
    with pytest.raises(UserError, match="cannot be read as an array of images"):
        PREDICTOR.table(tmp_path / "images.npy", predict)
