"""A training whose optimizer state holds the penalty resumes bit for bit with Orbax."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
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
