"""What the tests of the image data share."""

import contextlib
import pickle

import numpy as np
import pytest

from wpl_jax.data import DataError


@pytest.fixture
def data_error():
    """A context in which a DataError has to be raised.

    It is given the file that the message must name, a word of what is wrong and a
    word of the remedy.
    """

    @contextlib.contextmanager
    def expect(where, found, remedy):
        with pytest.raises(DataError) as caught:
            yield
        error = caught.value
        assert error.where.startswith(str(where)), error
        assert found in error.found, error
        assert remedy in error.remedy, error
        assert error.expected, error
        message = str(error)
        for part in (error.where, error.found, error.expected, error.remedy):
            assert part in message
        assert "\n" not in message
        assert str(pickle.loads(pickle.dumps(error))) == message

    return expect


@pytest.fixture
def random_images():
    """A function that makes n random images of uint8[height, width, channels]."""

    def make(n, height=4, width=5, channels=1, seed=0):
        rng = np.random.default_rng(seed)
        return rng.integers(0, 256, (n, height, width, channels), np.uint8)

    return make


def pytest_make_parametrize_id(val):
    """Names a file's content in a test's name by its length.

    The bytes themselves are long, and those of gzip hold the time, so that two
    processes of pytest-xdist would see different tests.
    """
    return f"{len(val)}_bytes" if isinstance(val, bytes) else None
