import numpy as np
import pytest

from wpl_jax.data import Split
from wpl_jax.data.images.holdout import hold_out


def _numbered(counts):
    """Examples in mixed order whose one pixel is the example's own number."""
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    labels = np.random.default_rng(1).permutation(labels)
    return Split(np.arange(len(labels)).reshape(-1, 1, 1, 1), labels)


def _hold_out(split, share, seed=0, argument="valid"):
    return hold_out(split, share, seed=seed, argument=argument, source="numbers")


@pytest.mark.parametrize("share", [1, 3, 10, 0.1, 0.35, 0.5, 90])
@pytest.mark.parametrize("counts", [[50, 50], [90, 9, 1], [1, 97, 2], [34, 33, 33]])
def test_parts_are_a_stratified_partition(counts, share):
    split = _numbered(counts)
    rest, held = _hold_out(split, share)
    total = share if isinstance(share, int) else round(share * 100)
    numbers, held_numbers = rest.images.ravel(), held.images.ravel()
    assert len(held.labels) == total
    assert sorted([*numbers, *held_numbers]) == list(range(100))
    for part in (rest, held):
        part_numbers = part.images.ravel()
        assert (np.diff(part_numbers) > 0).all()
        np.testing.assert_array_equal(part.labels, split.labels[part_numbers])
    taken = np.bincount(held.labels, minlength=len(counts))
    assert (taken < counts).all()
    exact = np.array(counts) * total / 100
    # Off by less than one, but where a class of one has to stay as it is.
    assert (abs(taken - exact) <= 1 + sum(c == 1 for c in counts)).all()


def test_seed_decides_and_argument_separates():
    split = _numbered([200, 200])
    first = _hold_out(split, 0.5)[1].images
    assert np.array_equal(first, _hold_out(split, 0.5)[1].images)
    assert not np.array_equal(first, _hold_out(split, 0.5, seed=1)[1].images)
    assert not np.array_equal(first, _hold_out(split, 0.5, argument="test")[1].images)


@pytest.mark.parametrize("share", [99, 0.99, 1000, 0.001])
def test_share_out_of_range(share, data_error):
    with data_error("numbers", f"valid={share}", "choose valid"):
        _hold_out(_numbered([50, 50]), share)


def test_largest_share_leaves_one_of_each():
    rest, _ = _hold_out(_numbered([5, 1, 14]), 17)
    assert sorted(rest.labels) == [0, 1, 2]
