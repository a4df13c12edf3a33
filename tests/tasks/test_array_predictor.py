"""Predictions for tables: which line is of names, and what is wrong with the others."""

import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.tasks.array_predictor import ArrayPredictor

PREDICTOR = ArrayPredictor((3,), "float32", "regression")


def sums_of(path, content):
    """The sum of each line, which the model predicts."""
    path.write_bytes(content)
    table = PREDICTOR.table(path, lambda inputs: inputs.sum(1, keepdims=True))
    return [(number, float(output)) for number, output in table.rows]


@pytest.mark.parametrize(
    "content",
    [
        b"1,2,3\n4,5,6\n",
        b"\xef\xbb\xbf1,2,3\r\n4,5,6\r\n",  # as spreadsheets begin a file
        b"width,height,price\n1,2,3\n4,5,6\n",
        b"\xef\xbb\xbfwidth,height,price\n 1, 2, 3\n\n4,5,6",
    ],
)
def test_no_line_of_numbers_is_lost(content, tmp_path):
    assert sums_of(tmp_path / "some.csv", content) == [(0, 6), (1, 15)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"1,,3\n4,5,6\n", "line 1 has '' among its numbers"),
        (b'"1,5",2,3\n4,5,6\n', "line 1 has '1,5' among"),
        (b"a,b,c\n1,2,3\n4,?,6\n", "line 3 has '\\?' among"),
        (b",a,b,c\n0,1,2,3\n", "line 2 has 4 values, expected 3.*without an index"),
        (b"a;b;c\n1;2;3\n", "line 2 has 1 value, expected 3.*separated by commas"),
        (b"1,2,3\n4,5\n", "line 2 has 2 values, expected 3"),
        (b"a,b,c\n", "it has no line of numbers"),
        (b"", "it has no line of numbers"),
        (b"x" * 200_000, "cannot be read: field larger than field limit"),
        (b"1,2,nan\n", "NaN in example 0"),
    ],
)
def test_what_is_no_table_of_numbers_is_named(content, said, tmp_path):
    with pytest.raises(UserError, match=said):
        sums_of(tmp_path / "some.csv", content)


def test_inputs_are_read_as_those_of_a_task_are():
    large = np.full((2, 3), 3_000_000_000)  # of float32, which int32 cannot hold
    np.testing.assert_array_equal(PREDICTOR.prepare(large), np.float32(large))
    assert PREDICTOR.prepare(jnp.ones((2, 3), jnp.bfloat16)).dtype == np.float32
    with pytest.raises(
        UserError, match="found a value of type list that numpy cannot read"
    ):
        PREDICTOR.prepare([[1, 2, 3], [4]])
    with pytest.raises(UserError, match="masked values in example 1"):
        PREDICTOR.prepare(np.ma.masked_array(np.ones((2, 3)), [[0] * 3, [0, 1, 0]]))
