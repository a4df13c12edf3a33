"""Functions and arrays on several devices: shares, averages, rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.on_devices import on

from wpl_jax.devices import capacity, sharded
from wpl_jax.devices.axis import Axis
from wpl_jax.devices.parallel import Devices

COUNTS = (1, 2, 8)


@pytest.mark.parametrize("count", COUNTS)
def test_shares_are_parts_of_the_whole(count):
    rows = np.arange(48.0, dtype=np.float32).reshape(16, 3)
    axis = Axis(count)

    def work(rows):
        share, columns = axis.shard(rows), axis.shard(rows.T, axis=1)
        weight = 1.0 + jnp.arange(len(share))[:, None]
        return (
            share.shape[0] * jnp.ones(()),
            axis.all_gather(share * 2),
            axis.sum(jnp.sum(share * weight)),
            axis.mean(jnp.mean(columns)),
        )

    size, doubled, total, mean = on(count, work, rows)
    each = 16 // count
    assert size == each
    np.testing.assert_array_equal(doubled, 2 * rows)
    weights = np.tile(np.arange(1, each + 1), count)[:, None]
    np.testing.assert_allclose(total, np.sum(rows * weights), rtol=1e-6)
    np.testing.assert_allclose(mean, rows.mean(), rtol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("items", [1, 3, 8, 13])
def test_items_are_mapped_once_each_and_in_order(count, items):
    values = np.random.default_rng(0).normal(size=(items, 2)).astype(np.float32)
    found = on(count, lambda x: Axis(count).map(lambda row: row**2, x), values)
    np.testing.assert_array_equal(found, values**2)


@pytest.mark.parametrize("count", COUNTS)
def test_sums_over_items_have_each_item_once(count):
    values = np.arange(24.0, dtype=np.float32).reshape(8, 3)

    def add(total, row):
        return total + row, row.sum()

    total, beside = on(
        count, lambda x: Axis(count).accumulate(add, jnp.zeros(3), x), values
    )
    np.testing.assert_array_equal(total, values.sum(0))
    np.testing.assert_array_equal(beside, values.sum(1))


def test_the_gradient_of_a_mean_is_that_of_all_devices_losses():
    rows = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)

    def loss(w, rows, axis):
        y = axis.shard(rows) @ w
        return jnp.mean((y - axis.mean(jnp.mean(y))) ** 3)

    def gradient_on(axis):
        return lambda w, rows: axis.mean(jax.grad(loss)(w, rows, axis))

    w = np.array([0.5, -1.0, 2.0], np.float32)
    y = np.float64(rows) @ w
    centered = y - y.mean()
    expected = (3 * centered**2) @ (rows - rows.mean(0)) / 8
    for count in COUNTS:
        found = on(count, gradient_on(Axis(count)), w, rows)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_shared_equally_is_named():
    with pytest.raises(ValueError, match=r"6 rows .* by 4 devices"):
        on(4, lambda x: Axis(4).shard(x), np.zeros(6))


def test_arguments_may_be_static_donated_and_named():
    def work(x, scale, power):
        return scale * x**power

    devices = Devices(2)
    compiled = devices.compile(work, static_argnames="power", donate_argnames=("x",))
    x, scale = devices.replicate((jnp.arange(4.0), jnp.float32(3)))
    np.testing.assert_array_equal(compiled(x, power=2, scale=scale), [0, 3, 12, 27])
    assert x.is_deleted()
    assert not scale.is_deleted()


def test_one_program_serves_a_state_that_comes_back():
    traces = []

    def work(state, number):
        traces.append(1)
        return jax.tree.map(lambda x: x + number, state)

    devices = Devices(8)
    compiled = devices.compile(work, donate_argnames="state")
    state = devices.replicate({"a": jnp.zeros(3), "b": jnp.ones((2, 2))})
    for _ in range(3):
        state = compiled(state, np.int32(2))
    np.testing.assert_array_equal(state["b"], np.full((2, 2), 7))
    assert len(traces) == 1


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("rows", [3, 16, 21])
def test_every_device_gets_the_rows_it_asks_for_wherever_they_are(count, rows):
    rng = np.random.default_rng(0)
    array = rng.integers(1, 256, (rows, 2, 3), np.uint8)
    asked = rng.integers(0, rows, (count, 5, 2))
    asked[0, 0] = 0, rows - 1
    devices = Devices(count)
    here = devices.rows_here(rows)
    np.testing.assert_array_equal(here, np.arange(rows))  # One process has all devices.
    axis, data = devices.every, {"images": devices.shard(array, rows), "other": asked}

    def work(data, asked):
        found = data["images"][axis.shard(asked)[0]]  # Another one's are others.
        return axis.all_gather(found[None]), data["images"][asked[0]], data["other"]

    found, same, other = on(count, work, data, asked)
    np.testing.assert_array_equal(found, array[asked])
    np.testing.assert_array_equal(same, array[asked[0]])
    assert found.dtype == same.dtype == np.uint8
    np.testing.assert_array_equal(other, asked)


def test_what_is_divided_takes_a_devices_part_of_the_memory():
    devices = Devices(4)
    data = devices.shard(np.zeros((10, 6), np.int16), 10), np.zeros(5, np.float32)
    assert capacity.bytes_of_each(data) == 3 * 6 * 2 + 5 * 4
    whole, other = sharded.unsharded(data)
    assert (whole.shape, whole.dtype) == ((10, 6), np.int16)
    assert other is data[1]
    assert capacity.bytes_of_each([data, data]) == capacity.bytes_of_each(data)
    assert capacity.bytes_of_exchange(data, 7) == 4 * 7 * 6 * 2
    assert capacity.bytes_of_exchange(whole, 7) == 0
    with pytest.raises(TypeError, match="no rows in order"):
        list(data[0])
    shards = data[0].part.addressable_shards
    assert [shard.data.size for shard in shards] == [18] * 4


@pytest.mark.parametrize("count", COUNTS)
def test_the_first_devices_values_go_to_all(count):
    def drifted(x):
        axis = Axis(count)
        mine = axis.shard(jnp.arange(8.0))[0]  # Other numbers on other devices.
        tree = {"x": x + mine, "n": jnp.int32(mine), "b": mine == 0}
        tree["key"] = jax.random.key(jnp.int32(mine), impl="rbg")
        first = axis.first(tree)
        assert jax.random.key_impl(first["key"]) == "rbg"
        first["key"] = jax.random.key_data(first["key"])
        return axis.all_gather(jax.tree.map(lambda y: y[None], first))

    found = on(count, drifted, np.float32(0.3))
    np.testing.assert_array_equal(found["x"], np.full(count, np.float32(0.3)))
    np.testing.assert_array_equal(found["n"], np.zeros(count))
    assert found["b"].dtype == bool
    assert np.all(found["b"])
    key = jax.random.key_data(jax.random.key(0, impl="rbg"))
    np.testing.assert_array_equal(found["key"], np.tile(key, (count, 1)))
