"""The pool of NAO, against sets and sorting done by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from helpers.toy import ToySpace

from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.nasbench201_architectures import canonical_form
from wpl_jax.strategies import nao_pool
from wpl_jax.strategies.nao_pool import Found, Pool
from wpl_jax.supernet import Decision, Space

NB201 = NasBench201((8, 8, 3), 10, exclude_none=True)
MICRO, TOY = MicroCell((8, 8, 3), 10, num_nodes=2), ToySpace()


class Large(Space):
    """Decisions of different sizes."""

    name = "large"
    decisions = tuple(
        Decision(str(i), tuple(map(str, range(n)))) for i, n in enumerate((3, 5, 2, 7))
    )


def make_pool(rewards, born):
    places = np.arange(len(rewards))
    return Pool(
        jnp.stack([places, places + 10], 1).astype(jnp.int32),
        jnp.array(rewards, jnp.float32),
        jnp.array(born, jnp.int32),
    )


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def init(space, key, places, number):
    return nao_pool.init(space, key, places, number)


def rows(choices):
    return {tuple(choice) for choice in np.asarray(choices).tolist()}


def test_a_pool_starts_with_distinct_architectures():
    pool = init(Large(), jax.random.key(0), 150, 120)
    np.testing.assert_array_equal(pool.born, [-1] * 30 + [0] * 120)
    assert len(rows(pool.choices[pool.filled])) == 120  # of 210
    assert np.all(np.isnan(pool.rewards))
    assert np.all(np.isin(np.arange(7), pool.choices[:, 3]))


def test_a_small_space_fills_fewer_places():
    pool = init(TOY, jax.random.key(0), 20, 12)
    assert int(pool.filled.sum()) == 9
    every = {(a, b) for a in range(3) for b in range(3)}
    assert rows(pool.choices[pool.filled]) == every


def test_isomorphic_architectures_are_one():
    pool = init(NB201, jax.random.key(0), 300, 300)
    forms = {canonical_form(choice + 1) for choice in np.asarray(pool.choices)}
    assert len(forms) == 300

    first = {}  # of each form, among all architectures in order
    every = np.array(np.unravel_index(np.arange(4**6), (4,) * 6)).T
    for choice in every:
        first.setdefault(canonical_form(choice + 1), choice)
    expected = [first[canonical_form(choice + 1)] for choice in every]
    found = jax.jit(functools.partial(nao_pool.representatives, NB201))(every)
    np.testing.assert_array_equal(found, expected)


def test_what_is_not_listed_represents_itself():
    every = jnp.array([[2, 1], [0, 2]])
    np.testing.assert_array_equal(nao_pool.representatives(TOY, every), every)


def test_architectures_with_exchanged_branches_are_one():
    choices = np.asarray(
        jax.vmap(MICRO.sample)(jax.random.split(jax.random.key(0), 40))
    )
    nodes = choices.reshape(40, -1, 2, 2)  # inputs of both branches, then operations
    swapped = nodes[..., ::-1].reshape(40, -1)
    found, other = (
        np.asarray(nao_pool.representatives(MICRO, x)) for x in (choices, swapped)
    )
    np.testing.assert_array_equal(found, other)
    for choice, one in zip(nodes, found.reshape(nodes.shape), strict=True):
        for branches, ordered in zip(choice, one, strict=True):
            # Sorted by inputs, then by operations.
            assert sorted(branches.T.tolist()) == ordered.T.tolist()


def test_new_ones_are_neither_known_nor_twice():
    pool = make_pool([1, 2, 3], [0, 1, -1])  # (2, 12) is no architecture of it
    found = Found(jnp.array([[7, 7], [0, 0], [0, 0], [0, 0]]), jnp.int32(1))
    proposals = jnp.array([[0, 10], [2, 12], [7, 7], [5, 5], [2, 12], [0, 0], [8, 8]])
    found = jax.jit(nao_pool.add_new)(pool, found, proposals)
    assert int(found.number) == 4  # There is no place for the last one.
    np.testing.assert_array_equal(found.choices, [[7, 7], [2, 12], [5, 5], [0, 0]])


def test_tries_end_when_the_buffer_is_full_or_the_tries_are_over():
    pool = make_pool([1.0], [0])

    @functools.partial(jax.jit, static_argnums=0)
    def collect(tries):
        def propose(number):
            return jnp.stack([jnp.array([number, 0]), jnp.array([number, number])])

        return nao_pool.collect(pool, nao_pool.nothing(5, 2), propose, tries)

    assert int(collect(2).number) == 3  # (0, 0), (1, 0), (1, 1)
    assert rows(collect(9).choices) == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 2)}


def test_empty_places_then_the_lowest_rewards_are_replaced():
    pool = make_pool([0.5, np.nan, 0.1, 0.75, 0.3], [0, -1, 1, 0, 1])
    found = Found(jnp.array([[20, 20], [21, 21], [22, 22], [23, 23]]), jnp.int32(3))
    after = jax.jit(nao_pool.replace_worst)(pool, found, jnp.int32(2))
    np.testing.assert_array_equal(
        after.choices, [[0, 10], [20, 20], [21, 21], [3, 13], [22, 22]]
    )
    np.testing.assert_array_equal(after.rewards, [0.5, np.nan, np.nan, 0.75, np.nan])
    np.testing.assert_array_equal(after.born, [0, 2, 2, 0, 2])
    np.testing.assert_array_equal(after.newest, [0, 1, 1, 0, 1])
    np.testing.assert_array_equal(after.measured, [1, 0, 0, 1, 0])


def test_the_order_is_by_value_with_empty_places_last():
    pool = make_pool([0.0] * 5, [0, 0, -1, 0, 0])
    order = nao_pool.order(pool, jnp.array([0.2, np.nan, 9.0, 0.7, -np.inf]))
    assert order.tolist()[:2] == [3, 0]
    assert set(order.tolist()[2:4]) == {1, 4}
    assert order.tolist()[4] == 2
