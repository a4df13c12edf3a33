import pytest

from wpl_jax.common.counted import counted


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, ("seed",), "0 seeds"),
        (1, ("seed",), "1 seed"),
        (1000, ("seed",), "1,000 seeds"),
        (1, ("whole child", "whole children"), "1 whole child"),
        (2, ("whole child", "whole children"), "2 whole children"),
        ("1", ("batch", "batches"), "1 batch"),
        ("1 to 3", ("batch", "batches"), "1 to 3 batches"),
    ],
)
def test_a_noun_agrees_with_its_number(number, noun, expected):
    assert counted(number, *noun) == expected
