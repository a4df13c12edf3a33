"""Anchors and Fishers in fewer bits: what a state stores, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.raising import assert_says

import wpl_jax
from wpl_jax.common.storage import decode, encode

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.asarray(RNG.normal(size=(5, 7)), jnp.float32), "b": jnp.zeros(7)}
FISHER = jax.tree.map(
    lambda p: jnp.asarray(np.exp(RNG.normal(0, 5, p.shape)), jnp.float32), PARAMS
)
STORED = {"anchor_dtype": ("bfloat16", "int8"), "fisher_dtype": ("bfloat16", "uint8")}
# Relative errors: half a step of the mantissa, or of the logarithm.
ERRORS = {"bfloat16": 2**-8, "int8": 2 ** (1 / 16) - 1, "uint8": 2 ** (1 / 8) - 1}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


@pytest.mark.parametrize("name", ERRORS)
def test_numbers_come_back_within_half_a_step(name):
    x = np.geomspace(1e-3, 20, 20_000).astype(np.float32)
    x = np.concatenate([x, [0], x if name == "uint8" else -x]).astype(np.float32)
    found = np.float64(decode(encode(x, jnp.dtype(name))))
    assert (found[x == 0] == 0).all()
    off = np.abs(found - x)[x != 0] / np.abs(x[x != 0])
    assert off.max() < ERRORS[name] * 1.001
    assert off.max() > 0.9 * ERRORS[name]
    # A number that has been stored is stored again as it is.
    np.testing.assert_array_equal(
        decode(encode(found.astype("f"), jnp.dtype(name))), found
    )


def test_numbers_out_of_range():
    fisher = jnp.array([1e-14, 1e-12, 1e7, 1e30, 3.4e38])
    found = decode(encode(fisher, jnp.dtype("uint8")))
    np.testing.assert_allclose(found[1:3], fisher[1:3], rtol=0.1)
    assert found[0] == 0
    np.testing.assert_allclose(found[3:], 2**23.5, rtol=1e-5)
    anchor = decode(encode(jnp.array([1e-5, -1e3]), jnp.dtype("int8")))
    np.testing.assert_allclose(anchor, [0, -(2**4.75)], rtol=1e-5)
    largest = decode(encode(jnp.array([3.4e38, -3.4e38]), jnp.dtype("bfloat16")))
    assert np.isfinite(largest).all()


@pytest.mark.parametrize(
    "make", [wpl_jax.weight_plasticity, None], ids=["explicit", "proximal"]
)
@pytest.mark.parametrize("anchor", [None, "bfloat16", "int8"])
@pytest.mark.parametrize("fisher", [None, "bfloat16", "uint8"])
def test_a_step_is_that_of_the_numbers_that_are_stored(make, anchor, fisher):
    rate, alpha = 0.1, 0.5
    options = {"anchor_dtype": anchor, "fisher_dtype": fisher}
    if make:
        tx = optax.chain(make(alpha, **options), optax.sgd(rate))
    else:
        proximal = wpl_jax.proximal_weight_plasticity(alpha, rate, **options)
        tx = optax.chain(optax.sgd(rate), proximal)
    state = wpl_jax.consolidate(tx.init(PARAMS), PARAMS, FISHER)
    (found,) = wpl_jax.plasticity_states(state)
    for name in PARAMS:
        for got, want, dtype in (
            (found.anchor[name], PARAMS[name], anchor),
            (found.fisher[name], FISHER[name], fisher),
        ):
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(
                got, want, rtol=ERRORS.get(dtype, 0) * 1.001, atol=3e-4
            )
    (raw,) = [x for x in state if isinstance(x, wpl_jax.WeightPlasticityState)]
    for tree, dtype in ((raw.anchor, anchor), (raw.fisher, fisher)):
        # Codes have a type of their own, by which checkpoints tell them from numbers.
        assert hasattr(tree, str(dtype)) == (dtype in ("int8", "uint8"))
        assert {x.dtype for x in jax.tree.leaves(tree)} == {
            jnp.dtype(dtype or "float32")
        }
    moved = jax.tree.map(lambda p: p + 0.25, PARAMS)
    updates, state = tx.update(ZERO, state, moved)
    value = 0.0
    for name, p in moved.items():
        f, a = np.float64(found.fisher[name]), np.float64(found.anchor[name])
        pull = alpha * f * (np.float64(p) - a)
        want = -rate * pull if make else -rate * pull / (1 + rate * alpha * f)
        np.testing.assert_allclose(updates[name], want, rtol=1e-4, atol=1e-6)
        value += alpha / 2 * np.sum(f * (np.float64(p) - a) ** 2)
    got = wpl_jax.penalty_value(state, moved, alpha)
    np.testing.assert_allclose(got, value, rtol=1e-5)


def test_masked_entries_keep_what_is_stored():
    tx = wpl_jax.weight_plasticity(1.0, anchor_dtype="int8", fisher_dtype="uint8")
    first = wpl_jax.consolidate(tx.init(PARAMS), PARAMS, FISHER)
    mask = {"w": jnp.zeros((5, 1)).at[2].set(1), "b": jnp.ones(7)}
    other = jax.tree.map(lambda x: 3 * x + 1, (PARAMS, FISHER))
    second = jax.jit(lambda state: wpl_jax.consolidate(state, *other, mask=mask))(first)
    for old, new in (
        (first.anchor.int8, second.anchor.int8),
        (first.fisher.uint8, second.fisher.uint8),
    ):
        kept = np.arange(5) != 2
        np.testing.assert_array_equal(new["w"][kept], old["w"][kept])
        assert (new["w"][2] != old["w"][2]).any()
        assert new["w"].dtype == old["w"].dtype


def test_rules_add_up_what_is_stored():
    tx = wpl_jax.weight_plasticity(1.0, fisher_dtype="uint8")
    state = tx.init(PARAMS)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    for _ in range(4):
        state = wpl_jax.consolidate(state, PARAMS, ones, rule=wpl_jax.accumulate)
    (found,) = wpl_jax.plasticity_states(state)
    np.testing.assert_allclose(found.fisher["w"], 4, rtol=0.2)


def test_a_state_of_bytes_takes_a_quarter_of_the_memory():
    def size(**options):
        state = wpl_jax.weight_plasticity(1.0, **options).init(PARAMS)
        return sum(x.nbytes for x in jax.tree.leaves(state)) - state.count.nbytes

    whole = size()
    assert size(anchor_dtype="bfloat16", fisher_dtype="bfloat16") == whole / 2
    assert size(anchor_dtype="int8", fisher_dtype="uint8") == whole / 4


def test_what_cannot_be_stored_is_named():
    for name, known in STORED.items():
        assert_says(
            lambda name=name: wpl_jax.weight_plasticity(1.0, **{name: "float8"}),
            [name, known[0], known[1], "'float8'"],
        )
    tx = wpl_jax.proximal_weight_plasticity(1.0, 0.1, anchor_dtype="int8")
    assert_says(tx.init, ["complex64"], {"z": jnp.ones(2, jnp.complex64)})


def test_codes_that_were_cast_are_no_numbers():
    """As restoring by leaves alone does, or a cast of a whole optimizer state."""
    codes = {"anchor_dtype": "int8", "fisher_dtype": "uint8"}
    for options, cast, stored in (
        (codes, jnp.float32, "codes"),
        ({}, "int8", "floats"),
    ):
        tx = wpl_jax.weight_plasticity(1.0, **options)
        state = wpl_jax.consolidate(tx.init(PARAMS), PARAMS, FISHER)
        for field in ("anchor", "fisher"):
            tree = jax.tree.map(lambda x, to=cast: x.astype(to), getattr(state, field))
            broken = state._replace(**{field: tree})
            words = [f"holds an array of {np.dtype(cast)}", stored, "anchor_dtype"]
            assert_says(tx.update, words, ZERO, broken, PARAMS)
            assert_says(wpl_jax.consolidate, words, broken, PARAMS, FISHER)
            assert_says(wpl_jax.plasticity_states, words, broken)
            assert_says(wpl_jax.penalty_value, words, broken, PARAMS, 1.0)
