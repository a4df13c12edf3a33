"""Fishers of examples and parameters that lie on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from wpl_jax import (
    batch_fisher,
    exact_fisher,
    ggn_diagonal,
    memory_aware_synapses,
    per_example_fisher,
)

DEVICES = 4


def loss(p, x):
    standardized = (p["w"] - p["w"].mean(0)) / 2
    x = jnp.tanh(x @ standardized + p["b"])
    return jnp.sum(jnp.tanh(x @ p["v"]) * p["table"][jnp.int32(x.shape[0])])


def problem():
    rng = np.random.default_rng(0)
    shapes = {"w": (5, 8), "b": (8,), "v": (3, 8, 4), "table": (9, 4)}
    params = {
        name: jnp.asarray(rng.normal(size=shape), jnp.float32)
        for name, shape in shapes.items()
    }
    params["v"] = params["v"][0]
    return params, jnp.asarray(rng.normal(size=(24, 5)), jnp.float32)


ESTIMATORS = {
    "per example": functools.partial(per_example_fisher, loss, chunk_size=8),
    "batch": functools.partial(batch_fisher, loss, batch_size=12),
}


@functools.cache
def on_one_device(estimator):
    return ESTIMATORS[estimator](*problem())


def assert_equal(got, want):
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=2e-5, atol=1e-6)


# Without jit each operation is a program of its own: two cases of it.
@pytest.mark.slow_except("per example-*")
@pytest.mark.parametrize(
    ("estimator", "kind", "divided", "jit"),
    [
        (estimator, kind, divided, True)
        for estimator in ESTIMATORS
        for kind in (AxisType.Explicit, AxisType.Auto)
        for divided in ("examples", "weights")
    ]
    + [
        ("per example", AxisType.Explicit, "examples", False),
        ("batch", AxisType.Auto, "weights", False),
    ],
)
def test_on_a_mesh_as_on_one_device(estimator, kind, divided, jit):
    params, examples = problem()
    function, want = ESTIMATORS[estimator], on_one_device(estimator)
    mesh = jax.make_mesh(
        (DEVICES,), ("d",), axis_types=(kind,), devices=jax.devices()[:DEVICES]
    )

    def put(x, *spec):
        return jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))

    with jax.set_mesh(mesh):
        if divided == "examples":
            params, examples = jax.tree.map(put, params), put(examples, "d")
        else:
            examples = put(examples)
            params = {
                name: put(p, *[None] * (p.ndim - 1), "d") for name, p in params.items()
            }
        got = (jax.jit(function) if jit else function)(params, examples)
    assert_equal(jax.device_get(got), want)


@pytest.mark.parametrize(
    "estimator", [per_example_fisher, batch_fisher], ids=["per example", "batch"]
)
def test_in_a_shard_map_squares_come_before_the_sum_over_devices(estimator):
    params, examples = problem()
    # Each device has a batch of its own.
    whole = {"batch_size": 6} if estimator is batch_fisher else {}
    want = estimator(loss, params, examples, **whole)
    mesh = jax.make_mesh((DEVICES,), ("d",), devices=jax.devices()[:DEVICES])

    def mean(params, examples):
        return jax.lax.pmean(estimator(loss, params, examples), "d")

    spec = PartitionSpec()
    mapped = jax.shard_map(
        mean, mesh=mesh, in_specs=(spec, PartitionSpec("d")), out_specs=spec
    )
    got = jax.jit(mapped)(
        jax.device_put(params, NamedSharding(mesh, spec)),
        jax.device_put(examples, NamedSharding(mesh, PartitionSpec("d"))),
    )
    assert_equal(jax.device_get(got), want)


def outputs(p, x):
    return jnp.tanh(x @ p["w"] + p["b"]) @ p["v"]


OF_OUTPUTS = {
    "exact": functools.partial(exact_fisher, outputs, chunk_size=8),
    "ggn": functools.partial(
        ggn_diagonal, outputs, lambda z, x: jax.nn.logsumexp(z), chunk_size=8
    ),
    "mas": functools.partial(memory_aware_synapses, outputs, chunk_size=8),
}


@pytest.mark.slow_except("mas")
@pytest.mark.parametrize("name", OF_OUTPUTS)
def test_estimators_of_outputs_on_a_mesh_and_in_a_shard_map(name):
    params, examples = problem()
    estimate, want = OF_OUTPUTS[name], OF_OUTPUTS[name](params, examples)
    mesh = jax.make_mesh((DEVICES,), ("d",), devices=jax.devices()[:DEVICES])
    everywhere, divided = (
        NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), ("d",))
    )
    params, examples = jax.device_put((params, examples), (everywhere, divided))
    with jax.set_mesh(mesh):
        got = jax.jit(estimate)(params, examples)
    assert_equal(jax.device_get(got), want)
    mapped = jax.shard_map(
        lambda params, examples: jax.lax.pmean(estimate(params, examples), "d"),
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec("d")),
        out_specs=PartitionSpec(),
    )
    assert_equal(jax.device_get(jax.jit(mapped)(params, examples)), want)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_random_signs_on_a_mesh_are_those_of_one_device(kind):
    params, examples = problem()
    sampled = functools.partial(
        exact_fisher, outputs, chunk_size=8, samples=2, key=jax.random.key(3)
    )
    want = sampled(params, examples)
    mesh = jax.make_mesh(
        (DEVICES,), ("d",), axis_types=(kind,), devices=jax.devices()[:DEVICES]
    )
    everywhere, divided = (
        NamedSharding(mesh, PartitionSpec(*spec)) for spec in ((), ("d",))
    )
    params, examples = jax.device_put((params, examples), (everywhere, divided))
    with jax.set_mesh(mesh):
        got = jax.jit(sampled)(params, examples)
    assert_equal(jax.device_get(got), want)


def test_random_signs_in_a_shard_map_are_drawn_by_each_device():
    """Each device has its own examples and key: the mean over the devices."""
    params, examples = problem()
    sampled = functools.partial(exact_fisher, outputs, samples=2)
    mesh = jax.make_mesh((DEVICES,), ("d",), devices=jax.devices()[:DEVICES])

    def mean(params, examples, key):
        key = jax.random.fold_in(key, jax.lax.axis_index("d"))
        return jax.lax.pmean(sampled(params, examples, key=key), "d")

    everywhere, divided = PartitionSpec(), PartitionSpec("d")
    mapped = jax.shard_map(
        mean,
        mesh=mesh,
        in_specs=(everywhere, divided, everywhere),
        out_specs=everywhere,
    )
    key = jax.random.key(3)
    got = jax.jit(mapped)(
        jax.device_put(params, NamedSharding(mesh, everywhere)),
        jax.device_put(examples, NamedSharding(mesh, divided)),
        key,
    )
    alone = jax.jit(lambda params, part, key: sampled(params, part, key=key))
    each = [
        alone(params, part, jax.random.fold_in(key, i))
        for i, part in enumerate(jnp.split(examples, DEVICES))
    ]
    want = jax.tree.map(lambda *f: np.mean(np.float64(f), 0), *each)
    assert_equal(jax.device_get(got), want)
    # Not the same draws on each device.
    same = [alone(params, p, key) for p in jnp.split(examples, DEVICES)]
    other = jax.tree.map(lambda *f: np.mean(np.float64(f), 0), *same)
    assert not np.allclose(other["w"], want["w"], rtol=1e-3)
