"""Trees with PRNG keys: their numbers, and keys of the same implementation again."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.common.trees import with_keys, without_keys

KINDS = {"threefry2x32": 2, "rbg": 4, "unsafe_rbg": 4}  # numbers of each


def make_tree(kind):
    keys = jax.random.split(jax.random.key(3, impl=kind), (2, 5))
    return {"keys": keys, "rest": [np.float32([1, 2]), jnp.int8(3)]}


@pytest.mark.parametrize("form", ["arrays", "forms"])
@pytest.mark.parametrize("kind", KINDS)
def test_keys_come_back_with_their_implementation(kind, form):
    tree = make_tree(kind)
    like = tree
    if form == "forms":
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
    data = without_keys(tree)
    assert data["keys"].shape == (2, 5, KINDS[kind])
    assert jax.tree.map(np.shape, without_keys(like)) == jax.tree.map(np.shape, data)
    # As read from a file.
    found = with_keys(jax.tree.map(np.asarray, data), like)
    assert str(jax.random.key_impl(found["keys"])) == kind
    np.testing.assert_array_equal(
        jax.random.key_data(found["keys"]), jax.random.key_data(tree["keys"])
    )
    np.testing.assert_array_equal(
        jax.random.uniform(found["keys"][1, 4]), jax.random.uniform(tree["keys"][1, 4])
    )
    assert found["rest"] == [pytest.approx([1, 2]), 3]
