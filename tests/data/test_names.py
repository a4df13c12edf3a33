"""Names of files that hold more than letters, in what is printed."""

import os
import shutil

import numpy as np
import pytest

from wpl_jax.data import DataError, load_images, load_text, open_images
from wpl_jax.tasks.image_classification import ImageClassification
from wpl_jax.tasks.language_model import LanguageModel

NAMES = {
    b"im\xffg": r"im\udcffg",
    b"im\x1b[2Jg": r"im\x1b[2Jg",
    b"im\ng": "im g",
    "im\u202eg".encode(): r"im\u202eg",
    "bild-ä 図".encode(): "bild-ä 図",
}


@pytest.fixture(params=NAMES, ids=list(map(ascii, NAMES)))
def named(request, tmp_path):
    """A path with such a name, and how it is printed."""
    return tmp_path / os.fsdecode(request.param), f"{tmp_path}/{NAMES[request.param]}"


def test_images(named, random_images):
    path, printed = named
    with path.open("wb") as file:
        np.savez(
            file,
            train_images=random_images(20),
            train_labels=np.arange(20) % 2,
            test_images=random_images(6, seed=1),
            test_labels=np.arange(6) % 2,
        )
    data = load_images("npz", path)
    assert data.source == printed
    ImageClassification(None).describe(
        data
    ).encode()  # What cannot be encoded cannot be printed.
    with pytest.raises(DataError) as caught:
        open_images("npz", path, train_images="other")
    assert str(caught.value).startswith(f"{printed}[other]: found")
    with pytest.raises(DataError) as caught:
        open_images("npz", path, valid=99)
    assert str(caught.value).startswith(f"{printed}: found")


def test_text(named):
    path, printed = named
    path.mkdir()
    for name in ("train", "valid", "test"):
        (path / f"{name}.txt").write_text(f"{name} text")
    data = load_text("folder", path)
    assert data.source == printed
    LanguageModel(None).describe(data).encode()


def test_what_is_missing_and_what_is_near(named):
    path, printed = named
    with pytest.raises(DataError, match="nothing") as caught:
        load_images("npz", path)
    assert str(caught.value).startswith(f"{printed}: found")
    path.touch()
    with pytest.raises(DataError) as caught:
        load_images("npz", path.parent / "img")
    assert printed.rpartition("/")[2] in str(caught.value)
    assert str(caught.value).isprintable()
    path.unlink()
    (path / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no folder train") as caught:
        load_images("folder", path)
    assert str(caught.value).isprintable()
    shutil.rmtree(path)
