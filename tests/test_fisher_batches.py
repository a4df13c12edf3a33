"""Fishers over iterators of batches, and of what is trained, against one batch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers.raising import assert_says
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import wpl_jax

RNG = np.random.default_rng(0)
N, SIZE = 22, 8
X = RNG.normal(size=(N, 3)).astype(np.float32)
PARAMS = {
    "w": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=4), jnp.float32),
}


def logits(p, x):
    return jnp.tanh(x @ p["w"]) + p["b"]


def loss(p, example):
    return jnp.sum(jnp.sin(logits(p, example["x"])))


PER_EXAMPLE = functools.partial(wpl_jax.per_example_fisher, loss, chunk_size=3)


def batches(filler=5.0):
    """Batches of one size; the last one is padded, and has no real row after it."""
    for start in range(0, N, SIZE):
        x = X[start : start + SIZE]
        padding = np.full((SIZE - len(x), 3), filler, np.float32)
        mask = np.arange(SIZE) < len(x)
        yield {"x": np.concatenate([x, padding]), "mask": mask}


def assert_close(got, want, rtol=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(g, w, rtol, 1e-7)


def of(estimate, batches, **options):
    return wpl_jax.fisher_of_batches(
        estimate, PARAMS, batches, weights=lambda batch: batch["mask"], **options
    )


ESTIMATORS = {
    "per example": PER_EXAMPLE,
    "exact": functools.partial(wpl_jax.exact_fisher, lambda p, e: logits(p, e["x"])),
    "mas": functools.partial(
        wpl_jax.memory_aware_synapses, lambda p, e: logits(p, e["x"])
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_batches_are_the_examples_together(name):
    whole = ESTIMATORS[name](PARAMS, {"x": jnp.asarray(X)})
    assert_close(of(ESTIMATORS[name], batches()), whole)


def test_batches_without_padding_may_differ_in_size():
    parts = ({"x": X[:5]}, {"x": X[5:12]}, {"x": jnp.asarray(X[12:])})
    got = wpl_jax.fisher_of_batches(PER_EXAMPLE, PARAMS, iter(parts))
    assert_close(got, PER_EXAMPLE(PARAMS, {"x": jnp.asarray(X)}))


def test_it_compiles_once_for_all_batches_of_a_size():
    traces = []

    def estimate(params, batch, weights):
        traces.append(batch)
        return PER_EXAMPLE(params, batch, weights=weights)

    of(estimate, (batch for _ in range(3) for batch in batches()))
    assert len(traces) == 1


def test_equal_estimates_compile_once_and_arrays_in_them_are_read():
    traces = []

    def shifted(p, example):
        traces.append(1)
        return loss(p, example)

    def of_partial(chunk_size):
        estimate = functools.partial(
            wpl_jax.per_example_fisher, shifted, chunk_size=chunk_size
        )
        wpl_jax.fisher_of_batches(estimate, PARAMS, [{"x": X}])
        return len(traces)

    first = of_partial(3)
    assert of_partial(3) == first
    assert of_partial(4) > first

    def scaled(scale, params, batch):
        return jax.tree.map(lambda f: scale * f, PER_EXAMPLE(params, batch))

    one, two = (
        wpl_jax.fisher_of_batches(
            functools.partial(scaled, jnp.float32(scale)), PARAMS, [{"x": X}]
        )
        for scale in (1, 2)
    )
    assert_close(two, jax.tree.map(lambda f: 2 * f, one))


def test_what_is_traced_is_not_kept():
    def of(scale):
        def scaled(p, example):
            return scale * loss(p, example)

        estimate = functools.partial(wpl_jax.per_example_fisher, scaled)
        params = jax.tree.map(lambda p: scale * p, PARAMS)
        return wpl_jax.fisher_of_batches(estimate, params, [{"x": X[:2]}])

    with jax.checking_leaks():
        jax.eval_shape(of, 2.0)


def test_each_batch_draws_with_a_key_of_its_own():
    estimate = functools.partial(
        wpl_jax.exact_fisher, lambda p, e: logits(p, e["x"]), samples=1
    )
    same = [next(batches())] * 3
    key = jax.random.key(3)
    got = of(estimate, same, key=key)
    want = [
        estimate(PARAMS, same[0], key=jax.random.fold_in(key, i), weights=None)
        for i in range(3)
    ]
    assert not np.allclose(want[0]["w"], want[1]["w"])
    assert_close(got, jax.tree.map(lambda *f: np.mean(f, 0), *want))


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_batches_on_several_devices(kind):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,), devices=jax.devices()[:4])
    divided = NamedSharding(mesh, PartitionSpec("d"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    with jax.set_mesh(mesh):
        got = wpl_jax.fisher_of_batches(
            PER_EXAMPLE,
            jax.device_put(PARAMS, everywhere),
            (jax.device_put(batch, divided) for batch in batches()),
            weights=lambda batch: batch["mask"],
        )
    assert_close(jax.device_get(got), PER_EXAMPLE(PARAMS, {"x": jnp.asarray(X)}))


def test_iterators_that_have_nothing_are_named():
    assert_says(lambda: of(PER_EXAMPLE, []), ["batches was empty"])
    none = [{"x": X[:2], "mask": np.zeros(2)}]
    assert_says(lambda: of(PER_EXAMPLE, none), ["all weights are 0"])


# What is trained.


MASKS = {
    "a tree": {"b": False, "w": True},
    "a function": lambda params: {name: name == "w" for name in params},
}


@pytest.mark.parametrize("mask", MASKS)
def test_what_is_frozen_has_no_fisher(mask):
    examples = {"x": jnp.asarray(X)}
    of_trained, part = wpl_jax.trained_only(loss, PARAMS, MASKS[mask])
    found = wpl_jax.per_example_fisher(of_trained, part, examples)
    assert len(jax.tree.leaves(found)) == 1
    want = wpl_jax.per_example_fisher(loss, PARAMS, examples)["w"]
    assert_close(found["w"], want)
    # It is the Fisher of a masked penalty, which takes the anchor with all parameters.
    tx = optax.chain(
        optax.masked(wpl_jax.weight_plasticity(2.0), MASKS[mask]), optax.sgd(1.0)
    )
    state = wpl_jax.consolidate(tx.init(PARAMS), PARAMS, found)
    moved = jax.tree.map(lambda p: p + 0.5, PARAMS)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, moved), state, moved)
    np.testing.assert_allclose(updates["w"], -2 * want * 0.5, rtol=1e-5)
    assert not np.any(updates["b"])


def test_a_prefix_tells_what_is_trained():
    params = {"base": PARAMS, "lora": {"a": jnp.ones(4)}}
    mask = {"base": False, "lora": True}

    def with_lora(p, example):
        return jnp.sum(logits(p["base"], example["x"]) * p["lora"]["a"])

    of_trained, part = wpl_jax.trained_only(with_lora, params, mask)
    examples = {"x": jnp.asarray(X)}
    found = wpl_jax.per_example_fisher(of_trained, part, examples)
    values = jax.vmap(lambda x: logits(PARAMS, x))(X)
    np.testing.assert_allclose(found["lora"]["a"], np.mean(values**2, 0), rtol=1e-5)
    nothing = {"base": False, "lora": False}
    assert_says(lambda: wpl_jax.trained_only(with_lora, params, nothing), ["no True"])


@pytest.mark.slow
def test_nnx_lora_alone_has_a_fisher():
    """With the filters of NNX: the optimizer and the Fisher have LoRA alone."""
    model = nnx.LoRALinear(3, 4, lora_rank=2, rngs=nnx.Rngs(0))
    model.lora.lora_b[...] = 0.5 * jnp.ones((2, 4))
    tx = optax.chain(wpl_jax.weight_plasticity(1.0), optax.sgd(0.1))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.LoRAParam)
    graph, lora, rest = nnx.split(model, nnx.LoRAParam, ...)

    def of_lora(lora, x):
        return jnp.sum(jnp.sin(nnx.merge(graph, lora, rest)(x)))

    fisher = wpl_jax.per_example_fisher(of_lora, lora, jnp.asarray(X))
    optimizer.opt_state = wpl_jax.consolidate(optimizer.opt_state, lora, fisher)
    (state,) = wpl_jax.plasticity_states(optimizer.opt_state)
    assert len(jax.tree.leaves(state.fisher)) == 2
    each = jax.vmap(jax.grad(of_lora), (None, 0))(lora, jnp.asarray(X))
    for got, gradient in zip(
        jax.tree.leaves(state.fisher), jax.tree.leaves(each), strict=True
    ):
        np.testing.assert_allclose(got, np.mean(np.square(gradient), 0), rtol=1e-4)


def test_linen_layers_that_are_frozen_have_no_fisher():
    model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(2)])
    params = model.init(jax.random.key(0), X[0])
    mask = {"params": {"layers_0": False, "layers_2": True}}
    of_trained, part = wpl_jax.trained_only(
        lambda p, x: jnp.sum(model.apply(p, x) ** 2), params, mask
    )
    found = wpl_jax.per_example_fisher(of_trained, part, jnp.asarray(X))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(found)]
    assert names == [f"['params']['layers_2']['{n}']" for n in ("bias", "kernel")]
