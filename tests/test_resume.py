"""A training whose optimizer state holds the penalty resumes bit for bit with Orbax."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState

import wpl_jax

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
TASKS = (jnp.sin(X), jnp.cos(2 * X))
STEPS = 4
BITS = {"float32": {}, "bits": {"anchor_dtype": "bfloat16", "fisher_dtype": "uint8"}}
with_bits = pytest.mark.parametrize("bits", BITS)


@functools.cache
def transform(bits):
    """Adam under the penalty, with a schedule: both have counts in the state."""
    return wpl_jax.with_plasticity(
        optax.adam,
        alpha=2.0,
        learning_rate=optax.cosine_decay_schedule(0.1, 100),
        **BITS[bits],
    )


def assert_same_bits(got, want):
    got, want = map(jax.tree.leaves, (got, want))
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert jnp.result_type(g) == jnp.result_type(w)
        np.testing.assert_array_equal(g, w)


# Linen.

MODEL = nn.Sequential([nn.Dense(8), nn.tanh, nn.Dense(3)])


def linen_loss(params, example):
    x, y = example
    return jnp.sum((MODEL.apply(params, x) - y) ** 2)


@jax.jit
def linen_step(state, y):
    def mean(params):
        return jnp.mean(jax.vmap(linen_loss, (None, 0))(params, (X, y)))

    return state.apply_gradients(grads=jax.grad(mean)(state.params))


def linen_start(bits, seed):
    params = MODEL.init(jax.random.key(seed), X[0])
    return TrainState.create(apply_fn=MODEL.apply, params=params, tx=transform(bits))


@pytest.mark.slow_except("float32")
@with_bits
def test_linen_resumes_after_a_task_has_been_remembered(bits, tmp_path):
    state = linen_start(bits, 0)
    for _ in range(STEPS):
        state = linen_step(state, TASKS[0])
    state = wpl_jax.remember(state, linen_loss, (X, TASKS[0]))
    state = linen_step(state, TASKS[1])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
    # Another process: other weights, no Fisher.
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, linen_start(bits, 1))
    with ocp.StandardCheckpointer() as checkpointer:
        resumed = checkpointer.restore(tmp_path / "state", abstract)
    assert_same_bits(resumed, state)
    for _ in range(STEPS):
        state, resumed = (linen_step(s, TASKS[1]) for s in (state, resumed))
    assert_same_bits(resumed, state)
    (penalty,) = wpl_jax.plasticity_states(resumed.opt_state)
    assert any(np.any(f > 0) for f in jax.tree.leaves(penalty.fisher))


# NNX.


class Net(nnx.Module):
    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.hidden = nnx.Linear(3, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.norm(self.hidden(x))))


def nnx_loss(model, example):
    x, y = example
    return jnp.sum((model(x[None])[0] - y) ** 2)


@nnx.jit
def nnx_step(model, optimizer, y):
    def mean(model):
        return jnp.mean(jnp.sum((model(X) - y) ** 2, -1))

    optimizer.update(model, nnx.grad(mean)(model))


def nnx_start(bits, seed):
    model = Net(seed)
    return model, nnx.Optimizer(model, transform(bits), wrt=nnx.Param)


@pytest.mark.slow_except("float32")
@with_bits
def test_nnx_resumes_after_a_task_has_been_remembered(bits, tmp_path):
    model, optimizer = nnx_start(bits, 0)
    for _ in range(STEPS):
        nnx_step(model, optimizer, TASKS[0])
    wpl_jax.remember((model, optimizer), nnx_loss, (X, TASKS[0]))
    nnx_step(model, optimizer, TASKS[1])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", nnx.state((model, optimizer)))
    other = nnx_start(bits, 1)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, nnx.state(other))
    with ocp.StandardCheckpointer() as checkpointer:
        nnx.update(other, checkpointer.restore(tmp_path / "state", abstract))
    assert_same_bits(nnx.state(other), nnx.state((model, optimizer)))
    for _ in range(STEPS):
        nnx_step(model, optimizer, TASKS[1])
        nnx_step(*other, TASKS[1])
    assert_same_bits(nnx.state(other), nnx.state((model, optimizer)))
    (penalty,) = wpl_jax.plasticity_states(other[1].opt_state)
    assert any(np.any(f > 0) for f in jax.tree.leaves(penalty.fisher))


# Codes are no numbers: a state that stores otherwise must not take them.

WEIGHTS = {"w": jnp.asarray(RNG.normal(size=(3, 2)), jnp.float32)}
IMPORTANCE = {"w": jnp.asarray(RNG.random((3, 2)), jnp.float32)}
STORED = {
    "numbers": {},
    "halves": {"anchor_dtype": "bfloat16", "fisher_dtype": "bfloat16"},
    "anchor codes": {"anchor_dtype": "int8"},
    "Fisher codes": {"fisher_dtype": "uint8"},
    "codes": {"anchor_dtype": "int8", "fisher_dtype": "uint8"},
}


def stored_state(name):
    tx = wpl_jax.with_plasticity(
        optax.sgd, alpha=1.0, learning_rate=0.1, **STORED[name]
    )
    return wpl_jax.consolidate(tx.init(WEIGHTS), WEIGHTS, IMPORTANCE)


def save(path, state):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, state)


def restore(path, state):
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path, abstract)


@pytest.mark.slow_except("codes-numbers", "numbers-codes")
@pytest.mark.parametrize("other", STORED)
@pytest.mark.parametrize("saved", STORED)
def test_codes_are_restored_as_codes_and_nothing_else(saved, other, tmp_path):
    state, start = stored_state(saved), stored_state(other)
    save(tmp_path / "state", state)
    in_bytes = [
        {k: v for k, v in STORED[name].items() if v in ("int8", "uint8")}
        for name in (saved, other)
    ]
    if in_bytes[0] != in_bytes[1]:
        with pytest.raises(ValueError, match="int8"):
            restore(tmp_path / "state", start)
        return
    # Numbers become numbers, of the precision that both have.
    found = restore(tmp_path / "state", start)
    (got,), (want,) = map(wpl_jax.plasticity_states, (found, state))
    rtol = 2**-8 if "halves" in (saved, other) else 0
    for name in WEIGHTS:
        np.testing.assert_allclose(got.anchor[name], want.anchor[name], rtol)
        np.testing.assert_allclose(got.fisher[name], want.fisher[name], rtol)


def test_nnx_refuses_codes_in_place_of_numbers(tmp_path):
    def pair(bits):
        model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
        tx = wpl_jax.weight_plasticity(1.0, **STORED[bits])
        return model, nnx.Optimizer(model, tx, wrt=nnx.Param)

    save(tmp_path / "state", nnx.state(pair("codes")))
    with pytest.raises(ValueError, match="int8"):
        restore(tmp_path / "state", nnx.state(pair("numbers")))


@pytest.mark.parametrize(
    ("saved", "other"), [("codes", "numbers"), ("numbers", "codes")]
)
def test_bytes_of_flax_are_refused_as_well(saved, other):
    content = serialization.to_bytes(stored_state(saved))
    assert_same_bits(
        serialization.from_bytes(stored_state(saved), content), stored_state(saved)
    )
    with pytest.raises(ValueError, match="do not match"):
        serialization.from_bytes(stored_state(other), content)


@pytest.mark.parametrize("bits", ["numbers", "codes"])
def test_a_checkpoint_from_before_the_first_task_takes_the_penalty_up(bits, tmp_path):
    tx = wpl_jax.with_plasticity(
        optax.adam, alpha=1.0, learning_rate=0.1, **STORED[bits]
    )
    state = tx.init(WEIGHTS)
    save(tmp_path / "state", (WEIGHTS, state))
    restored = restore(tmp_path / "state", (WEIGHTS, tx.init(WEIGHTS)))
    ends = []
    for params, opt_state in ((WEIGHTS, state), restored):
        loss = lambda p, x: jnp.sum(jnp.sin(x @ p["w"]))  # noqa: E731
        params, opt_state = wpl_jax.remember((params, opt_state), loss, X)
        moved = jax.tree.map(lambda p: p + 1, params)
        zero = jax.tree.map(jnp.zeros_like, moved)
        updates, opt_state = tx.update(zero, opt_state, moved)
        assert np.all(np.asarray(updates["w"]) < 0)
        ends.append((updates, opt_state))
    assert_same_bits(*ends)
