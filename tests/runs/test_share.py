"""Shares of a list: together they are the list, and no item is in two."""

import pytest

from wpl_jax.errors import UserError
from wpl_jax.runs.share import Share


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shares_divide_a_list(count):
    shares = [Share.parse(f"{number}/{count}") for number in range(1, count + 1)]
    parts = [share.of(range(7)) for share in shares]
    assert sorted(item for part in parts for item in part) == list(range(7))
    assert parts[0] == list(range(0, 7, count))
    assert [str(share) for share in shares][-1] == f"{count}/{count}"
    assert shares[0].is_whole == (count == 1)


@pytest.mark.parametrize(
    "text", ["", "0/2", "3/2", "1", "1/", "/2", "1/2/3", "-1/2", "a/b", "1.0/2", " 1/2"]
)
def test_what_is_no_share_is_a_user_error(text):
    with pytest.raises(UserError, match="1 <= I <= N") as caught:
        Share.parse(text)
    assert f"--share={text!r}" in str(caught.value)
