"""The Fisher diagonal against analytic gradients in float64 numpy."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.raising import assert_says

import wpl_jax

N, INPUTS, CLASSES = 10, 3, 4


# Softmax regression, in JAX for one example and in numpy for all of them.


def logits(params, x):
    return x @ params["w"] + params["b"]


def loss(params, example):
    x, label = example
    return -jax.nn.log_softmax(logits(params, x))[label]


def probabilities(params, x):
    z = x @ params["w"] + params["b"]
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def gradients(params, examples):
    """Gradients of the examples one by one, d loss / d logits = p - onehot."""
    out = []
    for x, label in zip(*examples, strict=True):
        residual = probabilities(params, x) - np.eye(CLASSES)[label]
        out.append({"b": residual, "w": np.outer(x, residual)})
    return out


def mean_square(trees):
    return jax.tree.map(lambda *g: np.mean(np.square(g), axis=0), *trees)


def make_data(n, seed=0):
    """Parameters and examples; float64 that float32 represents exactly."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32).astype(np.float64)  # noqa: E731
    params = {"b": draw(CLASSES), "w": draw(INPUTS, CLASSES)}
    return params, (draw(n, INPUTS), rng.integers(CLASSES, size=n))


def to_jax(tree, dtype=jnp.float32):
    """Floating-point leaves in ``dtype``."""
    return jax.tree.map(
        lambda x: jnp.asarray(x, dtype if x.dtype == np.float64 else None), tree
    )


PARAMS, EXAMPLES = make_data(N)
params, examples = to_jax(PARAMS), to_jax(EXAMPLES)


def assert_close(actual, expected, rtol=1e-5, atol=1e-7):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(e, np.float64), rtol, atol
        ),
        actual,
        expected,
    )


def dtypes(tree):
    return {x.dtype.name for x in jax.tree.leaves(tree)}


# The estimators.

ESTIMATORS = {
    "per example": wpl_jax.per_example_fisher,
    "batch": wpl_jax.batch_fisher,
}
both_estimators = pytest.mark.parametrize(
    "estimator", ESTIMATORS.values(), ids=ESTIMATORS
)


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 1000])
def test_per_example_fisher_against_a_loop_over_examples(chunk_size):
    fisher = wpl_jax.per_example_fisher(loss, params, examples, chunk_size=chunk_size)
    assert_close(fisher, mean_square(gradients(PARAMS, EXAMPLES)))
    assert dtypes(fisher) == {"float32"}


def test_per_example_fisher_of_one_example():
    one = jax.tree.map(lambda x: x[:1], EXAMPLES)
    fisher = wpl_jax.per_example_fisher(loss, params, to_jax(one))
    assert_close(fisher, mean_square(gradients(PARAMS, one)))


@pytest.mark.parametrize("batch_size", [None, 1, 5])
def test_batch_fisher_squares_the_mean_gradients(batch_size):
    fisher = wpl_jax.batch_fisher(loss, params, examples, batch_size=batch_size)
    each = gradients(PARAMS, EXAMPLES)
    size = batch_size or N
    means = [
        jax.tree.map(lambda *g: np.mean(g, axis=0), *each[start : start + size])
        for start in range(0, N, size)
    ]
    assert len(means) == N // size
    assert_close(fisher, mean_square(means))
    assert dtypes(fisher) == {"float32"}


def test_square():
    gradient = {"a": jnp.array([300.0, -0.5], jnp.float16), "b": jnp.array(-3.0)}
    squares = wpl_jax.square(gradient)
    assert_close(squares, {"a": np.array([9e4, 0.25]), "b": np.array(9.0)})
    assert dtypes(squares) == {"float32"}


def network(p, example):
    """A loss with weights used once and weights used twice."""
    h = jnp.tanh(example["x"] @ p["w"] + p["b"])
    h = jnp.tanh(h @ p["square"] @ p["square"]) + p["table"][example["index"]]
    return jnp.sum(h * jax.random.normal(example["key"], h.shape)) * example["half"]


def network_data(n=7):
    rng = np.random.default_rng(1)
    normal = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    p = {"w": normal(3, 4), "b": normal(4), "square": normal(4, 4)}
    p["table"] = normal(5, 4)
    items = {
        "x": normal(n, 3),
        "index": jnp.asarray(rng.integers(5, size=n), jnp.int8),
        "key": jax.random.split(jax.random.key(0), n),
        "half": normal(n).astype(jnp.bfloat16),
    }
    return p, items


def test_examples_may_be_any_pytree():
    """Integers, PRNG keys and half precision among them, against a Python loop."""
    p, items = network_data()
    gradient = jax.jit(jax.grad(network))
    each = [gradient(p, jax.tree.map(lambda x, i=i: x[i], items)) for i in range(7)]
    expected = mean_square(jax.tree.map(np.float64, each))
    got = wpl_jax.per_example_fisher(network, p, items, chunk_size=3)
    assert_close(got, expected, rtol=1e-4, atol=1e-6)
    # The same from batches of one.
    got = wpl_jax.batch_fisher(network, p, items, batch_size=1)
    assert_close(got, expected, rtol=1e-4, atol=1e-6)


def reference(estimator, model):
    """The estimate from all examples, in numpy."""
    each = gradients(model, EXAMPLES)
    if estimator is wpl_jax.batch_fisher:
        each = [jax.tree.map(lambda *g: np.mean(g, axis=0), *each)]
    return mean_square(each)


@both_estimators
def test_under_jit_and_vmap_over_parameters(estimator):
    scales = jnp.array([1.0, 0.0, -2.0])

    def run(scale):
        scaled = jax.tree.map(lambda p: scale * p, params)
        return estimator(loss, scaled, examples)

    got = jax.jit(jax.vmap(run))(scales)
    for i, scale in enumerate(scales):
        expected = reference(
            estimator, jax.tree.map(lambda p, scale=scale: float(scale) * p, PARAMS)
        )
        assert_close(jax.tree.map(lambda x, i=i: x[i], got), expected, atol=1e-6)


@pytest.mark.slow
def test_under_vmap_over_seeds():
    keys = jax.random.split(jax.random.key(0), 3)
    resample = wpl_jax.sample_class(logits)

    def run(key):
        return wpl_jax.per_example_fisher(
            loss, params, examples, resample=resample, key=key
        )

    got, one_by_one = jax.jit(jax.vmap(run))(keys), jax.jit(run)
    for i, key in enumerate(keys):
        assert_close(jax.tree.map(lambda x, i=i: x[i], got), one_by_one(key))
    assert np.std(got["w"], axis=0).max() > 0.01


@pytest.mark.slow_except("batch-float16")
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@both_estimators
def test_half_precision_gives_float32(estimator, dtype):
    p, e = to_jax(PARAMS, dtype), to_jax(EXAMPLES, dtype)
    fisher = estimator(loss, p, e)
    assert dtypes(fisher) == {"float32"}
    expected = reference(estimator, jax.tree.map(np.float64, p))
    assert_close(fisher, expected, rtol=0.1, atol=0.01)


@pytest.mark.slow
@both_estimators
def test_numpy_parameters_and_examples(estimator):
    fisher = estimator(loss, PARAMS, EXAMPLES)
    assert_close(fisher, reference(estimator, PARAMS))


def test_float64():
    with jax.enable_x64(True):
        p, e = to_jax(PARAMS, jnp.float64), to_jax(EXAMPLES, jnp.float64)
        fisher = wpl_jax.per_example_fisher(loss, p, e, chunk_size=3)
        assert dtypes(fisher) == {"float64"}
        assert_close(fisher, mean_square(gradients(PARAMS, EXAMPLES)), rtol=1e-12)


# Labels drawn from the model.


def test_labels_from_the_model_give_the_true_fisher():
    """E (p - y)^2 x^2 = p (1 - p) x^2, within five standard errors in each entry."""
    n = 4000
    model, (x, labels) = make_data(n, seed=2)
    model = jax.tree.map(lambda p: p / 2, model)
    fisher = wpl_jax.per_example_fisher(
        loss,
        to_jax(model),
        to_jax((x, labels)),
        chunk_size=1500,
        resample=wpl_jax.sample_class(logits),
        key=jax.random.key(0),
    )
    p = probabilities(model, x)
    mean = p * (1 - p)
    fourth = p * (1 - p) ** 4 + (1 - p) * p**4
    variance = fourth - mean**2
    squares = {"b": np.ones((n, 1)), "w": x**2}
    for name, square in squares.items():
        expected = np.einsum("nj,nk->jk", square, mean) / n
        error = np.sqrt(np.einsum("nj,nk->jk", square**2, variance)) / n
        got = np.reshape(fisher[name], expected.shape)
        assert (np.abs(got - expected) < 5 * error).all()
        # The labels of the data, which are uniform, would not pass.
        empirical = mean_square(gradients(model, (x, labels)))[name]
        distance = np.abs(np.reshape(empirical, expected.shape) - expected)
        assert (distance > 5 * error).any()


@pytest.mark.slow
def test_the_draws_do_not_depend_on_the_chunk_size():
    resample = wpl_jax.sample_class(logits)

    @functools.partial(jax.jit, static_argnums=0)
    def run(chunk_size, key):
        return wpl_jax.per_example_fisher(
            loss, params, examples, chunk_size=chunk_size, resample=resample, key=key
        )

    whole = run(100, jax.random.key(0))
    assert_close(run(3, jax.random.key(0)), whole)
    assert not np.allclose(run(100, jax.random.key(1))["w"], whole["w"])
    batches = wpl_jax.batch_fisher(
        loss, params, examples, batch_size=1, resample=resample, key=jax.random.key(0)
    )
    assert_close(batches, whole)


@pytest.mark.parametrize("make_key", [jax.random.key, jax.random.PRNGKey])
def test_resampled_examples_are_drawn_one_by_one(make_key):
    """Every example gets another draw, of its own label only."""
    n = 64
    items = jnp.arange(n, dtype=jnp.float32), jnp.zeros(n, jnp.int8)

    def resample(key, p, example):
        x, label = wpl_jax.sample_class(lambda p, x: jnp.zeros(CLASSES))(
            key, p, example
        )
        assert label.dtype == jnp.int8
        return x, label

    def one_hot(p, example):
        x, label = example
        return jnp.sum(p * jax.nn.one_hot(label, CLASSES)) * jnp.sqrt(x)

    seen = wpl_jax.per_example_fisher(
        one_hot, jnp.zeros(CLASSES), items, resample=resample, key=make_key(0)
    )
    # Entry k is the mean of x over the examples that drew k; all x are there once.
    np.testing.assert_allclose(jnp.sum(seen), np.arange(n).mean(), rtol=1e-5)
    assert (seen > 0.1 * np.arange(n).mean() / CLASSES).all()


# The running average.


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("eta", [0.9, 0.25, 0, 1])
def test_update_average_is_its_recursion(form, eta):
    rng = np.random.default_rng(0)
    news = [{"a": rng.random((2, 3)), "b": [rng.random(2)]} for _ in range(3)]
    average = expected = jax.tree.map(np.zeros_like, news[0])
    average = to_jax(average)
    weight = {"paper": 1, "code": eta}[form]
    for new in news:
        average = wpl_jax.update_average(average, to_jax(new), eta=eta, form=form)
        expected = jax.tree.map(lambda f, g: (1 - eta) * f + weight * g, expected, new)
    assert_close(average, expected)


def test_update_average_defaults_to_the_paper():
    got = wpl_jax.update_average(jnp.array([10.0]), jnp.array([3.0]))
    np.testing.assert_allclose(got, [4.0], rtol=1e-6)  # 0.1 * 10 + 3


@pytest.mark.parametrize("dtype", [bool, jnp.int8, jnp.float32])
def test_update_average_keeps_what_is_outside_the_mask(dtype):
    old = {"a": jnp.array([[1.0, 2.0], [3.0, 4.0]]), "b": jnp.array([5.0])}
    new = jax.tree.map(lambda x: 10 * x, old)
    mask = {"a": jnp.array([[1], [0]], dtype), "b": jnp.array(1, dtype)}
    got = wpl_jax.update_average(old, new, eta=0.5, mask=mask)
    expected = {"a": np.array([[10.5, 21.0], [3.0, 4.0]]), "b": np.array([52.5])}
    assert_close(got, expected)


def test_clip_norm_acts_on_each_tensor():
    fisher = {
        "large": jnp.array([[30.0, 0.0], [0.0, 40.0]]),  # norm 50
        "small": jnp.array([3.0, 4.0]),
        "zero": jnp.zeros(3),
    }
    got = wpl_jax.clip_norm(fisher, 10)
    expected = {
        "large": np.array([[6.0, 0.0], [0.0, 8.0]]),
        "small": np.array([3.0, 4.0]),
        "zero": np.zeros(3),
    }
    assert_close(got, expected)
    np.testing.assert_array_equal(got["small"], fisher["small"])


def test_clip_norm_of_a_huge_fisher():
    got = wpl_jax.clip_norm(jnp.array([3e20, 4e20]), 10.0)
    np.testing.assert_allclose(got, [6.0, 8.0], rtol=1e-6)


def test_flush():
    got = wpl_jax.flush({"a": jnp.ones((2, 3), jnp.float32), "b": jnp.ones(2)})
    assert_close(got, {"a": np.zeros((2, 3)), "b": np.zeros(2)}, atol=0)
    assert dtypes(got) == {"float32"}


# The scale.


@functools.partial(jax.jit, static_argnames="per")
def normalize_both(fisher, mask=None, per="tree"):
    """Under both scales, in one program."""
    return [wpl_jax.normalize(fisher, mask, per=per, scale=s) for s in ("unit", "loss")]


RAW = {"a": np.array([[1.0, 2.0], [6.0, 0.0]]), "b": np.array([0.5, 0.1, 0.3])}
MASKS = {
    "none": None,
    "entries": {
        "a": np.array([[True, False], [True, True]]),
        "b": np.array([False, True, True]),
    },
    "broadcast": {"a": np.array([[1], [0]]), "b": np.array(1)},
    "one tensor": {"a": np.array(0), "b": np.array([1, 0, 1])},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("per", ["tree", "tensor"])
@pytest.mark.parametrize("size", [1.0, 1e-12])
def test_normalize(size, per, mask):
    fisher = jax.tree.map(lambda f: np.float32(size * f), RAW)
    mask = MASKS[mask]
    ones = jax.tree.map(np.ones_like, RAW)
    full = jax.tree.map(lambda f, m: (f * m + m) != 0, ones, mask or ones)
    unit, root = normalize_both(fisher, mask, per=per)
    groups = [["a", "b"]] if per == "tree" else [["a"], ["b"]]
    for group in groups:
        inside = lambda tree: np.concatenate(  # noqa: E731
            [np.float64(tree[name])[full[name]] for name in group]  # noqa: B023
        )
        if not inside(fisher).size:
            continue
        mean = inside(fisher).mean()
        np.testing.assert_allclose(inside(unit).mean(), 1, rtol=1e-6)
        np.testing.assert_allclose(inside(unit), inside(fisher) / mean, rtol=1e-6)
        expected = inside(fisher) / np.sqrt(mean)
        np.testing.assert_allclose(inside(root), expected, rtol=1e-6)
    for scaled in (unit, root):
        for name, f in fisher.items():
            outside = ~full[name]
            np.testing.assert_array_equal(scaled[name][outside], f[outside])


@pytest.mark.parametrize("per", ["tree", "tensor"])
def test_normalize_leaves_a_zero_fisher_alone(per):
    zeros = {"a": np.zeros((2, 2), np.float32), "b": np.zeros(3, np.float32)}
    for got in normalize_both(zeros, per=per):
        assert_close(got, zeros, atol=0)
    half = zeros | {"b": np.array([1.0, 2.0, 3.0], np.float32)}
    for got in normalize_both(half, per=per):
        assert not np.any(got["a"])
        assert np.all(got["b"] > 0)
    nothing = {"a": np.array(0), "b": np.zeros(3, int)}
    for got in normalize_both(half, nothing, per=per):
        assert_close(got, half, atol=0)


@functools.partial(jax.jit, static_argnames="scale")
def train(c, learning_rate, scale):
    """Two tasks one after the other, the loss multiplied by ``c``.

    Returns the path of the parameters through the second and the penalty's value
    at the same distance from the anchor.
    """
    task_a, task_b = examples, to_jax(make_data(N, seed=5)[1])
    tx = optax.chain(wpl_jax.weight_plasticity(0.5), optax.sgd(learning_rate))

    def scaled_loss(p, example):
        return c * loss(p, example)

    def mean_loss(p, task):
        return jnp.mean(jax.vmap(scaled_loss, (None, 0))(p, task))

    def step(carry, task):
        p, state = carry
        updates, state = tx.update(jax.grad(mean_loss)(p, task), state, p)
        p = optax.apply_updates(p, updates)
        return (p, state), p

    def fit(carry, task):
        tasks = jax.tree.map(lambda x: jnp.stack([x] * 20), task)
        return jax.lax.scan(step, carry, tasks)

    (p, state), _ = fit((params, tx.init(params)), task_a)
    fisher = wpl_jax.per_example_fisher(scaled_loss, p, task_a)
    if scale is not None:
        fisher = wpl_jax.normalize(fisher, scale=scale)
    state = wpl_jax.consolidate(state, p, fisher)
    moved = jax.tree.map(lambda x: x + 1, p)
    value = wpl_jax.penalty_value(state, moved, 0.5)
    return fit((p, state), task_b)[1], value


@pytest.mark.slow
def test_scale_loss_makes_training_invariant_to_the_scale_of_the_loss():
    """The loss times c and the learning rate over c: the same path."""
    c = 7.0
    path, value = train(1.0, 0.3, "loss")
    scaled_path, scaled_value = train(c, 0.3 / c, "loss")
    assert_close(scaled_path, path, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled_value, c * value, rtol=1e-4)
    # It is the penalty that would differ: without a scale it grows by c squared.
    raw_path, raw_value = train(1.0, 0.3, None)
    other_path, other_value = train(c, 0.3 / c, None)
    np.testing.assert_allclose(other_value, c**2 * raw_value, rtol=1e-4)
    assert np.max(np.abs(other_path["w"][-1] - raw_path["w"][-1])) > 1e-2


@pytest.mark.slow
def test_scale_unit_makes_the_penalty_invariant_to_the_scale_of_the_loss():
    c = 7.0
    _, value = train(1.0, 0.3, "unit")
    _, scaled_value = train(c, 0.3 / c, "unit")  # The same anchor.
    np.testing.assert_allclose(scaled_value, value, rtol=1e-4)
    # At a distance of 1 in every entry it is alpha / 2 times their number.
    size = INPUTS * CLASSES + CLASSES
    np.testing.assert_allclose(value, 0.25 * size, rtol=1e-5)


# Errors.


def vector_loss(p, example):
    return logits(p, example[0])


def pair_loss(p, example):
    return loss(p, example), example


PER_EXAMPLE, BATCH = wpl_jax.per_example_fisher, wpl_jax.batch_fisher
X, LABELS = examples


SQUARES = jax.tree.map(jnp.square, params)


@pytest.mark.parametrize(
    "function",
    [
        lambda number: wpl_jax.update_average(SQUARES, SQUARES, eta=number),
        lambda number: wpl_jax.clip_norm(SQUARES, number),
        lambda number: wpl_jax.online(number)(*[jnp.ones(2)] * 4),
    ],
    ids=["eta", "max_norm", "gamma"],
)
def test_a_jitted_function_may_close_over_a_number(function):
    number = jnp.float32(0.5)
    expected = function(0.5)
    assert_close(jax.jit(function)(number), expected)  # As an argument.
    assert_close(jax.jit(lambda: function(number))(), expected)


# Differentiated themselves, with the derivatives by hand.


def _line(w, example):
    x, y = example
    return (w * x - y) ** 2 / 2


LINE = jnp.array([0.5, 1.0, 2.0]), jnp.array([0.0, 3.0, 1.0])


@pytest.mark.slow
@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_the_fisher_can_be_differentiated(mode):
    x, y = map(np.float64, LINE)
    w = 0.7
    # F = mean (w x^2 - x y)^2.
    want = np.mean(2 * (w * x**2 - x * y) * x**2)
    np.testing.assert_allclose(want, 0.6291667, rtol=1e-6)
    got = mode(lambda w: wpl_jax.per_example_fisher(_line, w, LINE))(w)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
def test_the_fisher_of_a_curved_loss_can_be_differentiated(mode):
    x, w = np.float64(LINE[0]), 0.7
    t = np.tanh(w * x)
    # F = mean g^2 with g = 2 t (1 - t^2) x, and dg/dw = 2 (1 - t^2) (1 - 3 t^2) x^2.
    slope = 2 * (1 - t**2) * (1 - 3 * t**2) * x**2
    want = np.mean(2 * (2 * t * (1 - t**2) * x) * slope)

    def fisher(w):
        return wpl_jax.per_example_fisher(lambda w, x: jnp.tanh(w * x) ** 2, w, LINE[0])

    np.testing.assert_allclose(mode(fisher)(w), want, rtol=1e-5)


def test_complex_parameters_have_real_fishers():
    z, x = jnp.array([1 + 2j, 3 - 1j]), jnp.array([[1, 1j], [1j, 2]])

    def loss(z, x):
        return jnp.abs(jnp.sum(z * x)) ** 2

    # |d/dz|^2 = 4 |x|^2 |sum z x|^2, of which the mean is taken.
    sums = np.abs(np.sum(np.asarray(z) * np.asarray(x), 1)) ** 2
    want = np.mean(4 * np.abs(np.asarray(x)) ** 2 * sums[:, None], 0)
    np.testing.assert_allclose(want, [92, 194])
    for estimate in (
        wpl_jax.per_example_fisher,
        functools.partial(wpl_jax.batch_fisher, batch_size=1),
    ):
        got = estimate(loss, z, x)
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=1e-5)


# Numbers at the ends of the range, and those that are none.

HUGE = {"a": jnp.array([1e38, 1e38]), "b": jnp.array([3e38])}
TINY = {"a": jnp.array([2e-38, 6e-38])}


@pytest.mark.parametrize("fisher", [HUGE, TINY], ids=["huge", "tiny"])
@pytest.mark.parametrize("scale", ["unit", "loss"])
def test_normalize_at_the_ends_of_the_range(fisher, scale):
    entries = np.concatenate([np.asarray(f, np.float64) for f in fisher.values()])
    mean = np.mean(entries)
    want = entries / (mean if scale == "unit" else np.sqrt(mean))
    got = np.concatenate([*wpl_jax.normalize(fisher, scale=scale).values()])
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_clip_norm_of_the_largest_numbers():
    got = wpl_jax.clip_norm(HUGE, 10.0)
    np.testing.assert_allclose(got["a"], [10 / np.sqrt(2)] * 2, rtol=1e-5)
    np.testing.assert_allclose(got["b"], [10.0], rtol=1e-5)


WRONG = jnp.array([1.0, jnp.nan, 3.0, jnp.inf])


# What is to become of 1 and 3, beside the others.
OF_NUMBERS = {
    "normalize": (wpl_jax.normalize, [0.5, 1.5]),
    "clip_norm": (
        lambda fisher: wpl_jax.clip_norm(fisher, 1.0),
        np.array([1, 3]) / np.sqrt(10),
    ),
    "update_average": (
        lambda fisher: wpl_jax.update_average(jnp.zeros(4), fisher),
        [1.0, 3.0],
    ),
}


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_entries_that_are_no_numbers(name):
    """Known ones are an error; traced ones spoil no other entry."""
    function, want = OF_NUMBERS[name]
    with pytest.raises(ValueError, match=r"fisher at '' has entries such as nan"):
        function(WRONG)
    got = np.asarray(jax.jit(function)(WRONG))
    numbers = np.isfinite(WRONG)
    np.testing.assert_allclose(got[numbers], want, rtol=1e-6)


def test_the_square_of_a_number():
    assert wpl_jax.square(-2.0) == 4.0


# Labels in the forms in which people hold them.


def _softmax_loss(params, example):
    x, label = example
    scores = jax.nn.log_softmax(logits(params, x))
    return -jnp.sum(scores * label) if jnp.ndim(label) else -scores[label]


def test_one_hot_labels_give_the_fisher_of_class_numbers():
    rows = jax.nn.one_hot(examples[1], CLASSES)
    options = {"resample": wpl_jax.sample_class(logits), "key": jax.random.key(1)}
    want = wpl_jax.per_example_fisher(_softmax_loss, params, examples, **options)

    @jax.jit
    def of(rows):
        return wpl_jax.per_example_fisher(
            _softmax_loss, params, (examples[0], rows), **options
        )

    for form in (rows, 0.8 * rows + 0.05, rows.astype(jnp.int32)):
        assert_close(of(form), want)


def test_a_binary_head_gives_the_closed_form():
    x = jnp.linspace(-1, 2, 4000)
    w = jnp.float32(1.3)

    def loss(w, example):
        x, y = example
        return jnp.logaddexp(0, w * x) - y * w * x

    resample = wpl_jax.sample_class(lambda w, x: w * x, distribution="bernoulli")
    got = wpl_jax.per_example_fisher(
        loss, w, (x, jnp.zeros(4000)), resample=resample, key=jax.random.key(0)
    )
    chance = 1 / (1 + np.exp(-1.3 * np.asarray(x, np.float64)))
    want = np.mean(np.asarray(x, np.float64) ** 2 * chance * (1 - chance))
    np.testing.assert_allclose(got, want, rtol=0.05)


@pytest.mark.slow
def test_padding_of_a_sequence_stays():
    table = jnp.array([[0.0, 50.0, 0.0]] * 4)
    resample = wpl_jax.sample_class(lambda table, x: table)
    _, numbers = resample(jax.random.key(0), table, (0, jnp.array([0, 2, -1, -1])))
    np.testing.assert_array_equal(numbers, [1, 1, -1, -1])
    rows = jnp.eye(3)[jnp.array([0, 2, 0, 0])] * jnp.array([[1], [1], [0], [0]])
    _, drawn = resample(jax.random.key(0), table, (0, rows))
    np.testing.assert_array_equal(drawn, [[0, 1, 0], [0, 1, 0], [0] * 3, [0] * 3])


UNFIT_LABELS = {
    "class numbers as fractions": (3, jnp.float32(1.0), "float32"),
    "a column of class numbers": (3, jnp.array([1]), "(1,)"),
    "rows of other classes": (3, jnp.ones(4), "(4,)"),
    "numbers too narrow": (300, jnp.int8(1), "int8"),
    "one logit": (1, jnp.int32(1), "bernoulli"),
}


@pytest.mark.parametrize("case", UNFIT_LABELS)
def test_labels_that_do_not_fit(case):
    classes, label, word = UNFIT_LABELS[case]
    resample = wpl_jax.sample_class(lambda params, x: jnp.zeros(classes))
    with pytest.raises(ValueError, match=re.escape(word)):
        resample(jax.random.key(0), None, (0, label))
    with pytest.raises(ValueError, match=r"bernoulli.*'poisson'"):
        wpl_jax.sample_class(None, distribution="poisson")


def test_normalize_of_tensors_far_apart():
    fisher = {"a": jnp.array([1e38, 3e38]), "b": jnp.array([2e-38, 6e-38])}
    got = wpl_jax.normalize(fisher, per="tensor")
    for name in fisher:
        np.testing.assert_allclose(got[name], [0.5, 1.5], rtol=1e-5)


# Half precision, on thousands of examples.

halves = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])


def _recurrent_loss(p, example):
    steps, label = example
    start = jnp.zeros(4, steps.dtype)
    h, _ = jax.lax.scan(lambda h, x: (jnp.tanh(h @ p["r"] + x), None), start, steps)
    scores = jnp.tanh(h / jnp.sqrt(2).astype(h.dtype) @ p["w"]) @ p["w"] + p["b"]
    return -jax.nn.log_softmax(scores)[label]


@pytest.mark.slow
@halves
def test_per_example_fisher_of_thousands_in_half_precision(dtype):
    """The sums are taken in float32; what is left is rounding of each gradient."""
    n, rng = 4096, np.random.default_rng(0)
    shapes = {"r": (4, 4), "w": (4, 4), "b": (4,)}
    p = {k: jnp.asarray(rng.normal(size=s) / 2, dtype) for k, s in shapes.items()}
    data = (
        jnp.asarray(rng.normal(size=(n, 3, 4)), dtype),
        jnp.asarray(rng.integers(4, size=n)),
    )
    got = jax.jit(functools.partial(wpl_jax.per_example_fisher, _recurrent_loss))(
        p, data
    )
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), p)
        each = jax.jit(jax.vmap(jax.grad(_recurrent_loss), (None, 0)))(
            wide, (data[0].astype(jnp.float64), data[1])
        )
    for name, found in got.items():
        assert found.dtype == jnp.float32
        want = np.mean(np.square(each[name]), 0)
        error = np.linalg.norm(found - want) / np.linalg.norm(want)
        assert error < float(jnp.finfo(dtype).eps), (name, error)


@pytest.mark.slow
@halves
def test_batch_fisher_of_thousands_in_half_precision(dtype):
    """Most gradients fall on few rows of the table, where a long sum would stop."""

    def loss(p, example):
        row, target = example
        return jnp.sum(jnp.tanh(p["table"][row] + p["b"]) * target)

    n, rng = 4096, np.random.default_rng(0)
    p = {"table": jnp.asarray(rng.normal(size=(3, 4)), dtype), "b": jnp.zeros(4, dtype)}
    rows, targets = rng.integers(3, size=n), jnp.asarray(rng.random((n, 4)), dtype)
    got = wpl_jax.batch_fisher(loss, p, (rows, targets))
    table, b = (np.asarray(p[name], np.float64) for name in ("table", "b"))
    # The derivative of tanh is a function of its value, which a half-precision program
    # has rounded. All examples of a row share this error, so no mean reduces it.
    value = np.asarray(np.tanh(table[rows] + b).astype(dtype), np.float64)
    each = np.asarray(targets, np.float64) * (1 - value**2)
    want = {
        "table": np.stack([each[rows == row].sum(0) / n for row in range(3)]) ** 2,
        "b": each.mean(0) ** 2,
    }
    for name, found in got.items():
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, want[name], rtol=2 * jnp.finfo(dtype).eps)


@pytest.mark.slow_except("float16")
@halves
def test_averages_and_scales_in_half_precision(dtype):
    half = jnp.asarray(np.random.default_rng(0).random(5000) * 100, dtype)
    f = np.asarray(half, np.float64)

    def average(_, mean):
        return wpl_jax.update_average(mean, half, eta=0.001, form="code")

    start = wpl_jax.update_average(jnp.zeros(5000, dtype), 0 * half)
    results = {
        "average": (
            jax.jit(lambda start: jax.lax.fori_loop(0, 2000, average, start))(start),
            f * (1 - 0.999**2000),
        ),
        "unit": (wpl_jax.normalize(half), f / np.mean(f)),
        "loss": (wpl_jax.normalize(half, scale="loss"), f / np.sqrt(np.mean(f))),
        "clip": (wpl_jax.clip_norm(half, 10.0), f * 10 / np.linalg.norm(f)),
        "square": (wpl_jax.square(half), f**2),
        "flush": (wpl_jax.flush(half), 0 * f),
    }
    for name, (got, want) in results.items():
        assert got.dtype == jnp.float32, name
        np.testing.assert_allclose(got, want, rtol=1e-4, err_msg=name)


@halves
def test_fishers_of_many_models_add_up_in_half_precision(dtype):
    zero = jnp.zeros(3, dtype)
    third = jnp.full(3, 0.3, dtype)

    def add(_, state):
        return wpl_jax.consolidate(state, zero, third, rule=wpl_jax.accumulate)

    state = wpl_jax.weight_plasticity(1.0).init(zero)
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 3000, add, state))(state)
    want = 3000 * np.asarray(third, np.float64)
    np.testing.assert_allclose(state.fisher, want, rtol=1e-3)


# What a library call may be given by mistake.

ERRORS = {
    "no leaves": (lambda: PER_EXAMPLE(loss, params, ()), ["examples", "[]"]),
    "no examples": (
        lambda: PER_EXAMPLE(loss, params, (X[:0], LABELS[:0])),
        ["examples", "(0, 3)", "(0,)"],
    ),
    "no examples, batch": (
        lambda: BATCH(loss, params, (X[:0], LABELS[:0])),
        ["examples", "(0, 3)", "(0,)"],
    ),
    "different lengths": (
        lambda: PER_EXAMPLE(loss, params, (X, LABELS[:4])),
        ["examples", "(10, 3)", "(4,)"],
    ),
    "different lengths, batch": (
        lambda: BATCH(loss, params, (X, LABELS[:4])),
        ["examples", "(10, 3)", "(4,)"],
    ),
    "a scalar among the examples": (
        lambda: PER_EXAMPLE(loss, params, (X, jnp.array(1))),
        ["examples", "(10, 3)", "()"],
    ),
    "chunk of none": (
        lambda: PER_EXAMPLE(loss, params, examples, chunk_size=0),
        ["chunk_size", "above 0", "0"],
    ),
    "negative chunk": (
        lambda: PER_EXAMPLE(loss, params, examples, chunk_size=-3),
        ["chunk_size", "-3"],
    ),
    "batches do not divide": (
        lambda: BATCH(loss, params, examples, batch_size=3),
        ["batch_size", "3", "10"],
    ),
    "batch of none": (
        lambda: BATCH(loss, params, examples, batch_size=0),
        ["batch_size", "0", "10"],
    ),
    "batch too large": (
        lambda: BATCH(loss, params, examples, batch_size=20),
        ["batch_size", "20", "10"],
    ),
    "no key": (
        lambda: PER_EXAMPLE(
            loss, params, examples, resample=wpl_jax.sample_class(logits)
        ),
        ["resample", "key"],
    ),
    "no key, batch": (
        lambda: BATCH(loss, params, examples, resample=wpl_jax.sample_class(logits)),
        ["resample", "key"],
    ),
    "vector loss": (
        lambda: PER_EXAMPLE(vector_loss, params, examples),
        ["scalar", "(4,)"],
    ),
    "vector loss, batch": (
        lambda: BATCH(vector_loss, params, examples),
        ["scalar", "(4,)"],
    ),
    "pair": (lambda: PER_EXAMPLE(pair_loss, params, examples), ["scalar"]),
    "pair, batch": (lambda: BATCH(pair_loss, params, examples), ["scalar"]),
    "unknown form": (
        lambda: wpl_jax.update_average(params, params, form="mean"),
        ["form", "'mean'", "code", "paper"],
    ),
    "eta above 1": (
        lambda: wpl_jax.update_average(params, params, eta=1.5),
        ["eta", "[0, 1]", "1.5"],
    ),
    "eta below 0": (
        lambda: wpl_jax.update_average(params, params, eta=-1),
        ["eta", "-1"],
    ),
    "eta not a number": (
        lambda: wpl_jax.update_average(params, params, eta=float("nan")),
        ["eta", "nan"],
    ),
    "eta a schedule": (
        lambda: wpl_jax.update_average(params, params, eta=lambda step: 0.5),
        ["eta must be a number in [0, 1]", "function"],
    ),
    "norm a schedule": (
        lambda: wpl_jax.clip_norm(params, lambda step: 10.0),
        ["max_norm must be a number above 0", "function"],
    ),
    "norm of zero": (
        lambda: wpl_jax.clip_norm(params, 0),
        ["max_norm", "above 0", "0"],
    ),
    "negative norm": (lambda: wpl_jax.clip_norm(params, -2.5), ["max_norm", "-2.5"]),
    "unknown per": (
        lambda: wpl_jax.normalize(params, per="entry"),
        ["per", "'entry'", "tree", "tensor"],
    ),
    "unknown scale": (
        lambda: wpl_jax.normalize(params, scale="mean"),
        ["scale", "'mean'", "unit", "loss"],
    ),
    "no average": (
        lambda: wpl_jax.update_average(None, {"w": jnp.ones(2)}),
        ["fisher", "'w'"],
    ),
    "an average lacks a leaf": (
        lambda: wpl_jax.update_average(
            {"w": jnp.ones(2)}, {"w": jnp.ones(2), "b": jnp.ones(2)}
        ),
        ["fisher", "'b'"],
    ),
    "a mask has a leaf more": (
        lambda: wpl_jax.normalize({"w": jnp.ones(2)}, {"w": 1, "b": 1}),
        ["mask", "'b'"],
    ),
    "nothing to normalize": (lambda: wpl_jax.normalize({}), ["no leaves"]),
    "nothing to clip": (lambda: wpl_jax.clip_norm({}, 1.0), ["no leaves"]),
    "nothing to average": (lambda: wpl_jax.update_average({}, {}), ["no leaves"]),
    "whole parameters": (
        lambda: wpl_jax.per_example_fisher(
            lambda p, x: p["w"] * x, {"w": 1, "n": 2.0}, jnp.ones(3)
        ),
        ["'w'", "int32", "nnx.Param"],
    ),
    "a chunk that is a fraction": (
        lambda: wpl_jax.per_example_fisher(loss, params, examples, chunk_size=1.5),
        ["chunk_size", "1.5"],
    ),
    "a chunk that is True": (
        lambda: wpl_jax.per_example_fisher(loss, params, examples, chunk_size=True),
        ["chunk_size", "True"],
    ),
    "a norm in words": (
        lambda: wpl_jax.clip_norm({"w": jnp.ones(2)}, "10"),
        ["max_norm", "'10'"],
    ),
    "a complex Fisher": (
        lambda: wpl_jax.normalize({"w": jnp.ones(2) + 1j}),
        ["'w'", "complex64", "wpl_jax.square"],
    ),
    "a traced complex Fisher": (
        lambda: jax.jit(wpl_jax.clip_norm)({"w": jnp.ones(2) + 1j}, 1.0),
        ["'w'", "complex64"],
    ),
    "a complex average": (
        lambda: wpl_jax.update_average(jnp.ones(2) * 1j, jnp.ones(2)),
        ["average", "complex64"],
    ),
    "an average that is not a number": (
        lambda: wpl_jax.update_average(jnp.full(2, jnp.nan), jnp.ones(2)),
        ["average", "nan"],
    ),
    "a mask that is not a number": (
        lambda: wpl_jax.normalize({"w": jnp.ones(2)}, {"w": jnp.array([jnp.nan, 1])}),
        ["mask at 'w'", "nan", "0"],
    ),
    "a mask of fractions": (
        lambda: wpl_jax.update_average(jnp.ones(2), jnp.ones(2), mask=0.5),
        ["mask", "0.5", "multiply the Fisher"],
    ),
    "a complex loss": (
        lambda: wpl_jax.per_example_fisher(
            lambda w, x: w * x * 1j, jnp.float32(1), jnp.ones(3)
        ),
        ["loss", "complex64", "real"],
    ),
    "a loss of whole numbers": (
        lambda: wpl_jax.batch_fisher(
            lambda w, x: jnp.int32(1), jnp.float32(1), jnp.ones(3)
        ),
        ["loss", "int32"],
    ),
    "no function as the loss": (
        lambda: wpl_jax.per_example_fisher(3, jnp.float32(1), jnp.ones(3)),
        ["loss must be a function", "3"],
    ),
    "whole parameters to explain": (
        lambda: wpl_jax.explain_per_example(
            lambda w, x: w * x, jnp.int32(1), jnp.ones(3)
        ),
        ["int32"],
    ),
    "parameters in words": (
        lambda: wpl_jax.per_example_fisher(lambda w, x: x, {"w": "x"}, jnp.ones(3)),
        ["'w'", "floating-point"],
    ),
    "examples of three": (
        lambda: wpl_jax.sample_class(logits)(jax.random.key(0), None, (1, 2, 3)),
        ["pairs (inputs, label)", "tuple"],
    ),
    "several classes an example": (
        lambda: wpl_jax.per_example_fisher(
            lambda w, item: jnp.sum(w * item[0]),
            jnp.ones(3),
            (jnp.ones((2, 3)), jnp.array([[0, 1, 0], [1, 0, 1]])),
            resample=wpl_jax.sample_class(lambda w, x: w * x),
            key=jax.random.key(0),
        ),
        ["sums to 2", "bernoulli"],
    ),
    "labels of minus one": (
        lambda: wpl_jax.batch_fisher(
            lambda w, item: w * item[0],
            jnp.float32(1),
            (jnp.ones(2), jnp.array([-1, 1])),
            resample=wpl_jax.sample_class(lambda w, x: w * x, distribution="bernoulli"),
            key=jax.random.key(0),
        ),
        ["-1 and 1", "expected 0 and 1", "padding"],
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_name_what_is_wrong(case):
    assert_says(*ERRORS[case])


def test_traced_entries_below_zero_spoil_no_other_entry():
    fisher = jnp.array([3.0, -1.0, 4.0])
    clipped = jax.jit(lambda f: wpl_jax.clip_norm(f, 1.0))(fisher)
    np.testing.assert_allclose(clipped, [0.6, -1, 0.8], rtol=1e-6)
    scaled = jax.jit(wpl_jax.normalize)(fisher)
    np.testing.assert_allclose(scaled, [3 / 3.5, -1, 4 / 3.5], rtol=1e-6)
    mean = jax.jit(wpl_jax.update_average)(jnp.ones(3), fisher)
    np.testing.assert_allclose(mean, [3.1, 1, 4.1], rtol=1e-6)


def test_whole_numbers_are_scaled_as_real_ones():
    got = wpl_jax.normalize(jnp.array([2, 3]))
    np.testing.assert_allclose(got, [0.8, 1.2], rtol=1e-6)
