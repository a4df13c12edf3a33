"""The penalty inside Flax: Linen's TrainState and NNX's Optimizer."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import wpl_jax

ALPHA, LR, STEPS = 3.0, 0.05, 30
X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
Y_A, Y_B = jnp.sin(2 * X), jnp.cos(3 * X)


def make_tx(alpha, proximal=False, optimizer=None):
    optimizer = optax.sgd(LR) if optimizer is None else optimizer
    if proximal:
        last = wpl_jax.proximal_weight_plasticity(alpha, LR)
        return optax.chain(optimizer, last)
    return optax.chain(wpl_jax.weight_plasticity(alpha), optimizer)


def leaves(tree):
    """Leaves by path, as float64 numpy."""
    return {
        tuple(jax.tree_util.keystr((key,), simple=True) for key in path): np.float64(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def equation(params, anchor, fisher, alpha):
    """Value of the penalty in equation 8."""
    p, a, f = map(leaves, (params, anchor, fisher))
    assert p.keys() == a.keys() == f.keys()
    return alpha / 2 * sum(np.sum(f[k] * (p[k] - a[k]) ** 2) for k in p)


def distance(params, anchor):
    p, a = leaves(params), leaves(anchor)
    return np.sqrt(sum(np.sum((p[k] - a[k]) ** 2) for k in p))


penalty_value = jax.jit(wpl_jax.penalty_value, static_argnums=2)


# Linen.


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.tanh(nn.Dense(8)(x)))


MODEL = Mlp()


def linen_loss(params, example):
    x, y = example
    return jnp.sum((MODEL.apply({"params": params}, x) - y) ** 2)


@jax.jit
def linen_step(state, y):
    def mean_loss(params):
        return jnp.mean(jax.vmap(linen_loss, (None, 0))(params, (X, y)))

    return state.apply_gradients(grads=jax.grad(mean_loss)(state.params))


@jax.jit
def linen_consolidate(state):
    fisher = wpl_jax.per_example_fisher(linen_loss, state.params, (X, Y_A))
    fisher = wpl_jax.normalize(fisher)
    opt_state = wpl_jax.consolidate(state.opt_state, state.params, fisher)
    return state.replace(opt_state=opt_state), fisher


@functools.cache
def linen_tx(proximal):
    """One object, so that the jitted functions recognise it."""
    return make_tx(ALPHA, proximal)


@functools.cache
def linen_run(proximal, consolidated=True):
    """Trains on A, consolidates or not, trains on B."""
    params = jax.jit(MODEL.init)(jax.random.key(0), X[0])["params"]
    tx = linen_tx(proximal)
    state = TrainState.create(apply_fn=MODEL.apply, params=params, tx=tx)
    for _ in range(STEPS):
        state = linen_step(state, Y_A)
    anchor = state.params
    with_penalty, fisher = linen_consolidate(state)
    state = with_penalty if consolidated else state
    for _ in range(STEPS):
        state = linen_step(state, Y_B)
    return anchor, fisher, state


@pytest.mark.slow_except("proximal")
@pytest.mark.parametrize("proximal", [False, True], ids=["explicit", "proximal"])
def test_linen_weights_stay_near_the_anchor(proximal):
    anchor, fisher, state = linen_run(proximal)
    _, _, free = linen_run(proximal, consolidated=False)
    assert distance(free.params, anchor) > 0.5
    assert equation(state.params, anchor, fisher, 1.0) < 0.2 * equation(
        free.params, anchor, fisher, 1.0
    )
    assert state.step == 2 * STEPS
    (penalty,) = wpl_jax.plasticity_states(state.opt_state)
    assert penalty.count == 2 * STEPS


def test_linen_penalty_value():
    anchor, fisher, state = linen_run(False)
    got = penalty_value(state.opt_state, state.params, ALPHA)
    expected = equation(state.params, anchor, fisher, ALPHA)
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert expected > 1e-3


# NNX.


class Net(nnx.Module):
    def __init__(self, dtype):
        rngs = nnx.Rngs(0)
        self.hidden = nnx.Linear(3, 8, param_dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(8, 3, param_dtype=dtype, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.tanh(self.hidden(x)))


def nnx_loss(model, y):
    return jnp.mean(jnp.sum((model(X) - y) ** 2, axis=-1))


@nnx.jit
def nnx_step(model, optimizer, y, mask=None):
    gradients = nnx.grad(nnx_loss)(model, y)
    optimizer.update(model, gradients, mask=mask)
    return gradients


@nnx.jit
def nnx_consolidate(model, optimizer, fisher):
    params = nnx.state(model, nnx.Param)
    optimizer.opt_state = wpl_jax.consolidate(optimizer.opt_state, params, fisher)


def nnx_start(tx, dtype=jnp.float32):
    model = Net(dtype)
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


def params_of(model):
    """A copy: nnx.state shares the model's variables."""
    return jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))


def ones_like(tree):
    return jax.tree.map(jnp.ones_like, tree)


@pytest.mark.slow_except("jitted")
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_nnx_consolidate_and_update(jitted):
    model, optimizer = nnx_start(make_tx(ALPHA, optimizer=optax.sgd(LR, momentum=0.9)))
    gradients = nnx_step(model, optimizer, Y_A)
    fisher = wpl_jax.square(gradients)
    anchor, momentum = params_of(model), leaves(optimizer.opt_state[1])
    if jitted:
        nnx_consolidate(model, optimizer, fisher)
    else:
        optimizer.opt_state = wpl_jax.consolidate(
            optimizer.opt_state, nnx.state(model, nnx.Param), fisher
        )
    for k, m in leaves(optimizer.opt_state[1]).items():
        np.testing.assert_array_equal(m, momentum[k])
    assert any(np.any(m != 0) for m in momentum.values())

    # Two more steps: SGD with momentum on equation 8, in numpy.
    params, a, f = map(leaves, (anchor, anchor, fisher))
    trace = {
        k: next(m for n, m in momentum.items() if n[-len(k) :] == k) for k in params
    }
    for _ in range(2):
        gradients = leaves(nnx_step(model, optimizer, Y_B))
        for k in params:
            pull = ALPHA * f[k] * (params[k] - a[k])
            trace[k] = 0.9 * trace[k] + gradients[k] + pull
            params[k] = params[k] - LR * trace[k]
    for k, p in leaves(nnx.state(model, nnx.Param)).items():
        np.testing.assert_allclose(p, params[k], rtol=1e-4, atol=1e-6)
    assert optimizer.step.get_value() == 3


@pytest.mark.parametrize("proximal", [False, True], ids=["explicit", "proximal"])
def test_nnx_weights_stay_near_the_anchor(proximal):
    moved = []
    for alpha in (0.0, ALPHA):
        model, optimizer = nnx_start(make_tx(alpha, proximal))
        anchor = params_of(model)
        nnx_consolidate(model, optimizer, ones_like(anchor))
        for _ in range(STEPS):
            nnx_step(model, optimizer, Y_B)
        moved.append(distance(nnx.state(model, nnx.Param), anchor))
    assert 0 < moved[1] < 0.7 * moved[0]


def test_nnx_mask():
    """A mask of zeros is the plain optimizer; one for a layer frees that layer."""
    results = {}
    for name in ("no penalty", "zeros", "free out", "ones"):
        alpha = 0.0 if name == "no penalty" else ALPHA
        model, optimizer = nnx_start(make_tx(alpha))
        anchor = params_of(model)
        mask = jax.tree.map(lambda p, n=name: jnp.float32(n != "zeros"), anchor)
        if name == "free out":
            mask["out"]["kernel"] = mask["out"]["kernel"].replace(jnp.zeros((1, 3)))
        nnx_consolidate(model, optimizer, ones_like(anchor))
        gradients = [leaves(nnx_step(model, optimizer, Y_B, mask)) for _ in range(2)]
        results[name] = leaves(nnx.state(model, nnx.Param)), gradients, leaves(anchor)
    (plain, _, _), (zeros, _, _) = results["no penalty"], results["zeros"]
    for key, value in plain.items():
        np.testing.assert_allclose(zeros[key], value, rtol=1e-6, atol=1e-7)
    params, gradients, anchor = results["free out"]
    for key in params:
        free = key[:2] == ("out", "kernel")
        p = anchor[key]
        for gradient in gradients:
            pull = 0.0 if free else ALPHA * (p - anchor[key])
            p = p - LR * (gradient[key] + pull)
        np.testing.assert_allclose(params[key], p, rtol=1e-4, atol=1e-6)
    pulled = results["ones"][0]
    assert max(np.max(np.abs(pulled[key] - plain[key])) for key in plain) > 1e-3


def test_nnx_penalty_value_with_a_schedule():
    schedule = lambda count: 1.0 + count  # noqa: E731
    model, optimizer = nnx_start(make_tx(schedule))
    anchor = params_of(model)
    fisher = ones_like(anchor)
    nnx_consolidate(model, optimizer, fisher)
    for count in range(3):
        got = penalty_value(optimizer.opt_state, nnx.state(model, nnx.Param), schedule)
        expected = equation(
            nnx.state(model, nnx.Param), anchor, fisher, schedule(count)
        )
        np.testing.assert_allclose(got, expected, rtol=1e-5)
        gradients = leaves(nnx_step(model, optimizer, Y_B))
        assert any(np.any(g != 0) for g in gradients.values())
    assert expected > 0


@pytest.mark.slow_except("proximal")
@pytest.mark.parametrize("proximal", [False, True], ids=["explicit", "proximal"])
def test_nnx_bfloat16_parameters(proximal):
    model, optimizer = nnx_start(make_tx(ALPHA, proximal), jnp.bfloat16)
    anchor = params_of(model)
    # Not representable in bfloat16: the state keeps float32.
    fisher = jax.tree.map(lambda p: jnp.full(p.shape, 1.001, jnp.float32), anchor)
    nnx_consolidate(model, optimizer, fisher)
    nnx_step(model, optimizer, Y_B)
    (penalty,) = wpl_jax.plasticity_states(optimizer.opt_state)
    for tree, dtype in (
        (nnx.state(model, nnx.Param), jnp.bfloat16),
        (penalty.anchor, jnp.float32),
        (penalty.fisher, jnp.float32),
    ):
        assert {x.dtype for x in jax.tree.leaves(tree)} == {jnp.dtype(dtype)}
    for f in leaves(penalty.fisher).values():
        np.testing.assert_allclose(f, 1.001, rtol=1e-6)
    value = penalty_value(optimizer.opt_state, nnx.state(model, nnx.Param), ALPHA)
    expected = equation(nnx.state(model, nnx.Param), anchor, fisher, ALPHA)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert value.dtype == jnp.float32
    assert value > 0


def test_nnx_running_fisher():
    """The average in the state with a new Fisher, as plasticity_states offers it."""
    model, optimizer = nnx_start(make_tx(ALPHA))
    fisher = ones_like(params_of(model))
    nnx_consolidate(model, optimizer, fisher)
    (penalty,) = wpl_jax.plasticity_states(optimizer.opt_state)
    average = wpl_jax.update_average(penalty.fisher, fisher, eta=0.5)
    nnx_consolidate(model, optimizer, average)
    (penalty,) = wpl_jax.plasticity_states(optimizer.opt_state)
    for f in leaves(penalty.fisher).values():
        np.testing.assert_allclose(f, 1.5)


def test_nnx_per_example_fisher_fits_the_state():
    """The tree of nnx.split goes through the estimator into the optimizer."""
    model, optimizer = nnx_start(make_tx(ALPHA))
    graph, params = nnx.split(model, nnx.Param)

    def loss(p, example):
        x, y = example
        return jnp.sum((nnx.merge(graph, p)(x) - y) ** 2)

    fisher = wpl_jax.per_example_fisher(loss, params, (X, Y_A))
    nnx_consolidate(model, optimizer, fisher)
    gradient = jax.jit(jax.grad(loss))
    each = [leaves(gradient(params, (x, y))) for x, y in zip(X, Y_A, strict=True)]
    (penalty,) = wpl_jax.plasticity_states(optimizer.opt_state)
    for key, got in leaves(penalty.fisher).items():
        expected = np.mean([np.square(g[key]) for g in each], axis=0)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


class Noisy(nnx.Module):
    """A model with counters and statistics beside its parameters."""

    def __init__(self, rngs):
        self.first = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(self.norm(self.first(x))))


@pytest.mark.slow
def test_nnx_counters_and_statistics_stay_out_of_the_fisher():
    model = Noisy(nnx.Rngs(0))
    count = int(model.dropout.rngs.count[...])
    optimizer = nnx.Optimizer(model, make_tx(ALPHA), wrt=nnx.Param)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(p, x):
        return jnp.sum(nnx.merge(graph, p, rest, copy=True)(x) ** 2)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)), jnp.float32)
    fisher = wpl_jax.per_example_fisher(loss, params, x)
    each = jax.vmap(jax.grad(loss), (None, 0))(params, x)
    optimizer.opt_state = wpl_jax.consolidate(optimizer.opt_state, params, fisher)
    (penalty,) = wpl_jax.plasticity_states(optimizer.opt_state)
    expected = leaves(jax.tree.map(lambda g: jnp.mean(g**2, 0), each))
    assert set(expected) == set(leaves(penalty.fisher)), "no counters"
    for key, got in leaves(penalty.fisher).items():
        np.testing.assert_allclose(got, expected[key], rtol=1e-4, atol=1e-6)
    assert int(model.dropout.rngs.count[...]) == count
