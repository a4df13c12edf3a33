"""Batch statistics, dropout and other state of modules with choices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.choosing import CLASSES, SHAPE, Modular

import wpl_jax
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import UserError
from wpl_jax.spaces.images import Noise
from wpl_jax.supernet import Architecture, gather

SPACE = Modular(SHAPE, CLASSES, layers=1, channels=3)
THREE, ONE, SKIP = ([i] for i in range(3))
NAMES = ["ones/0/norm", "threes/0/norm"]


@functools.cache
def params():
    return jax.jit(SPACE.init)(jax.random.key(0))


def images(count=6):
    return jax.random.normal(jax.random.key(1), (count, *SHAPE))


@functools.partial(jax.jit, static_argnums=0)
def apply(space, params, choice, images, **options):
    architecture = Architecture(choice)
    child = gather(params, space.rows(architecture))
    return space.apply(child, architecture, images, **options)


def run(choice, images, **options):
    return apply(SPACE, params(), jnp.int32(choice), images, **options)


def test_batch_statistics_are_those_of_the_chosen_branch():
    own = jax.tree.map(np.float64, SPACE.params_of(params(), whole=True))
    x = np.asarray(images(), np.float64) @ own["stem"]["kernel"][0, 0]
    x += own["stem"]["bias"]
    one = own["ones"][0]["conv"]
    y = np.maximum(np.sin(x), 0) @ one["kernel"][0, 0] + one["bias"]
    found = run(ONE, images()).batch_stats
    assert sorted(found) == NAMES
    mean, variance = found["ones/0/norm"]
    np.testing.assert_allclose(mean, y.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, y.var((0, 1, 2)), rtol=1e-4, atol=1e-5)
    # Those of the other branch are what the module started with.
    np.testing.assert_array_equal(found["threes/0/norm"].mean, 0)
    np.testing.assert_array_equal(found["threes/0/norm"].variance, 1)


def test_given_statistics_take_the_place_of_the_batchs():
    whole = run(THREE, images())
    one = run(THREE, images()[:1], batch_stats=whole.batch_stats)
    np.testing.assert_allclose(one.logits[0], whole.logits[0], rtol=1e-4, atol=1e-5)
    alone = run(THREE, images()[:1])
    assert np.abs(alone.logits - one.logits).max() > 1e-3


@pytest.mark.slow
def test_dropout_has_the_key_of_the_training_step():
    """A rate of 1 removes the branch, which is then a skipped one."""
    space = Modular(SHAPE, CLASSES, layers=1, channels=3, rate=1.0)
    options = {"noise": Noise(jax.random.key(0))}
    dropped = apply(space, params(), jnp.int32(ONE), images(), **options)
    skipped = run(SKIP, images())
    np.testing.assert_allclose(dropped.logits, skipped.logits, rtol=1e-5, atol=1e-6)
    evaluated = apply(space, params(), jnp.int32(ONE), images())
    kept = run(ONE, images())
    np.testing.assert_allclose(evaluated.logits, kept.logits, rtol=1e-5, atol=1e-6)
    half = Modular(SHAPE, CLASSES, layers=1, channels=3, rate=0.5)
    several = [
        apply(half, params(), jnp.int32(ONE), images(), noise=Noise(key)).logits
        for key in map(jax.random.key, (0, 0, 1))
    ]
    np.testing.assert_array_equal(several[0], several[1])
    assert np.abs(several[0] - several[2]).max() > 1e-3


@pytest.mark.slow
def test_devices_that_share_a_batch_agree():
    two = Devices(2)

    def logits(params, images):
        architecture = Architecture(jnp.int32(THREE))
        child = gather(params, SPACE.rows(architecture))
        axis = two.every
        images = axis.shard(images)
        found = SPACE.apply(child, architecture, images, axis=axis)
        return axis.all_gather(found.logits), found.batch_stats

    found, stats = two.compile(logits)(*two.replicate((params(), images())))
    whole = run(THREE, images())
    np.testing.assert_allclose(found, whole.logits, rtol=1e-4, atol=1e-5)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        stats,
        whole.batch_stats,
    )


class Count(nnx.Variable):
    """How often a module ran."""


class Counting(nnx.Module):
    """Counts its calls."""

    def __init__(self):
        self.calls = Count(jnp.int32(0))

    def __call__(self, x):
        self.calls[...] += 1
        return x + 1

    def twice(self, x):
        return self(self(x))


class Reaching(nnx.Module):
    """Its branches reach a module with state in each way in which they can."""

    def __init__(self, rngs):
        del rngs
        self.counting, self.other = Counting(), Counting()

    def __call__(self, x):
        def inner(x, once=self.counting):
            return once(x) * 1

        counting = [self.counting]
        branches = {
            "module": self.counting,
            "method": self.counting.twice,
            "closure": lambda x: self.counting(x),
            "default": inner,
            "partial": functools.partial(lambda m, x: m(x), self.counting),
            "list": lambda x: counting[0](x),
            "nested": lambda x: inner(x),
            "none": lambda x: x,
        }
        y = wpl_jax.choice("way", branches, x)
        return y, self.counting.calls[...], self.other.calls[...]


@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_state_is_changed_by_the_branch_that_runs(mixed):
    space = wpl_jax.space_of(Reaching, jnp.ones(2))
    child = space.init(jax.random.key(0))
    calls = [1, 2, 1, 1, 1, 1, 1, 0]
    hot = jnp.eye(8)
    for number, expected in enumerate(calls):
        weights = hot[number][None] if mixed else None
        own = Architecture(jnp.int32([number]), weights)
        y, counted, other = space.apply(child, own, jnp.zeros(2))
        np.testing.assert_array_equal(y, expected)
        assert other == 0
        if not mixed:  # All branches of a mixture run.
            assert counted == expected


def test_the_module_of_a_child_runs_with_its_choices():
    batch = images()
    for choice, name in ((THREE, "three"), (SKIP, "skip")):
        architecture = Architecture(jnp.int32(choice))
        child = gather(params(), SPACE.rows(architecture))
        stats = run(choice, batch).batch_stats
        module = SPACE.module(child, stats)
        module.eval()
        with wpl_jax.fixed_choices({"layer_0": name}):
            found = module(batch)
        expected = run(choice, batch).logits
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_function_is_no_module():
    def network(params, x):
        return wpl_jax.choice("layer", {"sin": jnp.sin, "cos": jnp.cos}, x)

    space = wpl_jax.space_of(network, jnp.ones(2), init=lambda key: {"w": jnp.ones(1)})
    with pytest.raises(UserError, match="network is a function"):
        space.module(space.init(jax.random.key(0)))


def test_making_a_space_draws_no_parameters():
    def traced_alone(key, shape, dtype, **_):
        assert isinstance(key, jax.core.Tracer)
        return jax.random.normal(key, shape, dtype)

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(3, 3, kernel_init=traced_alone, rngs=rngs)
            self.norm = nnx.BatchNorm(3, rngs=rngs)
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            branches = {"linear": self.linear, "norm": self.norm}
            return self.dropout(wpl_jax.choice("layer", branches, x))

    space = wpl_jax.space_of(Network, jnp.ones((2, 3)))
    assert space.derived.found.batch_stats.keys() == {"norm"}
