"""A search on a folder of images of one's own, of several sizes and without splits."""

import numpy as np
import pytest
from PIL import Image

from configs import gaea_nb201_small
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.search_config import make_plan, make_search


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(100):
            pixels = rng.integers(0, 256, (20 + i % 3, 24, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.jpg")
    return tmp_path


def test_the_configuration_needs_the_path_alone(folder):
    config = gaea_nb201_small.get_config("folder")
    config.task.data.path = str(folder)
    config = expand(config)[0].config
    search, _, about = make_search(config)
    make_plan(config, search)
    assert "images 128 train, 32 valid, 40 test, 16x16x3; 2 classes" in about
