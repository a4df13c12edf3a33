"""The penalty against equation 8 in float64 numpy, and as an optax citizen."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from helpers.raising import assert_says

import wpl_jax

LR = 0.1
EXPLICIT, PROXIMAL = KINDS = ("explicit", "proximal")
both_kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind, alpha, learning_rate=LR):
    """The penalty alone."""
    if kind == EXPLICIT:
        return wpl_jax.weight_plasticity(alpha)
    return wpl_jax.proximal_weight_plasticity(alpha, learning_rate)


def chain(kind, alpha, optimizer=None, learning_rate=LR):
    """The penalty at its place in a chain."""
    optimizer = optax.sgd(LR) if optimizer is None else optimizer
    penalty = make(kind, alpha, learning_rate)
    parts = (penalty, optimizer) if kind == EXPLICIT else (optimizer, penalty)
    return optax.chain(*parts)


def reference(kind, alpha, update, param, anchor, fisher, mask=1, learning_rate=LR):
    """Equation 8's gradient, or the closed form of its proximal step, in numpy."""
    if kind == EXPLICIT:
        return update + alpha * mask * fisher * (param - anchor)
    tau_f = learning_rate * alpha * mask * fisher
    return (param + update + tau_f * anchor) / (1 + tau_f) - param


def references(kind, alpha, update, param, anchor, fisher, mask=None):
    mask = jax.tree.map(lambda _: 1, param) if mask is None else mask
    return jax.tree.map(
        lambda *leaves: reference(kind, alpha, *leaves),
        update,
        param,
        anchor,
        fisher,
        mask,
    )


SHAPES = {"dense": {"b": (2,), "w": (3, 2)}, "scale": (2,)}


def random_tree(seed, shapes=SHAPES):
    """Float64 numpy values that float32 represents exactly."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        return rng.normal(size=shape).astype(np.float32).astype(np.float64)

    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


def to_jax(tree, dtype=jnp.float32):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def zeros(tree):
    return jax.tree.map(np.zeros_like, tree)


PARAMS, ANCHOR, UPDATE = (random_tree(seed) for seed in range(3))
FISHER = jax.tree.map(np.square, random_tree(3))
FISHER["scale"][0] = 0.0
# The same in JAX.
params, anchor, update, fisher = map(to_jax, (PARAMS, ANCHOR, UPDATE, FISHER))


def consolidated(tx):
    return wpl_jax.consolidate(tx.init(params), anchor, fisher)


def assert_close(actual, expected, rtol=2e-6, atol=1e-6):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for path, x in jax.tree_util.tree_leaves_with_path(expected):
        y = dict(jax.tree_util.tree_leaves_with_path(actual))[path]
        np.testing.assert_allclose(
            np.asarray(y, np.float64),
            np.asarray(x, np.float64),
            rtol,
            atol,
            err_msg=jax.tree_util.keystr(path),
        )


def assert_identical(actual, expected):
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.asarray(x).dtype == np.asarray(y).dtype
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


# The objective.


@both_kinds
@pytest.mark.parametrize("alpha", [0, 0.5, 30.0])
def test_update_is_the_equation_in_float64(kind, alpha):
    tx = make(kind, alpha)
    updates, _ = tx.update(update, consolidated(tx), params)
    assert_close(updates, references(kind, alpha, UPDATE, PARAMS, ANCHOR, FISHER))


def task_loss(p):
    return jnp.sum(jnp.sin(p["dense"]["w"] @ p["dense"]["b"])) + jnp.sum(
        p["scale"] ** 4
    )


def numpy_loss(p, alpha, mask):
    """Equation 8 in float64: task loss and penalty."""
    squares = jax.tree.map(
        lambda m, f, t, a: np.sum(m * f * (t - a) ** 2), mask, FISHER, p, ANCHOR
    )
    task = np.sum(np.sin(p["dense"]["w"] @ p["dense"]["b"])) + np.sum(p["scale"] ** 4)
    return task + alpha / 2 * sum(jax.tree.leaves(squares))


MASK = {"dense": {"b": np.array([1.0, 0.0]), "w": np.array([[0.0], [1.0], [1.0]])}}
MASK["scale"] = np.array(1.0)


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
def test_explicit_update_is_the_gradient_of_the_loss_written_out(mask):
    alpha = 3.0
    tx = wpl_jax.weight_plasticity(alpha)
    updates, _ = tx.update(
        jax.jit(jax.grad(task_loss))(params),
        consolidated(tx),
        params,
        mask=None if mask is None else to_jax(mask),
    )
    ones = jax.tree.map(np.ones_like, PARAMS) if mask is None else mask

    def loss(p):
        pulls = jax.tree.map(
            lambda m, f, t, a: jnp.sum(m * f * (t - a) ** 2), ones, FISHER, p, ANCHOR
        )
        return task_loss(p) + alpha / 2 * sum(jax.tree.leaves(pulls))

    assert_close(updates, jax.jit(jax.grad(loss))(params), rtol=1e-5, atol=1e-5)

    leaves, treedef = jax.tree.flatten(PARAMS)
    for i, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape):

            def at(step, i=i, index=index):
                moved = [x.copy() for x in leaves]
                moved[i][index] += step
                return numpy_loss(jax.tree.unflatten(treedef, moved), alpha, ones)

            slope = (at(1e-5) - at(-1e-5)) / 2e-5
            got = jax.tree.leaves(updates)[i][index]
            np.testing.assert_allclose(got, slope, rtol=1e-5, atol=1e-5)


@both_kinds
@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "mask"])
def test_penalty_value_is_the_equation_in_float64(kind, mask):
    state = consolidated(chain(kind, 3.0))
    jax_mask = None if mask is None else to_jax(mask)
    value = wpl_jax.penalty_value(state, params, 3.0, mask=jax_mask)
    ones = jax.tree.map(np.ones_like, PARAMS) if mask is None else mask
    expected = numpy_loss(PARAMS, 3.0, ones) - numpy_loss(PARAMS, 0.0, ones)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert value.shape == ()
    assert value.dtype == jnp.float32


def test_penalty_value_takes_a_schedule_at_the_next_update():
    def schedule(count):
        return 2.0 + count

    tx = chain(EXPLICIT, schedule)
    state = consolidated(tx)
    one = wpl_jax.penalty_value(state, params, 1.0)
    for count in range(3):
        value = wpl_jax.penalty_value(state, params, schedule)
        np.testing.assert_allclose(value, (2.0 + count) * one, rtol=1e-6)
        _, state = tx.update(update, state, params)


# The proximal step.


def test_proximal_step_minimises_the_proximal_objective():
    alpha, tau = 7.0, LR * 7.0
    tx = make(PROXIMAL, alpha)
    updates, _ = tx.update(update, consolidated(tx), params)

    def stack(tree):
        return np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])

    start, target = stack(PARAMS), stack(PARAMS) + stack(UPDATE)

    def objective(theta):
        near = np.sum((theta - target) ** 2) / 2
        return near + tau / 2 * np.sum(stack(FISHER) * (theta - stack(ANCHOR)) ** 2)

    found = scipy.optimize.minimize(objective, start, tol=1e-12).x
    got = start + stack(jax.tree.map(np.asarray, updates))
    np.testing.assert_allclose(got, found, atol=1e-5)
    assert np.max(np.abs(got - target)) > 0.1


def test_proximal_step_is_the_explicit_step_to_first_order():
    with jax.enable_x64(True):
        p, a, f, g = (to_jax(x, jnp.float64) for x in (PARAMS, ANCHOR, FISHER, UPDATE))

        @jax.jit
        def distance(tau):
            steps = []
            for kind in KINDS:
                tx = chain(kind, 1.0, optax.sgd(tau), learning_rate=tau)
                state = wpl_jax.consolidate(tx.init(p), a, f)
                steps.append(tx.update(g, state, p)[0])
            return optax.tree.norm(optax.tree.sub(*steps))

        large, small = distance(1e-4), distance(1e-5)
        assert 0 < large < 1e-5
        # The difference is of second order.
        np.testing.assert_allclose(large / small, 100, rtol=1e-2)


@pytest.mark.parametrize("alpha", [1e3, 1e30, 3e38])
def test_proximal_step_is_stable_at_any_alpha(alpha):
    fishers = jnp.array([0.0, 1.0, 1e8, 1e30])
    tx = make(PROXIMAL, alpha)
    at = jnp.array([1.0, -2.0, 3.0, -4.0])
    state = wpl_jax.consolidate(tx.init(at), at, fishers)
    x = at
    for _ in range(5):
        updates, state = tx.update(jnp.ones(4), state, x)
        x = optax.apply_updates(x, updates)
    assert x[0] == at[0] + 5  # Not protected, moves as told.
    # After a step of 1 a share 1 / (1 + tau F) of it is left.
    np.testing.assert_allclose(x[1:], at[1:], atol=1.1 / (LR * 1e3), rtol=1e-6)


@pytest.mark.parametrize(
    ("alpha", "learning_rate"),
    [
        (1e40, LR),
        (float("inf"), LR),
        (3e38, 20.0),
    ],
)
def test_strengths_beyond_float32_are_refused_or_stay_finite(alpha, learning_rate):
    try:
        tx = make(PROXIMAL, alpha, learning_rate)
    except ValueError:
        return
    state = consolidated(tx)
    updates, _ = tx.update(update, state, params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))


@pytest.mark.parametrize("stiffness", [0.5, 1.9, 2.1])
def test_explicit_step_diverges_where_the_proximal_one_does_not(stiffness):
    """On the penalty alone a step multiplies the displacement by a constant."""
    steps, alpha = 100, stiffness / LR
    factor = {EXPLICIT: 1 - stiffness, PROXIMAL: 1 / (1 + stiffness)}
    for kind in KINDS:
        tx = chain(kind, alpha)
        at = jnp.zeros(1)
        state = wpl_jax.consolidate(tx.init(at), at, jnp.ones(1))

        @jax.jit
        def run(x, state, tx=tx):
            def step(carry, _):
                updates, state = tx.update(jnp.zeros(1), carry[1], carry[0])
                return (optax.apply_updates(carry[0], updates), state), None

            return jax.lax.scan(step, (x, state), length=steps)[0][0]

        left = run(at + 1, state)
        np.testing.assert_allclose(left, factor[kind] ** steps, rtol=1e-3, atol=1e-30)
    assert (abs(factor[EXPLICIT]) > 1) == (stiffness > 2)


# Before the first consolidation.


@both_kinds
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_nothing_changes_before_the_first_consolidation(kind, dtype):
    p, u = to_jax(PARAMS, dtype), to_jax(UPDATE, dtype)
    tx = make(kind, 1e4)
    state = tx.init(p)
    updates, state = tx.update(u, state, p)
    assert_identical(updates, u)
    assert wpl_jax.penalty_value(state, p, 1e4) == 0


@both_kinds
def test_chain_equals_its_optimizer_before_the_first_consolidation(kind):
    with_penalty, without = chain(kind, 1e4, optax.adam(LR)), optax.adam(LR)
    state, plain = with_penalty.init(params), without.init(params)
    for _ in range(3):
        updates, state = with_penalty.update(update, state, params)
        expected, plain = without.update(update, plain, params)
        assert_identical(updates, expected)


# Masks.


@both_kinds
def test_masked_entries_get_exactly_the_incoming_update(kind):
    tx = make(kind, 5.0)
    updates, _ = tx.update(update, consolidated(tx), params, mask=to_jax(MASK))
    assert_close(updates, references(kind, 5.0, UPDATE, PARAMS, ANCHOR, FISHER, MASK))
    assert_identical(updates["dense"]["w"][0], update["dense"]["w"][0])
    assert_identical(updates["dense"]["b"][1], update["dense"]["b"][1])
    assert (updates["dense"]["w"][1:] != update["dense"]["w"][1:]).all()


@both_kinds
@pytest.mark.parametrize(
    "mask",
    [
        np.ones((3, 2)),
        np.array([1.0, 0.0]),
        np.array([[1.0, 0.0]]),
        np.array([[0.0], [1.0], [1.0]]),
        np.array(0.0),
        1,
        np.array([[1.0]]),
    ],
    ids=lambda m: str(np.shape(m)),
)
def test_masks_broadcast(kind, mask):
    p, a, f, u = (tree["dense"]["w"] for tree in (PARAMS, ANCHOR, FISHER, UPDATE))
    tx = make(kind, 5.0)
    state = wpl_jax.consolidate(tx.init(jnp.float32(p)), jnp.float32(a), jnp.float32(f))
    mask_in = mask if isinstance(mask, int) else jnp.float32(mask)
    updates, state = tx.update(jnp.float32(u), state, jnp.float32(p), mask=mask_in)
    assert_close(updates, reference(kind, 5.0, u, p, a, f, mask))
    value = wpl_jax.penalty_value(state, jnp.float32(p), 5.0, mask=mask_in)
    expected = 2.5 * np.sum(mask * f * (p - a) ** 2)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.slow_except("*proximal")
@both_kinds
@pytest.mark.parametrize(
    ("alpha", "dtype"),
    [
        (0.3, "bool"),
        (0.3, "float16"),
        (0.3, "bfloat16"),
        (1000, "int8"),
        (1e5, "float16"),
    ],
)
def test_the_dtype_of_a_mask_does_not_matter(kind, alpha, dtype):
    tx = make(kind, alpha)
    mask = jax.tree.map(lambda m: jnp.asarray(m, dtype), MASK)
    updates, _ = tx.update(update, consolidated(tx), params, mask=mask)
    expected = references(kind, alpha, UPDATE, PARAMS, ANCHOR, FISHER, MASK)
    assert_close(updates, expected)


@both_kinds
def test_changing_masks_do_not_retrace(kind):
    tx = chain(kind, 5.0)
    step, traces = counted(lambda s, mask: tx.update(update, s, params, mask=mask))
    state = consolidated(tx)
    pull = {}
    for on in (1.0, 0.0, 1.0):
        mask = to_jax(jax.tree.map(lambda m, on=on: np.full_like(m, on), PARAMS))
        pull[on], state = step(state, mask)
    assert len(traces) == 1
    assert not np.allclose(pull[1.0]["scale"], pull[0.0]["scale"])


def counted(function, **kwargs):
    """A jitted function and the list of its traces."""
    traces = []

    def traced(*args):
        traces.append(args)
        return function(*args)

    return jax.jit(traced, **kwargs), traces


# Forms of alpha.


@both_kinds
@pytest.mark.parametrize(
    "schedule",
    [optax.linear_schedule(1.0, 5.0, 4), lambda count: 3.0 * (count >= 2)],
    ids=["linear", "late"],
)
def test_schedules_are_taken_at_the_right_count(kind, schedule):
    tx = make(kind, schedule)
    state = consolidated(tx)
    for count in range(4):
        assert state.count == count
        updates, state = tx.update(update, state, params)
        alpha = float(schedule(count))
        expected = references(kind, alpha, UPDATE, PARAMS, ANCHOR, FISHER)
        assert_close(updates, expected)


def test_the_learning_rate_of_the_proximal_step_may_be_a_schedule():
    rates = [0.1, 0.4, 0.2]
    tx = make(PROXIMAL, 2.0, lambda count: jnp.array(rates)[count])
    state = consolidated(tx)
    for rate in rates:
        updates, state = tx.update(update, state, params)
        trees = (UPDATE, PARAMS, ANCHOR, FISHER)
        expected = jax.tree.map(
            lambda *x, rate=rate: reference(PROXIMAL, 2.0, *x, learning_rate=rate),
            *trees,
        )
        assert_close(updates, expected)


@both_kinds
def test_inject_hyperparams_with_a_number_and_with_a_schedule(kind):
    factory = optax.inject_hyperparams(make, static_args=("kind",))
    for alpha in (2.0, lambda count: 2.0 + count):
        tx = factory(kind, alpha)
        step, _ = counted(lambda s, tx=tx: tx.update(update, s, params))
        state = consolidated(tx)
        for count in range(2):
            updates, state = step(state)
            strength = alpha(count) if callable(alpha) else alpha
            expected = references(kind, strength, UPDATE, PARAMS, ANCHOR, FISHER)
            assert_close(updates, expected)
    tx = factory(kind, 2.0)
    step, traces = counted(lambda s: tx.update(update, s, params))
    state = consolidated(tx)
    for alpha in (2.0, 0.5):  # Set from outside, without a new trace.
        state.hyperparams["alpha"] = jnp.float32(alpha)
        updates, state = step(state)
        assert_close(updates, references(kind, alpha, UPDATE, PARAMS, ANCHOR, FISHER))
    assert len(traces) == 1


@both_kinds
def test_inject_hyperparams_with_a_state_that_a_jitted_function_closes_over(kind):
    tx = optax.inject_hyperparams(make, static_args=("kind",))(kind, 2.0)
    state = consolidated(tx)
    updates, _ = jax.jit(lambda u: tx.update(u, state, params))(update)
    assert_close(updates, references(kind, 2.0, UPDATE, PARAMS, ANCHOR, FISHER))


# optax's checklist for a transformation.


@both_kinds
def test_unknown_extra_arguments_are_accepted(kind):
    tx = chain(kind, 1.0)
    expected, _ = tx.update(update, consolidated(tx), params)
    updates, _ = tx.update(update, consolidated(tx), params, value=1.0, unknown=None)
    assert_identical(updates, expected)


@both_kinds
def test_no_recompilation_and_the_same_under_scan(kind):
    tx = chain(kind, 1.0, optax.adam(LR))

    def one(carry):
        p, state = carry
        updates, state = tx.update(jax.grad(task_loss)(p), state, p)
        return optax.apply_updates(p, updates), state

    step, traces = counted(one)
    looped = (params, consolidated(tx))
    for _ in range(3):
        looped = step(looped)
        looped = (looped[0], wpl_jax.consolidate(looped[1], looped[0], fisher))
    assert len(traces) == 1

    def scanned(carry, _):
        p, state = one(carry)
        return (p, wpl_jax.consolidate(state, p, fisher)), None

    start = (params, consolidated(tx))
    result, _ = jax.jit(lambda c: jax.lax.scan(scanned, c, length=3))(start)
    assert_close(result, looped, rtol=1e-5, atol=1e-6)


@both_kinds
def test_tree_map_params(kind):
    tx = chain(kind, 1.0)
    state = consolidated(tx)
    doubled = optax.tree.map_params(tx, lambda x: 2 * x, state)
    (old,), (new,) = map(wpl_jax.plasticity_states, (state, doubled))
    assert_identical(new.anchor, jax.tree.map(lambda x: 2 * x, old.anchor))
    assert_identical(new.fisher, jax.tree.map(lambda x: 2 * x, old.fisher))
    assert_identical(new.count, old.count)


def replicas(n):
    """Trees of ``n`` different members, stacked, and their members."""
    trees = [
        jax.tree.map(lambda x, i=i: np.float32(x * (1 + i / n)), each)
        for i, each in enumerate([(PARAMS, ANCHOR, FISHER, UPDATE)] * n)
    ]
    return jax.tree.map(lambda *x: np.stack(x), *trees), trees


@pytest.mark.slow_except("*explicit*")
@both_kinds
@pytest.mark.parametrize("transform", [jax.vmap, jax.pmap], ids=["vmap", "pmap"])
def test_under_vmap_and_on_eight_devices(kind, transform):
    assert jax.device_count() == 8
    tx = chain(kind, 2.0)

    def step(p, a, f, u):
        state = wpl_jax.consolidate(tx.init(p), a, f)
        return tx.update(u, state, p)

    stacked, members = replicas(8)
    updates, states = transform(step)(*stacked)
    assert wpl_jax.plasticity_states(states)[0].count.shape == (8,)
    for i, (p, a, f, u) in enumerate(members):
        as_numpy = [jax.tree.map(np.float64, tree) for tree in (u, p, a, f)]
        if kind == EXPLICIT:
            expected = references(kind, 2.0, *as_numpy)
            expected = jax.tree.map(lambda x: -LR * x, expected)
        else:
            gradient, *rest = as_numpy
            descent = jax.tree.map(lambda x: -LR * x, gradient)
            expected = references(kind, 2.0, descent, *rest)
        assert_close(jax.tree.map(lambda x, i=i: np.asarray(x)[i], updates), expected)


@both_kinds
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_kept_and_accurate(kind, dtype):
    p, a, u = (to_jax(tree, dtype) for tree in (PARAMS, ANCHOR, UPDATE))
    tx = make(kind, 3.0)
    state = wpl_jax.consolidate(tx.init(p), a, fisher)
    updates, state = tx.update(u, state, p)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
    # Both are float32, and the anchor is not rounded once more.
    assert_identical(state.anchor, to_jax(a, jnp.float32))
    assert_identical(state.fisher, fisher)
    p, a, u = (jax.tree.map(np.float64, tree) for tree in (p, a, u))
    expected = references(kind, 3.0, u, p, a, FISHER)
    # One rounding at the end: nothing in between is in half precision.
    one_rounding = float(jnp.finfo(dtype).eps) / 2 * 1.01
    assert_close(updates, expected, rtol=one_rounding, atol=1e-6)


@both_kinds
def test_consolidation_keeps_the_dtypes_of_the_state(kind):
    """An anchor in float32 and a Fisher in half precision fit a bfloat16 model."""
    state = make(kind, 1.0).init(to_jax(PARAMS, jnp.bfloat16))
    half = to_jax(FISHER, jnp.float16)
    rules = wpl_jax.replace, wpl_jax.accumulate, wpl_jax.online(0.5)
    for rule in (*rules, wpl_jax.moving_average(0.5)):
        new = wpl_jax.consolidate(state, anchor, half, rule=rule)
        assert jax.tree.map(jnp.result_type, new) == jax.tree.map(
            jnp.result_type, state
        )
        assert_identical(new.anchor, anchor)
        assert_identical(new.fisher, to_jax(half))


@both_kinds
def test_float64(kind):
    with jax.enable_x64(True):
        p, a, f, u = (to_jax(x, jnp.float64) for x in (PARAMS, ANCHOR, FISHER, UPDATE))
        tx = make(kind, 0.3)
        state = wpl_jax.consolidate(tx.init(p), a, f)
        updates, state = jax.jit(tx.update)(u, state, p)
        assert {x.dtype for x in jax.tree.leaves((updates, state[1:]))} == {
            np.dtype(np.float64)
        }
        expected = references(kind, 0.3, UPDATE, PARAMS, ANCHOR, FISHER)
        assert_close(updates, expected, rtol=1e-14, atol=1e-14)
        value = wpl_jax.penalty_value(state, p, 0.3)
        terms = jax.tree.map(
            lambda t, a, f: 0.15 * np.sum(f * (t - a) ** 2), PARAMS, ANCHOR, FISHER
        )
        np.testing.assert_allclose(value, sum(jax.tree.leaves(terms)), rtol=1e-14)


@pytest.mark.slow_except("proximal")
@both_kinds
def test_multi_steps(kind):
    """The mean gradient of two steps, then one step of the chain."""
    tx = optax.MultiSteps(chain(kind, 2.0), every_k_schedule=2)
    state = consolidated(tx)
    first, state = tx.update(update, state, params)
    assert all((x == 0).all() for x in jax.tree.leaves(first))
    second, state = tx.update(jax.tree.map(lambda x: 3 * x, update), state, params)
    plain = chain(kind, 2.0)
    mean = jax.tree.map(lambda x: 2 * x, update)
    expected, _ = plain.update(mean, consolidated(plain), params)
    assert_close(second, expected)
    assert wpl_jax.plasticity_states(state)[0].count == 1


@both_kinds
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_state_is_stable_through_cond(kind, dtype):
    p, u = to_jax(PARAMS, dtype), to_jax(UPDATE, dtype)
    tx = chain(kind, 1.0)

    @jax.jit
    def step(on, u, state, p):
        u, state = jax.lax.cond(on, lambda: tx.update(u, state, p), lambda: (u, state))
        return jax.lax.cond(
            on, lambda: wpl_jax.consolidate(state, p, fisher), lambda: state
        )

    state = tx.init(p)
    off = step(False, u, state, p)
    assert_identical(off, state)
    on = step(True, u, state, p)
    assert jax.tree.map(jnp.result_type, on) == jax.tree.map(jnp.result_type, state)
    anchor_now = wpl_jax.plasticity_states(on)[0].anchor
    assert_identical(anchor_now, to_jax(p, jnp.float32))


@both_kinds
def test_init_on_shapes(kind):
    shapes = jax.eval_shape(lambda: params)
    tx = chain(kind, 1.0)
    expected = jax.tree.map(jnp.shape, tx.init(params))
    assert jax.tree.map(jnp.shape, tx.init(shapes)) == expected
    assert jax.tree.map(jnp.shape, jax.eval_shape(tx.init, shapes)) == expected


@both_kinds
def test_numpy_parameters(kind):
    tx = make(kind, 1.0)
    state = tx.init(PARAMS)
    updates, _ = tx.update(UPDATE, state, PARAMS)
    assert_close(updates, UPDATE)


@pytest.mark.slow_except("jitted-replace-*")
@both_kinds
@pytest.mark.parametrize("rule", [wpl_jax.replace, wpl_jax.accumulate])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_params_and_state_can_be_donated(kind, rule, jitted):
    tx = chain(kind, 1.0)

    def merge(s, p, f):
        return wpl_jax.consolidate(s, p, f, rule=rule)

    merge = jax.jit(merge) if jitted else merge

    def step(p, state):
        updates, state = tx.update(update, state, p)
        return optax.apply_updates(p, updates), state

    donating = jax.jit(step, donate_argnums=(0, 1))
    p, expected = jax.tree.map(jnp.copy, params), params
    f = jax.tree.map(jnp.copy, fisher)
    state, expected_state = tx.init(p), tx.init(params)
    for trained in range(3):
        if trained:
            state = merge(state, p, f)
            expected_state = merge(expected_state, expected, fisher)
        given = p
        for _ in range(2):
            p, state = donating(p, state)
            expected, expected_state = step(expected, expected_state)
        assert all(x.is_deleted() for x in jax.tree.leaves(given))
        assert_close((p, state), (expected, expected_state))
    assert_identical(f, fisher)  # Neither aliased nor donated.


@pytest.mark.slow_except("proximal")
@both_kinds
def test_the_state_is_sharded_like_the_parameters(kind):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d", None))
    with jax.set_mesh(mesh):
        p = jax.device_put(jnp.arange(16.0).reshape(8, 2), sharding)
        tx = make(kind, 1.0)
        state = tx.init(p)
        assert all(x.sharding == sharding for x in state[1:])
        state = wpl_jax.consolidate(state, p, jnp.ones_like(p))
        updates, state = jax.jit(tx.update)(p, state, p)
        assert all(x.sharding == sharding for x in (updates, *state[1:]))


# Consolidation.


def labels(tree):
    """The dense layer in one group, the scale in another."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "a" if path[0].key == "dense" else "b", tree
    )


def is_dense(tree):
    return jax.tree.map(lambda label: label == "a", labels(tree))


ALL, DENSE = {"dense", "scale"}, {"dense"}
NESTINGS = {
    "bare": (lambda kind: make(kind, 2.0), [ALL]),
    "chain": (lambda kind: chain(kind, 2.0, optax.adam(LR)), [ALL]),
    "nested chain": (
        lambda kind: optax.chain(
            optax.chain(optax.trace(0.9), chain(kind, 2.0)), optax.scale(1.0)
        ),
        [ALL],
    ),
    "partition": (
        lambda kind: optax.partition(
            {"a": chain(kind, 2.0), "b": optax.adam(LR)}, labels
        ),
        [DENSE],
    ),
    "partition, both": (
        lambda kind: optax.partition(
            {"a": chain(kind, 2.0), "b": chain(kind, 5.0, optax.adam(LR))}, labels
        ),
        [DENSE, {"scale"}],
    ),
    "masked": (lambda kind: optax.masked(chain(kind, 2.0), is_dense), [DENSE]),
    "MultiSteps": (lambda kind: optax.MultiSteps(chain(kind, 2.0), 2), [ALL]),
    "inject_hyperparams": (
        lambda kind: optax.inject_hyperparams(
            lambda rate: chain(kind, 2.0, optax.adam(rate))
        )(rate=LR),
        [ALL],
    ),
    "apply_if_finite": (
        lambda kind: optax.apply_if_finite(chain(kind, 2.0), 3),
        [ALL],
    ),
}
every_nesting = pytest.mark.parametrize("nesting", NESTINGS)


def rest(state):
    """Everything in an optimizer state but the anchors and Fishers."""

    def is_penalty(x):
        return isinstance(x, wpl_jax.WeightPlasticityState)

    return jax.tree.map(
        lambda x: x.count if is_penalty(x) else x, state, is_leaf=is_penalty
    )


def by_name(tree):
    """The leaves of a penalty's tree by their top-level name."""
    return {name: subtree for name, subtree in tree.items() if jax.tree.leaves(subtree)}


@functools.cache
def nested(kind, nesting):
    """The transformation with a jitted update."""
    tx = NESTINGS[nesting][0](kind)
    return tx, jax.jit(lambda u, s, p, mask: tx.update(u, s, p, mask=mask))


@pytest.mark.slow_except("*explicit")
@both_kinds
@every_nesting
def test_consolidate_in_every_nesting(kind, nesting):
    tx, step = nested(kind, nesting)
    state = tx.init(params)
    for _ in range(3):  # So that moments and counts are not zero.
        _, state = step(update, state, params, None)

    for merge in (wpl_jax.consolidate, jax.jit(wpl_jax.consolidate)):
        new = merge(state, anchor, fisher)
        assert jax.tree.structure(new) == jax.tree.structure(state)
        assert_identical(rest(new), rest(state))
        penalties = wpl_jax.plasticity_states(new)
        groups = NESTINGS[nesting][1]
        for penalty, group in zip(penalties, groups, strict=True):
            assert_identical(by_name(penalty.anchor), {n: anchor[n] for n in group})
            assert_identical(by_name(penalty.fisher), {n: fisher[n] for n in group})

    _, after = step(update, new, params, None)  # And it still updates.
    assert jax.tree.structure(after) == jax.tree.structure(state)


@both_kinds
@pytest.mark.parametrize("nesting", ["partition, both", "masked", "apply_if_finite"])
def test_updates_inside_a_nesting(kind, nesting):
    """Each group's parameters, gradients and mask meet their own anchor."""
    tx, step = nested(kind, nesting)
    state = wpl_jax.consolidate(tx.init(params), anchor, fisher)
    bare = chain(kind, 2.0)
    for mask in (None, to_jax(MASK)):
        updates, _ = step(update, state, params, mask)
        expected, _ = bare.update(update, consolidated(bare), params, mask=mask)
        assert_close(updates["dense"], expected["dense"])
        if nesting == "masked":
            assert_identical(updates["scale"], update["scale"])
        if nesting == "partition, both":
            other = chain(kind, 5.0, optax.adam(LR))
            expected, _ = other.update(update, consolidated(other), params, mask=mask)
            assert_close(updates["scale"], expected["scale"])
            total = wpl_jax.penalty_value(state, params, 1.0, mask=mask)
            whole = wpl_jax.penalty_value(consolidated(bare), params, 1.0, mask=mask)
            np.testing.assert_allclose(total, whole, rtol=1e-6)


@pytest.mark.parametrize(
    "rule",
    [
        wpl_jax.replace,
        wpl_jax.accumulate,
        wpl_jax.online(0.5),
        wpl_jax.moving_average(0.5),
    ],
    ids=["replace", "accumulate", "online", "moving_average"],
)
def test_masked_consolidation_keeps_old_entries(rule):
    old = consolidated(wpl_jax.weight_plasticity(1.0))
    new_fisher = jax.tree.map(jnp.square, update)
    new = wpl_jax.consolidate(old, params, new_fisher, rule=rule, mask=to_jax(MASK))
    full = wpl_jax.consolidate(old, params, new_fisher, rule=rule)
    masks = jax.tree.map(lambda m, p: np.broadcast_to(m, p.shape), MASK, PARAMS)
    for field in ("anchor", "fisher"):
        was, now, would = (getattr(state, field) for state in (old, new, full))
        expected = jax.tree.map(lambda m, w, o: np.where(m, w, o), masks, would, was)
        assert_identical(now, jax.tree.map(jnp.asarray, expected))
        assert not np.array_equal(now["dense"]["w"], was["dense"]["w"])


def test_the_running_fisher_can_be_averaged_inside_partition():
    tx = optax.partition({"a": chain(EXPLICIT, 2.0), "b": optax.adam(LR)}, labels)
    state = wpl_jax.consolidate(tx.init(params), anchor, fisher)
    average = wpl_jax.plasticity_states(state)[0].fisher
    new = wpl_jax.update_average(average, fisher, eta=0.9)
    state = wpl_jax.consolidate(state, anchor, new)
    after = wpl_jax.plasticity_states(state)[0].fisher
    assert_close(after["dense"], jax.tree.map(lambda f: 1.1 * f, FISHER["dense"]))


# Elastic Weight Consolidation.


def ewc_models():
    """Three models; their Fishers are zero in some entries, in one in all three."""
    models = [
        (random_tree(seed), jax.tree.map(np.square, random_tree(seed + 1)))
        for seed in (10, 20, 30)
    ]
    for i, (_, f) in enumerate(models):
        f["scale"][0] = 0.0
        f["dense"]["w"][i, 1] = 0.0
    return models


@both_kinds
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jitted"])
def test_accumulate_is_the_sum_of_the_separate_quadratics(kind, jitted):
    alpha, models = 2.0, ewc_models()
    tx = make(kind, alpha)
    state = tx.init(params)

    def merge(state, a, f):
        return wpl_jax.consolidate(state, a, f, rule=wpl_jax.accumulate)

    merge = jax.jit(merge) if jitted else merge
    for a, f in models:
        state = merge(state, to_jax(a), to_jax(f))

    def pull(p):
        """Gradient of the three penalties, each with its own anchor."""
        each = [
            jax.tree.map(lambda t, a, f: alpha * f * (t - a), p, a, f)
            for a, f in models
        ]
        return jax.tree.map(lambda *x: sum(x), *each)

    def value(p):
        each = [
            jax.tree.map(lambda t, a, f: alpha / 2 * np.sum(f * (t - a) ** 2), p, a, f)
            for a, f in models
        ]
        return sum(jax.tree.leaves(each))

    updates, _ = tx.update(update, state, params)
    if kind == EXPLICIT:
        expected = jax.tree.map(np.add, UPDATE, pull(PARAMS))
        assert_close(updates, expected, rtol=1e-5, atol=1e-5)
    else:  # The optimality condition: step = update - lr * pull(where it leads).
        moved = jax.tree.map(lambda p, u: p + np.float64(u), PARAMS, updates)
        expected = jax.tree.map(lambda u, g: u - LR * g, UPDATE, pull(moved))
        assert_close(updates, expected, rtol=1e-5, atol=1e-5)
    # The newest anchor where no model has a Fisher; no NaN.
    newest = models[-1][0]["scale"][0]
    np.testing.assert_allclose(state.anchor["scale"][0], newest, rtol=1e-6)
    assert_close(state.fisher, jax.tree.map(lambda *x: sum(x), *(f for _, f in models)))
    # Values up to a constant.
    got = [wpl_jax.penalty_value(state, p, alpha) for p in (params, anchor, update)]
    true = [value(p) for p in (PARAMS, ANCHOR, UPDATE)]
    np.testing.assert_allclose(np.diff(got), np.diff(true), rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_accumulate_keeps_the_mean_of_thousands_of_anchors(dtype):
    rng = np.random.default_rng(0)
    models, shape = 5000, (8,)
    anchors = jnp.asarray(2 + rng.normal(size=(models, *shape)), dtype)
    fishers = jnp.asarray(rng.uniform(0.5, 1.5, (models, *shape)), jnp.float32)

    def merge(state, model):
        return wpl_jax.consolidate(state, *model, rule=wpl_jax.accumulate), None

    start = wpl_jax.weight_plasticity(1.0).init(jnp.zeros(shape, dtype))
    state, _ = jax.lax.scan(merge, start, (anchors, fishers))
    weights = np.float64(fishers)
    mean = (weights * np.float64(anchors)).sum(0) / weights.sum(0)
    np.testing.assert_allclose(state.anchor, mean, rtol=1e-5)
    np.testing.assert_allclose(state.fisher, weights.sum(0), rtol=1e-5)


@pytest.mark.parametrize("gamma", [0, 0.25, 1.0])
def test_online_is_its_recursion(gamma):
    tx = chain(EXPLICIT, 1.0)
    state, expected = tx.init(params), zeros(FISHER)
    for a, f in ewc_models():
        state = wpl_jax.consolidate(
            state, to_jax(a), to_jax(f), rule=wpl_jax.online(gamma)
        )
        expected = jax.tree.map(lambda old, new: gamma * old + new, expected, f)
        assert_identical(state[0].anchor, to_jax(a))
        assert_close(state[0].fisher, expected)


@pytest.mark.parametrize(("decay", "fisher_decay"), [(0.75, None), (0.5, 0), (0, 0.9)])
def test_moving_averages_begin_at_the_first_model_with_a_fisher(decay, fisher_decay):
    models = ewc_models()
    rule = wpl_jax.moving_average(decay, fisher_decay)
    state = wpl_jax.weight_plasticity(1.0).init(params)
    of_fisher = decay if fisher_decay is None else fisher_decay
    expected = [zeros(ANCHOR), zeros(FISHER)]
    for a, f in models:
        state = wpl_jax.consolidate(state, to_jax(a), to_jax(f), rule=rule)
        seen = jax.tree.map(lambda old: old > 0, expected[1])
        for i, (new, share) in enumerate(((a, decay), (f, of_fisher))):
            expected[i] = jax.tree.map(
                lambda old, new, seen, share=share: np.where(
                    seen, share * old + (1 - share) * new, new
                ),
                *(expected[i], new, seen),
            )
    assert_close(state.anchor, expected[0])
    assert_close(state.fisher, expected[1])
    # Written out for an entry that all models use: weights of the three models.
    weights = np.array([decay**2, decay * (1 - decay), 1 - decay])
    by_hand = weights @ np.array([a["scale"][1] for a, _ in models])
    np.testing.assert_allclose(state.anchor["scale"][1], by_hand, rtol=1e-5)


def test_replace_forgets_and_any_rule_can_be_given():
    tx = chain(EXPLICIT, 1.0)
    newest = jax.tree.map(jnp.abs, update)
    state = wpl_jax.consolidate(consolidated(tx), params, newest)
    assert_identical(state[0].anchor, params)
    assert_identical(state[0].fisher, newest)

    def largest(old_a, old_f, a, f):
        return (jnp.where(f > old_f, a, old_a), f + old_f)

    state = wpl_jax.consolidate(consolidated(tx), params, newest, rule=largest)
    chosen = jax.tree.map(
        lambda new, old, p, a: np.where(new > old, p, a),
        jax.tree.map(np.abs, UPDATE),
        FISHER,
        PARAMS,
        ANCHOR,
    )
    assert_identical(state[0].anchor, to_jax(chosen))


# Errors.


def bad(name, leaf):
    """The parameters with another leaf at a path of one or two names."""
    tree = {"dense": dict(params["dense"]), "scale": params["scale"]}
    if leaf is None:
        del tree["dense"][name]
    else:
        tree["dense"][name] = leaf
    return tree


TX = wpl_jax.weight_plasticity(1.0)
STATE = TX.init(params)
PLAIN = optax.adam(LR).init(params)
TREE = {"w": jnp.ones(2)}
LONGER = TREE | {"c": jnp.ones(2)}
SMALL = TX.init(TREE)
ERRORS = {
    "negative alpha": (
        lambda: wpl_jax.weight_plasticity(-0.5),
        ["alpha", "-0.5", "at least 0"],
    ),
    "negative alpha, proximal": (
        lambda: wpl_jax.proximal_weight_plasticity(-2, 0.1),
        ["alpha", "-2"],
    ),
    "alpha not a number": (
        lambda: wpl_jax.weight_plasticity(float("nan")),
        ["alpha", "nan"],
    ),
    "negative learning rate": (
        lambda: wpl_jax.proximal_weight_plasticity(2, -0.25),
        ["learning_rate", "-0.25"],
    ),
    "missing params": (lambda: TX.update(update, STATE), ["parameters", "params"]),
    "missing params, proximal": (
        lambda: make(PROXIMAL, 1.0).update(update, STATE),
        ["parameters", "params"],
    ),
    "no penalty to consolidate": (
        lambda: wpl_jax.consolidate(PLAIN, anchor, fisher),
        ["no weight_plasticity state", "tuple"],
    ),
    "no penalty to value": (
        lambda: wpl_jax.penalty_value(PLAIN, params, 1.0),
        ["no weight_plasticity state", "tuple"],
    ),
    "no penalty to list": (
        lambda: wpl_jax.plasticity_states(()),
        ["no weight_plasticity state", "tuple"],
    ),
    "anchor lacks a leaf": (
        lambda: wpl_jax.consolidate(STATE, bad("b", None), fisher),
        ["anchor", "dense/b", "dense/w"],
    ),
    "fisher lacks a leaf": (
        lambda: wpl_jax.consolidate(STATE, anchor, bad("w", None)),
        ["fisher", "dense/w", "(3, 2)"],
    ),
    "mask lacks a leaf": (
        lambda: TX.update(update, STATE, params, mask=bad("w", None)),
        ["mask", "dense/w"],
    ),
    "value's params lack a leaf": (
        lambda: wpl_jax.penalty_value(STATE, bad("b", None), 1.0),
        ["params", "dense/b"],
    ),
    "anchor's shape": (
        lambda: wpl_jax.consolidate(STATE, bad("w", jnp.ones((2, 3))), fisher),
        ["anchor", "dense/w", "(2, 3)", "(3, 2)"],
    ),
    "anchor that would broadcast": (
        lambda: wpl_jax.consolidate(STATE, bad("w", jnp.ones(2)), fisher),
        ["anchor", "dense/w", "(2,)", "(3, 2)"],
    ),
    "fisher's shape": (
        lambda: wpl_jax.consolidate(STATE, anchor, bad("b", jnp.ones(3))),
        ["fisher", "dense/b", "(3,)", "(2,)"],
    ),
    "value's params' shape": (
        lambda: wpl_jax.penalty_value(STATE, bad("b", jnp.ones(3)), 1.0),
        ["params", "dense/b", "(3,)", "(2,)"],
    ),
    "mask of update": (
        lambda: TX.update(update, STATE, params, mask=bad("w", jnp.ones(3))),
        ["mask", "dense/w", "(3,)", "broadcast", "(3, 2)"],
    ),
    "mask of consolidate": (
        lambda: wpl_jax.consolidate(
            STATE, anchor, fisher, mask=bad("b", jnp.ones((1, 2)))
        ),
        ["mask", "dense/b", "(1, 2)", "broadcast", "(2,)"],
    ),
    "mask of value": (
        lambda: wpl_jax.penalty_value(
            STATE, params, 1.0, mask=bad("w", jnp.ones((3, 3)))
        ),
        ["mask", "dense/w", "(3, 3)", "broadcast", "(3, 2)"],
    ),
    "gamma above 1": (lambda: wpl_jax.online(1.5), ["gamma", "[0, 1]", "1.5"]),
    "gamma below 0": (lambda: wpl_jax.online(-1), ["gamma", "[0, 1]", "-1"]),
    "gamma not a number": (lambda: wpl_jax.online(float("nan")), ["gamma", "nan"]),
    "decay of 1": (lambda: wpl_jax.moving_average(1), ["decay", "below 1", "1"]),
    "decay below 0": (lambda: wpl_jax.moving_average(-0.5), ["decay", "-0.5"]),
    "decay of the Fisher": (
        lambda: wpl_jax.moving_average(0.5, 1.5),
        ["fisher_decay", "1.5"],
    ),
    "update's params": (
        lambda: TX.update(TREE, SMALL, LONGER),
        ["params", "['c']"],
    ),
    "update's mask": (
        lambda: TX.update(TREE, SMALL, TREE, mask=LONGER),
        ["mask", "['c']"],
    ),
    "value's params": (
        lambda: wpl_jax.penalty_value(SMALL, LONGER, 1.0),
        ["params", "['c']"],
    ),
    "anchor and Fisher": (
        lambda: wpl_jax.consolidate(SMALL, LONGER, LONGER),
        ["anchor", "['c']"],
    ),
    "value's alpha in words": (
        lambda: wpl_jax.penalty_value(SMALL, TREE, "0.5"),
        ["alpha", "'0.5'"],
    ),
    "value's alpha below zero": (
        lambda: wpl_jax.penalty_value(SMALL, TREE, -1.0),
        ["alpha", "-1.0"],
    ),
    "no rule": (
        lambda: wpl_jax.consolidate(SMALL, TREE, TREE, rule=None),
        ["rule must be a function", "None"],
    ),
    "a rule of other shapes": (
        lambda: wpl_jax.consolidate(
            SMALL, TREE, TREE, rule=lambda a, f, anchor, fisher: (anchor[:1], fisher)
        ),
        ["rule", "(1,)", "(2,)"],
    ),
    "whole parameters": (
        lambda: TX.init({"n": jnp.int32(1)}),
        ["'n'", "int32"],
    ),
    "keys among the parameters": (
        lambda: TX.init({"key": jax.random.key(0)}),
        ["'key'", "key<fry>"],
    ),
    "a complex Fisher": (
        lambda: wpl_jax.consolidate(SMALL, TREE, {"w": jnp.ones(2) * 1j}),
        ["fisher at 'w'", "complex64"],
    ),
}


@pytest.mark.parametrize("kind", [np.float32, jnp.float32])
def test_negative_scalars_of_numpy_and_jax_are_errors(kind):
    with pytest.raises(ValueError, match="alpha"):
        wpl_jax.weight_plasticity(kind(-0.5))
    with pytest.raises(ValueError, match="gamma"):
        wpl_jax.online(kind(-0.5))


def test_a_schedule_is_no_share_of_earlier_models():
    """Unlike alpha and learning rates, it would be called by nobody."""
    for rule in (wpl_jax.online, wpl_jax.moving_average):
        with pytest.raises(ValueError, match=r"must be a number .*function"):
            rule(lambda step: 0.5)


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_what_is_wrong(case):
    assert_says(*ERRORS[case])


# Entries that no Fisher has, and strengths that no penalty has.


@pytest.mark.parametrize("step", [EXPLICIT, PROXIMAL])
@pytest.mark.parametrize("entry", [jnp.nan, -jnp.inf, -1 / LR])
def test_a_wrong_entry_of_a_traced_fisher_leaves_its_parameter_alone(step, entry):
    tx = chain(step, 1.0)
    p, g = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([0.5, 0.5])}

    @jax.jit
    def update(fisher):
        state = wpl_jax.consolidate(tx.init(p), {"w": jnp.zeros(2)}, fisher)
        updates, state = tx.update(g, state, p)
        return updates["w"], wpl_jax.penalty_value(state, p, 1.0)

    moved, value = update({"w": jnp.array([entry, 1.0])})
    plain, plain_value = update({"w": jnp.array([0.0, 1.0])})
    np.testing.assert_array_equal(moved, plain)
    np.testing.assert_array_equal(value, plain_value)
    with pytest.raises(ValueError, match="fisher at 'w'"):
        wpl_jax.consolidate(tx.init(p), p, {"w": jnp.array([entry, 1.0])})


@pytest.mark.parametrize("step", [EXPLICIT, PROXIMAL])
def test_an_infinite_fisher_outside_the_mask_moves_nothing(step):
    tx = chain(step, 1.0)
    p, g = {"w": jnp.array([1.0, 1.0])}, {"w": jnp.array([0.5, 0.5])}

    def update(fisher, mask):
        state = jax.tree.map(lambda x: x, tx.init(p))
        state = wpl_jax.penalty.map_states(
            lambda s: s._replace(fisher={"w": fisher}), state
        )
        return tx.update(g, state, p, mask={"w": mask})[0]["w"]

    got = jax.jit(update)(jnp.array([jnp.inf, 1.0]), jnp.array([0, 1]))
    want = jax.jit(update)(jnp.array([0.0, 1.0]), jnp.array([1, 1]))
    np.testing.assert_array_equal(got, want)


def test_a_schedule_below_zero():
    tx = chain(EXPLICIT, lambda count: -1.0)
    p = {"w": jnp.ones(2)}
    state = wpl_jax.consolidate(tx.init(p), {"w": jnp.zeros(2)}, p)
    with pytest.raises(ValueError, match=r"schedule returns must be .* at least 0"):
        tx.update(p, state, p)
    tx = chain(EXPLICIT, lambda count: -1.0 * count - 1.0)
    state = wpl_jax.consolidate(tx.init(p), {"w": jnp.zeros(2)}, p)
    updates, _ = jax.jit(tx.update)(p, state, p)
    plain, _ = jax.jit(tx.update)(p, tx.init(p), p)
    np.testing.assert_array_equal(updates["w"], plain["w"])


@pytest.mark.parametrize("alpha", ["x", None, "0.5", True])
def test_a_strength_that_is_no_number(alpha):
    with pytest.raises(ValueError, match=f"alpha must be a number.*{alpha!r}"):
        wpl_jax.weight_plasticity(alpha)


def test_trees_with_leaves_more_or_less():
    tx = chain(EXPLICIT, 1.0)
    p = {"w": jnp.ones(2), "b": jnp.ones(2)}
    state = tx.init(p)
    more = p | {"c": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"fisher tree has leaves at \['c'\]"):
        wpl_jax.consolidate(state, p, more)
    with pytest.raises(ValueError, match=r"mask tree has leaves at \['c'\]"):
        wpl_jax.consolidate(state, p, p, mask=more)
    less = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"anchor tree has leaves at \['b'\]"):
        tx.update(less, state, less)


def test_a_rule_with_one_result():
    tx = chain(EXPLICIT, 1.0)
    p = {"w": jnp.ones(2)}
    with pytest.raises(ValueError, match="must return the pair"):
        wpl_jax.consolidate(tx.init(p), p, p, rule=lambda *each: each[0])


def test_fishers_that_add_up_beyond_the_range_still_protect():
    tx = chain(EXPLICIT, 1.0)
    p, state = {"w": jnp.ones(1)}, None
    state = tx.init(p)
    for _ in range(3):
        fisher = {"w": jnp.full(1, 3e38)}
        state = wpl_jax.consolidate(state, p, fisher, rule=wpl_jax.accumulate)
    value = wpl_jax.penalty_value(state, {"w": jnp.zeros(1)}, 1e-30)
    np.testing.assert_allclose(value, 1e-30 / 2 * np.finfo(np.float32).max, rtol=1e-5)


@pytest.mark.slow_except("proximal")
@pytest.mark.parametrize("step", [EXPLICIT, PROXIMAL])
def test_complex_parameters_move_as_their_two_parts_do(step):
    tx = chain(step, 2.0)
    rng = np.random.default_rng(0)
    z, anchor, gradient = (
        jnp.asarray(rng.normal(size=3) + 1j * rng.normal(size=3), jnp.complex64)
        for _ in range(3)
    )
    fisher = jnp.array([0.0, 1.0, 3.0])

    def parts(x):
        return {"re": x.real, "im": x.imag}

    both = {"re": fisher, "im": fisher}
    whole = wpl_jax.consolidate(tx.init(z), anchor, fisher)
    apart = wpl_jax.consolidate(tx.init(parts(z)), parts(anchor), both)
    got, _ = tx.update(gradient, whole, z)
    want, _ = tx.update(parts(gradient), apart, parts(z))
    np.testing.assert_allclose(got, want["re"] + 1j * want["im"], rtol=1e-6)
    value = wpl_jax.penalty_value(whole, z, 2.0)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(
        value, wpl_jax.penalty_value(apart, parts(z), 2.0), rtol=1e-6
    )


# Trees as wrappers hold them, and entries that are not numbers.


def _in_one_array():
    tree = {"a": jnp.ones(2), "b": jnp.ones(3)}
    inside = optax.flatten(chain(EXPLICIT, 1.0))
    return inside.init(tree), tree


def _in_two_parts():
    tree = {"a": jnp.ones(2) * 1j}
    inside = optax.contrib.split_real_and_imaginary(chain(EXPLICIT, 1.0))
    return inside.init(tree), tree


def _in_a_box(inside):
    plain = {"a": jnp.ones(2)}
    boxed = {"a": nn.Partitioned(jnp.ones(2), ("x",))}
    state, tree = (boxed, plain) if inside else (plain, boxed)
    return chain(EXPLICIT, 1.0).init(state), tree


WRAPPED = {
    "optax.flatten": _in_one_array,
    "optax.contrib.split_real_and_imaginary": _in_two_parts,
    "flax.linen.meta.unbox": lambda: _in_a_box(True),
    "both without": lambda: _in_a_box(False),
}


@pytest.mark.parametrize("word", WRAPPED)
def test_wrappers_that_change_the_tree_are_named(word):
    state, tree = WRAPPED[word]()
    ones = jax.tree.map(jnp.abs, tree)
    with pytest.raises(ValueError, match=word):
        wpl_jax.consolidate(state, tree, ones)
    with pytest.raises(ValueError, match=word):
        wpl_jax.penalty_value(state, tree, 1.0)


def test_boxes_on_one_side_of_an_update_are_named():
    plain = {"a": jnp.ones(2)}
    boxed = {"a": nn.Partitioned(jnp.ones(2), ("x",))}
    tx = chain(EXPLICIT, 1.0)
    with pytest.raises(ValueError, match=re.escape("flax.linen.meta.unbox")):
        tx.update(plain, tx.init(boxed), plain)


@pytest.mark.slow_except("proximal")
@pytest.mark.parametrize("step", [EXPLICIT, PROXIMAL])
def test_complex_parameters_beside_a_split_optimizer(step):
    """Trained as the loss of real and imaginary parts is, under Adam."""
    rng = np.random.default_rng(0)
    target, z = (
        jnp.asarray(rng.normal(size=3) + 1j * rng.normal(size=3), jnp.complex64)
        for _ in range(2)
    )
    adam = optax.adam(LR)
    split = optax.contrib.split_real_and_imaginary(adam)

    def join(optimizer):
        if step == EXPLICIT:
            return optax.chain(wpl_jax.weight_plasticity(2.0), optimizer)
        return optax.chain(optimizer, wpl_jax.proximal_weight_plasticity(2.0, LR))

    def loss(z):
        return jnp.sum(jnp.abs(z**2 - target) ** 2)

    def loss_of_parts(p):
        return loss(p["re"] + 1j * p["im"])

    fisher = jnp.array([0.0, 1.0, 3.0])
    parts = {"re": z.real, "im": z.imag}
    whole, apart = join(split), join(adam)
    state = wpl_jax.consolidate(whole.init(z), z, fisher)
    state_apart = wpl_jax.consolidate(
        apart.init(parts), parts, {"re": fisher, "im": fisher}
    )
    start = z
    for _ in range(5):
        gradient = jnp.conj(jax.grad(loss)(z))
        updates, state = whole.update(gradient, state, z)
        z = optax.apply_updates(z, updates)
        gradient = jax.grad(loss_of_parts)(parts)
        updates, state_apart = apart.update(gradient, state_apart, parts)
        parts = optax.apply_updates(parts, updates)
    np.testing.assert_allclose(z, parts["re"] + 1j * parts["im"], rtol=1e-5)
    assert jnp.all(jnp.abs(z - start) > 1e-3)


def test_accumulate_takes_complex_anchors():
    tx = chain(EXPLICIT, 1.0)
    z = jnp.array([1 + 2j, 3 - 1j])
    state = wpl_jax.consolidate(tx.init(z), z, jnp.array([1.0, 2.0]))
    state = wpl_jax.consolidate(
        state, z + 4j, jnp.array([3.0, 2.0]), rule=wpl_jax.accumulate
    )
    (found,) = wpl_jax.plasticity_states(state)
    np.testing.assert_allclose(found.anchor, [1 + 5j, 3 + 1j], rtol=1e-6)
    np.testing.assert_allclose(found.fisher, [4, 4])


@pytest.mark.parametrize("step", [EXPLICIT, PROXIMAL])
def test_a_traced_mask_or_anchor_that_is_not_a_number_leaves_entries_alone(step):
    tx, p = chain(step, 1.0), {"w": jnp.ones(2)}
    zero = {"w": jnp.zeros(2)}
    bad = {"w": jnp.array([jnp.nan, 1.0])}
    state = wpl_jax.consolidate(tx.init(p), zero, p)
    got = jax.jit(lambda m: tx.update(zero, state, p, mask=m)[0]["w"])(bad)
    want, _ = tx.update(zero, state, p, mask={"w": jnp.array([0, 1])})
    np.testing.assert_array_equal(got, want["w"])
    with pytest.raises(ValueError, match=r"mask at 'w' has entries such as nan"):
        tx.update(zero, state, p, mask=bad)
    kept = jax.jit(lambda a: wpl_jax.consolidate(state, a, zero))(bad)
    (kept,) = wpl_jax.plasticity_states(kept)
    np.testing.assert_array_equal(kept.anchor["w"], [0, 1])
    np.testing.assert_array_equal(kept.fisher["w"], [1, 0])
    with pytest.raises(ValueError, match=r"anchor at 'w' has entries such as nan"):
        wpl_jax.consolidate(state, bad, zero)


@pytest.mark.parametrize("strength", [-1.0, np.nan])
def test_traced_strengths_that_cannot_be_count_as_zero(strength):
    p, zero = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}

    @jax.jit
    def step(alpha):
        tx = wpl_jax.weight_plasticity(alpha)
        state = wpl_jax.consolidate(tx.init(p), zero, p)
        return tx.update(p, state, p)[0]["w"]

    np.testing.assert_array_equal(step(strength), [1, 1])


def test_an_infinite_schedule_does_not_move_what_has_no_fisher():
    p, zero = {"w": jnp.ones(2)}, {"w": jnp.zeros(2)}
    tx = wpl_jax.weight_plasticity(lambda count: (count + 1) * jnp.inf)

    @jax.jit
    def step(fisher):
        state = wpl_jax.consolidate(tx.init(p), zero, fisher)
        return tx.update(p, state, p)[0]["w"]

    np.testing.assert_array_equal(step(zero), [1, 1])


TREE = {"w": jnp.ones(2)}
LONGER = TREE | {"c": jnp.ones(2)}
