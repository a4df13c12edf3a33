"""Children as rows of shared parameters, by the public names in ``supernet``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.supernet import (
    ALL,
    PAD,
    count_parameters,
    gather,
    is_all,
    mask,
    real_rows,
    scatter,
)


def test_a_space_with_a_scalar_for_all_is_cut_and_put_back():
    params = {
        "scale": jnp.float32(2.5),
        "whole": jnp.arange(3.0),
        "stack": jnp.arange(8.0).reshape(4, 2),
        "deep": (jnp.arange(12.0).reshape(3, 2, 2),),
    }
    rows = {
        "scale": ALL,
        "whole": ALL,
        "stack": jnp.array([3, 1]),
        "deep": (jnp.array([2]),),
    }

    @jax.jit
    def cut_and_put(params):
        child = gather(params, rows)
        moved = scatter(params, rows, jax.tree.map(lambda x: -x - 1, child))
        return child, moved, mask(params, rows)

    child, moved, used = cut_and_put(params)
    assert float(child["scale"]) == 2.5
    np.testing.assert_array_equal(child["whole"], [0, 1, 2])
    np.testing.assert_array_equal(child["stack"], [[6, 7], [2, 3]])
    np.testing.assert_array_equal(child["deep"][0], [[[8, 9], [10, 11]]])

    assert float(moved["scale"]) == -3.5
    np.testing.assert_array_equal(moved["whole"], [-1, -2, -3])
    np.testing.assert_array_equal(moved["stack"], [[0, 1], [-3, -4], [4, 5], [-7, -8]])
    np.testing.assert_array_equal(
        moved["deep"][0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[-9, -10], [-11, -12]]]
    )

    assert used["scale"].shape == used["whole"].shape == ()
    assert float(used["scale"]) == float(used["whole"]) == 1
    np.testing.assert_array_equal(used["stack"], [[0], [1], [0], [1]])
    np.testing.assert_array_equal(used["deep"][0], [[[0]], [[0]], [[1]]])


@jax.jit
def cut_filled_up(params, index, other):
    """All that is done with the rows of a child, some of them of nothing."""
    rows = {"scale": ALL, "stack": index, "deep": (index,)}
    child = gather(params, rows)
    assert jax.tree.map(jnp.shape, child) == jax.tree.map(jnp.shape, other)
    return (
        child,
        scatter(params, rows, other),
        mask(params, rows),
        real_rows(child, rows),
        count_parameters(params, rows),
    )


# All of them, some, the first, the last, and none at all; in any order.
@pytest.mark.parametrize(
    "chosen", [(4, 0, 3), (2, None, 1), (None, 0, None), (None, 4, 2), (None,) * 3]
)
def test_places_of_no_row_stay_zero_and_put_nothing_back(chosen):
    rng = np.random.default_rng(0)
    shapes = {"scale": (3,), "stack": (5, 2), "deep": ((5, 2, 3),)}

    def random(count):
        """With so many rows."""
        return {
            "scale": np.float32(rng.normal(size=3)),
            "stack": np.float32(rng.normal(size=(count, 2))),
            "deep": (np.float32(rng.normal(size=(count, 2, 3))),),
        }

    params, other = random(5), random(3)
    assert jax.tree.map(np.shape, params) == shapes
    index = [PAD + i if row is None else row for i, row in enumerate(chosen)]
    there = np.array([row is not None for row in chosen])
    found = jax.device_get(cut_filled_up(params, np.array(index, np.int32), other))
    child, moved, used, filled, count = found

    np.testing.assert_array_equal(child["scale"], params["scale"])
    np.testing.assert_array_equal(moved["scale"], other["scale"])
    assert used["scale"] == filled["scale"] == 1
    parts = [
        tuple(tree["stack"] for tree in (params, other, child, moved, used, filled)),
        tuple(tree["deep"][0] for tree in (params, other, child, moved, used, filled)),
    ]
    for before, put, taken, after, in_use, present_in in parts:
        cut, left = np.zeros_like(put), before.copy()
        rows_in_use = np.zeros(5)
        for place, row in enumerate(chosen):
            if row is not None:
                cut[place], left[row] = before[row], put[place]
                rows_in_use[row] = 1
        np.testing.assert_array_equal(taken, cut)
        np.testing.assert_array_equal(after, left)
        ones = (1,) * (before.ndim - 1)
        np.testing.assert_array_equal(in_use, rows_in_use.reshape(-1, *ones))
        np.testing.assert_array_equal(present_in, there.reshape(-1, *ones))
    assert count == 3 + there.sum() * (2 + 6)
    assert count.dtype == np.int32


def test_only_all_is_all():
    assert is_all(ALL)
    assert not is_all(np.arange(3))
    assert not is_all(jnp.int32(0))
