"""Predictions for tables: which line is of names, and what is wrong with the others."""

import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.tasks.array_predictor import ArrayPredictor

PREDICTOR = ArrayPredictor((3,), "float32", "regression")


def table_of(path, content):
    """The table of a model that predicts the sum of each line."""
    path.write_bytes(content)
    return PREDICTOR.table(path, lambda inputs: inputs.sum(1, keepdims=True))


def sums_of(path, content):
    table = table_of(path, content)
    return [(number, float(output)) for number, output in table.rows]


@pytest.mark.parametrize(
    "content",
    [
        b"1,2,3\n4,5,6\n",
        b"\xef\xbb\xbf1,2,3\r\n4,5,6\r\n",  # as spreadsheets begin a file
        b"width,height,price\n1,2,3\n4,5,6\n",
        b"0,1,2\n1.0,2,3\n4,5,6\n",  # as a data frame without names is written
        b"\xef\xbb\xbfwidth,height,price\n 1, 2, 3\n\n4,5,6",
    ],
)
def test_no_line_of_numbers_is_lost(content, tmp_path):
    assert sums_of(tmp_path / "some.csv", content) == [(0, 6), (1, 15)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"0,1,2\n4,5.5,6\n", "has the names of the columns, and is skipped"),
        (b"0,1,2\n4,5,6\n", "is an example"),  # of whole numbers all
        (b"0,1,2\n", "is an example"),
        (b"a,b,c\n4,5,6\n", "has the names of the columns, and is skipped"),
        (b"0,2,1\n4,5,6\n", "is an example"),
        (b"0,1,2.5\n4,5,6\n", "is an example"),
    ],
)
def test_what_the_first_line_was_taken_for_is_said(content, said, tmp_path):
    path = tmp_path / "some.csv"
    assert table_of(path, content).note == f"{path}: the first line {said}"


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
