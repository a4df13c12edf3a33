"""Random orders of which single places are computed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare, spearmanr

from wpl_jax.common.shuffling import shuffled


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 9, 100, 1025])
def test_every_number_stands_at_one_place(count):
    order = jax.jit(lambda key: shuffled(key, jnp.arange(count), count))
    found = order(jax.random.key(count))
    assert found.dtype == jnp.int32
    assert sorted(found.tolist()) == list(range(count))


def test_some_places_are_those_of_the_whole_order():
    key, places = jax.random.key(0), jnp.array([[7, 3], [999, 0]])
    whole = jax.jit(lambda p: shuffled(key, p, 1000))(jnp.arange(1000))
    found = jax.jit(lambda p: shuffled(key, p, 1000))(places)
    np.testing.assert_array_equal(found, whole[places])


def test_orders_are_random():
    """Each number is equally often at each place, and neighbours are not."""
    keys, count = jax.random.split(jax.random.key(1), 6000), 12

    @functools.partial(jax.jit, static_argnums=1)
    @functools.partial(jax.vmap, in_axes=(0, None))
    def orders_of(keys, count):
        return shuffled(keys, jnp.arange(count), count)

    orders = np.asarray(orders_of(keys, count))
    for place in range(count):
        at_place = np.bincount(orders[:, place], minlength=count)
        assert chisquare(at_place).pvalue > 1e-4
    pairs = np.bincount(orders[:, 0] * count + orders[:, 1], minlength=count**2)
    different = pairs[np.arange(count**2) % (count + 1) > 0]
    assert chisquare(different).pvalue > 1e-4
    one, other = orders_of(keys[:2], 5000)
    assert abs(spearmanr(one, np.arange(5000)).statistic) < 0.06
    assert abs(spearmanr(one, other).statistic) < 0.06
