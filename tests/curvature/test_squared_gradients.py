"""Sums of squared gradients against squares of gradients written out one by one."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from wpl_jax.curvature.squared_gradients import sum_squared_gradients

N = 5  # examples


def array(*shape, seed=0, dtype=jnp.float32):
    """Normal numbers, others for other shapes and seeds."""
    rng = np.random.default_rng([seed, len(shape), *shape])
    return jnp.asarray(rng.normal(size=shape), dtype)


def integers(*shape, below):
    return jnp.asarray(np.random.default_rng(0).integers(below, size=shape))


def assert_sum_of_squares(got, gradients, rtol=2e-5, dtype=jnp.float32):
    """``got`` is what the gradients, one per example, say in float64."""
    assert jax.tree.structure(got) == jax.tree.structure(gradients)
    flat = jax.tree_util.tree_leaves_with_path(gradients)
    for (path, gradient), have in zip(flat, jax.tree.leaves(got), strict=True):
        assert have.dtype == dtype
        want = np.sum(np.square(np.asarray(gradient, np.float64)), axis=0)
        atol = rtol * np.max(np.abs(want), initial=0.0)
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(have, want, rtol, atol, err_msg=name)


def check(loss, params, examples, **kwargs):
    @jax.jit
    def run(params, examples):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, examples)
        return sum_squared_gradients(loss, params, examples), gradients

    assert_sum_of_squares(*run(params, examples), **kwargs)


# Models: name -> (loss, params, examples).


def mlp(p, x):
    h = jax.nn.relu(x @ p["w1"] + p["b1"])
    return jnp.sum(jnp.sin(h @ p["w2"] + p["b2"]))


MLP = {"w1": array(3, 7), "b1": array(7), "w2": array(7, 2), "b2": array(2)}


def layer_norm(p, x):
    centred = x - jnp.mean(x, -1, keepdims=True)
    scaled = centred / jnp.sqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
    return jnp.sum(jnp.sin(scaled * p["scale"] + p["bias"]))


def conv(p, image, **options):
    options = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    } | options
    out = jax.lax.conv_general_dilated(image[None], p["w"], **options)
    return jnp.sum(jnp.tanh(out) * (1 + jnp.arange(out.shape[-1])))


CONVOLUTIONS = {
    "strided": ({"window_strides": (2, 3)}, (3, 3, 2, 4), (N, 5, 6, 2)),
    "uneven padding": ({"padding": ((1, 2), (0, 1))}, (3, 2, 2, 4), (N, 4, 3, 2)),
    "cropped": ({"padding": ((-1, 0), (1, -2))}, (2, 2, 2, 4), (N, 5, 5, 2)),
    "dilated": ({"rhs_dilation": (1, 2)}, (3, 2, 2, 4), (N, 4, 4, 2)),
    "transposed": (
        {"lhs_dilation": (2, 2), "padding": ((1, 2), (2, 1))},
        (3, 3, 2, 4),
        (N, 3, 3, 2),
    ),
    "depthwise": ({"feature_group_count": 2}, (3, 3, 1, 2), (N, 4, 4, 2)),
    "channels first": (
        {
            "dimension_numbers": ("NCHW", "OIHW", "NCHW"),
            "window_strides": (2, 1),
            "rhs_dilation": (1, 2),
            "padding": ((0, 1), (2, 1)),
        },
        (3, 2, 2, 3),
        (N, 2, 4, 5),
    ),
    "odd layout": (
        {"dimension_numbers": ("HNCW", "IWOH", "WCHN"), "padding": "VALID"},
        (2, 3, 4, 2),
        (N, 1, 2, 5),
    ),
    "one-dimensional": (
        {
            "dimension_numbers": ("NWC", "WIO", "NWC"),
            "window_strides": (2,),
            "padding": "VALID",
        },
        (3, 2, 4),
        (N, 6, 2),
    ),
}


def tied(p, tokens):
    hidden = jnp.tanh(p["embed"][tokens] @ p["w"])
    logits = hidden @ p["embed"].T
    return -jnp.sum(jax.nn.log_softmax(logits)[:, 0])


def scanned(p, xs):
    def cell(h, x):
        return jnp.tanh(x @ p["in"] + h @ p["hidden"]), None

    return jnp.sum(jax.lax.scan(cell, jnp.zeros(4), xs)[0] @ p["out"])


def conditional(p, x):
    h = jax.lax.cond(x[0] > 0, lambda: x @ p["a"], lambda: jnp.tanh(x @ p["b"]))
    return jnp.sum(h @ p["c"])


@jax.jit
def jitted_layer(w, b, x):
    return jnp.tanh(x @ w + b)


def jitted(p, x):
    """The same compiled function for two layers, and nested in another."""
    h = jitted_layer(p["w1"], p["b1"], x)
    return jnp.sum(jax.jit(lambda h: jitted_layer(p["w2"], p["b2"], h))(h))


def jitted_twice(p, x):
    return jnp.sum(jitted_layer(p["w"], p["b"], jitted_layer(p["w"], p["b"], x)))


@jax.custom_jvp
def bent(x):
    return jnp.sin(x)


bent.defjvp(lambda primals, tangents: (bent(*primals), 3.0 * tangents[0]))


@jax.custom_vjp
def reversed_gradient(x, w):
    return x * w


reversed_gradient.defvjp(
    lambda x, w: (x * w, (x, w)), lambda xw, g: (-g * xw[1], -2.0 * g * xw[0])
)


TABLE = np.arange(12.0, dtype=np.float32).reshape(3, 4) / 10

LOSSES = {
    "mlp": (mlp, MLP, array(N, 3)),
    "dense on sequences": (mlp, MLP, array(N, 4, 3)),
    "dense on one row": (mlp, MLP, array(N, 1, 3)),
    "weight on the left": (
        lambda w, x: jnp.sum(jnp.tanh(w @ x) ** 2),
        array(4, 3),
        array(N, 3),
    ),
    "weight is a vector": (
        lambda w, x: jnp.tanh(jnp.dot(w, x)) ** 2,
        array(3),
        array(N, 3),
    ),
    "two axes contracted": (
        lambda w, x: jnp.sum(jnp.sin(jnp.einsum("ab,abc->c", x, w))),
        array(2, 3, 4),
        array(N, 2, 3),
    ),
    "batched product": (
        lambda w, x: jnp.sum(jnp.sin(jnp.einsum("hi,hij->hj", x, w))),
        array(2, 3, 4),
        array(N, 2, 3),
    ),
    "integer inputs": (
        lambda w, x: jnp.sum(jnp.sin(x @ w)),
        array(3, 4),
        integers(N, 3, below=4),
    ),
    "bias on rows": (
        lambda b, x: jnp.sum(jnp.tanh(x + b)),
        array(3),
        array(N, 4, 3),
    ),
    "scalar": (lambda s, x: jnp.sum(jnp.tanh(s * x)), array(), array(N, 3)),
    "layer norm": (
        layer_norm,
        {"scale": array(3), "bias": array(3, seed=1)},
        array(N, 4, 3),
    ),
    "convolution": (
        lambda p, x: conv(p, x) + jnp.sum(jnp.sin(x + p["b"])),
        {"w": array(3, 3, 2, 4), "b": array(2)},
        array(N, 4, 4, 2),
    ),
    "convolution of a parameter": (
        lambda image, kernel: conv({"w": kernel}, image),
        array(4, 4, 2),
        array(N, 3, 3, 2, 3),
    ),
    "embedding": (
        lambda p, tokens: jnp.sum(jnp.tanh(p["embed"][tokens] @ p["w"])),
        {"embed": array(6, 3), "w": array(3, 2)},
        integers(N, 4, below=6),
    ),
    "one-hot embedding": (
        lambda p, token: jnp.sum(jnp.tanh(jax.nn.one_hot(token, 6) @ p)),
        array(6, 3),
        integers(N, below=6),
    ),
    "tied": (tied, {"embed": array(6, 3), "w": array(3, 3)}, integers(N, 4, below=6)),
    "scan": (
        scanned,
        {"in": array(3, 4), "hidden": array(4, 4), "out": array(4, 2)},
        array(N, 4, 3),
    ),
    "loop": (
        lambda w, x: jnp.sum(jax.lax.fori_loop(0, 3, lambda _, h: jnp.sin(w @ h), x)),
        array(3, 3),
        array(N, 3),
    ),
    "cond on the example": (
        conditional,
        {"a": array(3, 4), "b": array(3, 4, seed=1), "c": array(4, 2)},
        array(N, 3),
    ),
    "remat": (
        lambda w, x: jnp.sum(
            jax.checkpoint(lambda x: jnp.tanh(x @ w["a"]))(x) @ w["b"]
        ),
        {"a": array(3, 4), "b": array(4, 2)},
        array(N, 3),
    ),
    "jitted layers": (
        jitted,
        {"w1": array(3, 3), "b1": array(3), "w2": array(3, 3, seed=1), "b2": array(3)},
        array(N, 3),
    ),
    "jitted layer twice": (
        jitted_twice,
        {"w": array(3, 3), "b": array(3)},
        array(N, 3),
    ),
    "vmapped layer": (
        lambda p, xs: jnp.sum(jax.vmap(lambda x: jitted_layer(p["w"], p["b"], x))(xs)),
        {"w": array(3, 2), "b": array(2)},
        array(N, 4, 3),
    ),
    "custom jvp": (
        lambda p, x: jnp.sum(bent(bent(x @ p["a"]) @ p["b"] + p["c"])),
        {"a": array(3, 4), "b": array(4, 2), "c": array(2)},
        array(N, 3),
    ),
    "custom jvp of a parameter": (
        lambda p, x: jnp.sum(bent(p) * x),
        array(3),
        array(N, 3),
    ),
    "custom vjp": (
        lambda p, x: jnp.sum(reversed_gradient(x @ p["a"], TABLE[0]) ** 2),
        {"a": array(3, 4)},
        array(N, 3),
    ),
    "custom vjp of a parameter": (
        lambda p, x: jnp.sum(reversed_gradient(x, p)),
        array(3),
        array(N, 3),
    ),
    "unused parameter": (
        lambda p, x: jnp.sum(x @ p["used"]),
        {"unused": array(2), "used": array(3, 4)},
        array(N, 3),
    ),
    "parameter with an unused result": (
        lambda p, x: (x @ p["dead"], jnp.sum(jnp.sin(x * p["used"])))[1],
        {"dead": array(3, 4), "used": array(3)},
        array(N, 3),
    ),
    "L2 term": (
        lambda p, x: jnp.sum(x @ p["w"]) + 0.1 * jnp.sum(p["alone"] ** 2),
        {"w": array(3, 4), "alone": array(2)},
        array(N, 3),
    ),
    "L2 term on the weight": (
        lambda w, x: jnp.sum(jnp.sin(x @ w)) + 0.1 * jnp.sum(w**2),
        array(3, 4),
        array(N, 3),
    ),
    "loss without the example": (
        lambda p, x: jnp.sum(jnp.sin(p["a"] * p["b"])),
        {"a": array(3), "b": array(3, seed=1)},
        array(N, 3),
    ),
    "loss without the parameters": (lambda w, x: jnp.sum(x), array(3), array(N, 3)),
    "loss is the parameter": (lambda w, x: w, array(), array(N, 3)),
    "loss is the parameter, with an unused result": (
        lambda w, x: (w * x, w)[1],
        array(),
        array(N),
    ),
    "transposed": (
        lambda w, x: jnp.sum(jnp.sin(x @ w.T)),
        array(4, 3),
        array(N, 3),
    ),
    "reshaped": (
        lambda w, x: jnp.sum(jnp.sin(x @ w.reshape(3, 4))),
        array(12),
        array(N, 3),
    ),
    "broadcast before use": (
        lambda b, x: jnp.sum(jnp.sin(jnp.broadcast_to(b[:, None], (3, 4)) * x)),
        array(3),
        array(N, 3, 4),
    ),
    "flipped, scaled, sliced": (
        lambda w, x: jnp.sum(jnp.sin(x @ (2.0 * w[::-1][:3]))),
        array(5, 4),
        array(N, 3),
    ),
    "two in one operation": (
        lambda p, x: jnp.sum(jnp.sin(jnp.concatenate([p["a"], x, p["b"]])[1:6])),
        {"a": array(2), "b": array(2, seed=1)},
        array(N, 3),
    ),
    "twice in one operation": (
        lambda w, x: jnp.sum(jnp.sin(jnp.concatenate([w, x, w]))),
        array(2),
        array(N, 3),
    ),
    "product of weights": (
        lambda p, x: jnp.sum(jnp.sin(x @ (p["a"] @ p["b"]))),
        {"a": array(3, 2), "b": array(2, 4)},
        array(N, 3),
    ),
    "bilinear": (lambda w, x: jnp.sin(x @ w @ x), array(3, 3), array(N, 3)),
    "attention": (
        lambda p, x: jnp.sum(
            jax.nn.softmax((x @ p["q"]) @ (x @ p["k"]).T) @ (x @ p["v"])
        ),
        {name: array(3, 3, seed=i) for i, name in enumerate("qkv")},
        array(N, 4, 3),
    ),
    "closure over constants": (
        lambda p, x: jnp.sum(jnp.sin((x @ TABLE) @ p["w"] + jnp.asarray(TABLE[0, :2]))),
        {"w": array(4, 2)},
        array(N, 3),
    ),
    "weight indexed by the example": (
        lambda w, i: jax.lax.dynamic_index_in_dim(w, i, keepdims=False) ** 2,
        array(6),
        integers(N, below=6),
    ),
    "weight compared with the example": (
        lambda p, x: jnp.sum(jnp.where(x > p["threshold"], jnp.sin(p["w"] * x), 0.0)),
        {"threshold": array(3, seed=1), "w": array(3)},
        array(N, 3),
    ),
    "weight selected by the example": (
        lambda w, x: jnp.sum(jnp.where(x > 0, w, -2 * w)),
        array(3),
        array(N, 3),
    ),
    "stop_gradient": (
        lambda p, x: jnp.sum(jax.lax.stop_gradient(p["a"]) * x + p["b"] * x),
        {"a": array(3), "b": array(3)},
        array(N, 3),
    ),
    "random numbers from the example": (
        lambda w, key: jnp.sum(jnp.sin(jax.random.normal(key, (3,)) @ w)),
        array(3, 4),
        jax.random.split(jax.random.key(0), N),
    ),
    "parameters in a list": (
        lambda p, x: jnp.sum(jnp.sin(x["x"] @ p[0] + p[1][0])) * x["y"],
        [array(3, 4), (array(4),)],
        {"x": array(N, 3), "y": array(N)},
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_sum_of_squared_gradients(name):
    loss, params, examples = LOSSES[name]
    check(loss, params, examples)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    options, kernel, images = CONVOLUTIONS[name]
    loss = functools.partial(conv, **options)
    check(loss, {"w": array(*kernel)}, array(*images))


def test_two_examples_by_hand():
    """d/dw (w . x)^2 / 2 = (w . x) x, squared and summed."""
    w, x = jnp.array([1.0, 2.0]), jnp.array([[3.0, 1.0], [0.0, -1.0]])
    got = jax.jit(
        lambda w, x: sum_squared_gradients(lambda w, x: jnp.dot(w, x) ** 2 / 2, w, x)
    )(w, x)
    np.testing.assert_allclose(got, [15.0**2 + 0.0, 5.0**2 + 2.0**2])


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(nn.Conv(3, (3, 3))(x))
        return nn.Dense(2)(nn.relu(x).reshape(-1))


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.LayerNorm(3, rngs=rngs)
        self.out = nnx.Linear(48, 2, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.conv(x))
        return self.out(nnx.relu(x).reshape(-1))


@pytest.mark.slow
def test_flax_linen():
    images = array(N, 4, 4, 2)
    model = Linen()
    variables = jax.jit(model.init)(jax.random.key(0), images[0])
    check(
        lambda v, x: jnp.sum(jnp.sin(model.apply(v, x))), variables, images, rtol=1e-4
    )


def test_flax_nnx():
    graph, params = nnx.split(Nnx(nnx.Rngs(0)), nnx.Param)
    check(
        lambda p, x: jnp.sum(jnp.sin(nnx.merge(graph, p)(x))),
        params,
        array(N, 4, 4, 2),
        rtol=1e-4,
    )


# Half precision.

HALVES = ["float16", "bfloat16"]


@pytest.mark.slow_except("*-bfloat16")
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("weight on the left", "float16"),
        ("mlp", "bfloat16"),
        ("dense on sequences", "float16"),
        ("bias on rows", "bfloat16"),
        ("convolution", "float16"),
        ("embedding", "bfloat16"),
        ("tied", "float16"),
    ],
)
def test_half_precision_parameters_give_float32(name, dtype):
    loss, params, examples = LOSSES[name]

    def cast(tree):
        return jax.tree.map(
            lambda x: np.asarray(x, dtype if x.dtype == jnp.float32 else None), tree
        )

    # Rounding of the activations differs between the two orders of operation.
    check(loss, cast(params), cast(examples), rtol=0.05)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_compute_with_float32_parameters(dtype):
    def loss(p, x):
        h = jnp.tanh(x.astype(dtype) @ p["a"].astype(dtype))
        return jnp.sum((h @ p["b"].astype(dtype)).astype(jnp.float32))

    params = {"a": array(3, 4), "b": array(4, 2)}
    check(loss, params, array(N, 3), rtol=0.05)


@pytest.mark.slow_except("*-dense")
@pytest.mark.parametrize(
    "loss",
    [
        lambda w, x: jnp.sum(w * x),
        lambda w, x: jnp.dot(w, x),
        lambda w, x: jnp.dot(w, x / x) * x[0],
        lambda w, x: jnp.sum(jnp.sin(w) * 0) + jnp.sum(w * x),
    ],
    ids=["product", "dense", "dense, cotangent", "fallback"],
)
@pytest.mark.parametrize("size", [1000.0, 1e-4])
def test_half_precision_squares_neither_overflow_nor_vanish(loss, size):
    """Gradients that float16 holds, squares that it does not."""
    w, x = jnp.ones(3, jnp.float16), jnp.full((2, 3), size, jnp.float16)
    # Not jitted: XLA would be free to keep intermediate results in float32.
    got = sum_squared_gradients(loss, w, x)
    assert got.dtype == jnp.float32
    # Every gradient is the size, of two examples.
    expected = 2 * float(np.float16(size)) ** 2
    limits = jnp.finfo(jnp.float16)
    assert expected > float(limits.max) or expected < float(limits.tiny)
    np.testing.assert_allclose(got, np.full(3, expected), rtol=1e-5)


def test_float64():
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), MLP)
        x = array(N, 3, dtype=jnp.float64)
        check(mlp, params, x, rtol=1e-13, dtype=jnp.float64)


# Which path was taken.


def sizes(jaxpr):
    """Sizes of all values that a jaxpr computes, those inside of it included."""
    found = set()
    for equation in jaxpr.eqns:
        found.update(v.aval.size for v in equation.outvars if hasattr(v.aval, "size"))
        for inner in jaxprs_in_params(equation.params):
            found.update(sizes(inner))
    return found


def largest(loss, params, examples):
    closed = jax.make_jaxpr(lambda p, x: sum_squared_gradients(loss, p, x))
    return max(sizes(closed(params, examples).jaxpr))


# Primes, so that sizes tell where they are from.
BATCH, IN, OUT = 11, 13, 17
WIDE = {"w": array(IN, OUT), "b": array(OUT), "v": array(OUT, 3)}
WIDE_X = array(BATCH, IN)


def wide(p, x):
    return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) @ p["v"])


def wide_tied(p, x):
    return wide(p, x) + jnp.sum(jnp.sin(x @ p["w"]))


def wide_rows(p, x):
    return wide(p, jnp.stack([x, x]))


class WideLinen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(OUT)(x)))


def test_dense_layers_need_no_gradient_per_example():
    assert largest(wide, WIDE, WIDE_X) == IN * OUT
    # The measure itself: the definition writes all gradients out.
    written_out = jax.make_jaxpr(jax.vmap(jax.grad(wide), (None, 0)))(WIDE, WIDE_X)
    assert max(sizes(written_out.jaxpr)) == BATCH * IN * OUT


def test_dense_layers_of_flax_need_no_gradient_per_example():
    model = WideLinen()
    variables = jax.eval_shape(model.init, jax.random.key(0), WIDE_X[0])

    def loss(v, x):
        return jnp.sum(model.apply(v, x))

    assert largest(loss, variables, WIDE_X) == IN * OUT


def test_jitted_dense_layers_need_no_gradient_per_example():
    def loss(p, x):
        return jnp.sum(jitted_layer(p["w"], p["b"], x))

    assert largest(loss, {"w": WIDE["w"], "b": WIDE["b"]}, WIDE_X) == IN * OUT


@pytest.mark.parametrize("loss", [wide_tied, wide_rows], ids=["tied", "rows"])
def test_a_weight_that_meets_two_rows_needs_no_gradient_per_example(loss):
    assert largest(loss, WIDE, WIDE_X) < BATCH * IN * OUT
    check(loss, WIDE, WIDE_X)


def test_parameters_that_fall_back_do_not_take_the_others_with_them():
    params = WIDE | {"tied": array(5)}

    def loss(p, x):
        return wide(p, x) + jnp.sum(jnp.sin(p["tied"] * x[:5]) * p["tied"])

    assert largest(loss, params, WIDE_X) == IN * OUT
    check(loss, params, WIDE_X)


# Composition.


def test_under_vmap_with_a_loss_that_closes_over_a_traced_value():
    x, scales = array(N, 3), jnp.array([1.0, -2.0])

    def run(scale):
        params = jax.tree.map(lambda p: scale * p, MLP)

        def loss(p, x):
            return scale * mlp(p, x)

        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, x)
        return sum_squared_gradients(loss, params, x), gradients

    stacked = jax.jit(jax.vmap(run))(scales)
    for i in range(2):
        assert_sum_of_squares(*jax.tree.map(lambda x, i=i: np.asarray(x)[i], stacked))


@pytest.mark.parametrize(
    "loss",
    [lambda w, x: w * x, lambda w, x: (w @ x)[None], lambda w, x: (w @ x, x)],
    ids=["vector", "shape (1,)", "pair"],
)
def test_a_loss_that_is_not_a_scalar_is_an_error(loss):
    with pytest.raises(ValueError, match=r"scalar.*got .*\(.*\)"):
        sum_squared_gradients(loss, array(3), array(N, 3))
