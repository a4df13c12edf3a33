"""Text laid out as parallel streams."""

import numpy as np
import pytest

from wpl_jax.data import batchify


def test_streams_are_contiguous():
    streams = batchify(np.arange(11, dtype=np.int32), 3)
    assert streams.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert streams.dtype == np.dtype("int32")


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_integers_of_any_kind(dtype):
    streams = batchify(np.arange(8, dtype=dtype), np.int64(2))
    assert streams.dtype == np.dtype("int32")
    assert streams.shape == (2, 4)


def test_is_a_copy():
    tokens = np.arange(8, dtype=np.int32)
    batchify(tokens, 2)[0, 0] = 7
    assert tokens[0] == 0


def test_exactly_one_batch(data_error):
    assert batchify(np.arange(24), 4, length=5).shape == (4, 6)
    with data_error("valid", "23 tokens", "set batch_size=3 or lower"):
        batchify(np.arange(23), 4, length=5, name="valid")
    assert batchify(np.arange(8), 4).shape == (4, 2)
    with data_error("tokens", "7 tokens", "set batch_size=3 or lower"):
        batchify(np.arange(7), 4)


def test_needed_tokens_are_named(data_error):
    tokens = np.arange(1100)
    with data_error("test", "1,100 tokens", "set batch_size=30 or lower"):
        batchify(tokens, 32, 35, "test")
    with pytest.raises(ValueError, match=r"at least 1,152 .* = 32 \* 36"):
        batchify(tokens, 32, 35, "test")


@pytest.mark.parametrize("length", [None, 35])
def test_no_batch_size_is_small_enough(length, data_error):
    with data_error("tokens", "0 tokens", "longer text"):
        batchify([], 2, length)


@pytest.mark.parametrize("tokens", [[[1, 2]], [0.5, 1.0], [True, False], 3, ["a"]])
def test_tokens_of_a_wrong_kind(tokens, data_error):
    with data_error("tokens", "shape", "TextDataset"):
        batchify(tokens, 1)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, None, "2"])
def test_sizes_of_a_wrong_kind(size, data_error):
    with data_error("argument batch_size", repr(size), "batch_size=1"):
        batchify(np.arange(8), size)
    if size is not None:
        with data_error("argument length", repr(size), "length=1"):
            batchify(np.arange(8), 1, size)
