"""Files of arrays against bytes written by hand, and against the official package."""

import json

import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.runs.safetensors import read_safetensors, to_safetensors

ARRAYS = {
    "a/b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "scalar": np.float32(1.5),
    "none": np.zeros((0, 4), np.float32),
    "whole": np.array([-1, 2], np.int32),
    "turned": np.arange(6, dtype=np.float64).reshape(2, 3).T,
}


def write(path, header, content=b"", length=None):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    size = len(text) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + text + content)
    return path


def test_arrays_and_texts_come_back(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_safetensors(ARRAYS, {"about": "\N{SNOWMAN}"}))
    arrays, about = read_safetensors(path)
    assert about == {"about": "\N{SNOWMAN}"}
    assert list(arrays) == list(ARRAYS)
    for name, expected in ARRAYS.items():
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected, strict=True)


def test_the_bytes_are_those_of_the_format(tmp_path):
    content = to_safetensors({"x": np.float32([1, 2])})
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0  # Arrays are aligned.
    assert json.loads(content[8 : 8 + length]) == {
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    }
    assert content[8 + length :] == np.array([1, 2], "<f4").tobytes()


def test_the_official_package_reads_them_and_is_read(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy", reason="needs safetensors")
    arrays = {name: np.ascontiguousarray(each) for name, each in ARRAYS.items()}
    found = numpy.load(to_safetensors(arrays))
    path = tmp_path / "b.safetensors"
    numpy.save_file(arrays, path, {"about": "it"})
    again, about = read_safetensors(path)
    assert about == {"about": "it"}
    for name, expected in arrays.items():
        np.testing.assert_array_equal(found[name], expected)
        np.testing.assert_array_equal(again[name], expected)


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ({"x": ONE}, b"1234"),  # shorter than it says
        ({"x": ONE | {"data_offsets": [-8, 0]}}, b"12345678"),
        ({"x": ONE | {"data_offsets": [8, 16]}}, b"12345678"),
        ({"x": ONE | {"shape": [3]}}, b"12345678"),
        ({"x": ONE | {"shape": [-2]}}, b"12345678"),
        ({"x": ONE | {"dtype": "F99"}}, b"12345678"),
        ({"x": {"dtype": "F32"}}, b"12345678"),
        ({"x": 3}, b""),
        (b"[]", b""),
        (b"not JSON", b""),
        ({"__metadata__": 3}, b""),
    ],
)
def test_other_files_are_named(header, content, tmp_path):
    path = write(tmp_path / "x.safetensors", header, content)
    with pytest.raises(UserError, match=r"x\.safetensors is not a model that wpl_jax"):
        read_safetensors(path)


def test_files_that_are_too_short_or_not_there_are_named(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="cannot be read"):
        read_safetensors(path)
    for content in (b"", b"12345", b"A picture of a cat", b"\xff" * 20):
        path.write_bytes(content)
        with pytest.raises(UserError, match="its beginning is not that of"):
            read_safetensors(path)
