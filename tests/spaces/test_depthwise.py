"""Convolution and pooling of each channel against float64 loops and jax.lax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.spaces.depthwise import (
    _kernel_gradient,
    _kernel_gradient_by_images,
    average_pool,
    depthwise,
    max_pool,
)

# A pixel; a row; seven images of five rows, of which a block of 16 rows cannot take
# an equal number but one; images of more rows than a block.
PIXEL, ROW, SEVEN, HIGH = SHAPES = [
    (2, 1, 1, 3),
    (3, 1, 6, 2),
    (7, 5, 3, 2),
    (2, 19, 4, 1),
]
# Three images at a time of six, two of four, and a block that one image fills.
BLOCKS = [(6, 4, 1, 2), (4, 8, 2, 3), (2, 16, 2, 1)]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(found, wanted, rtol=1e-5):
    """Equal but for rounding, relative to the largest entry."""
    assert found.shape == wanted.shape
    atol = rtol * np.max(np.abs(wanted))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(function, arguments, gradient):
    value, backward = jax.vjp(function, *arguments)
    return value, *backward(gradient)


def by_products(x, kernel, gradient):
    """The convolution and its two gradients, each product of two numbers by itself."""
    x, kernel, gradient = (np.asarray(a, np.float64) for a in (x, kernel, gradient))
    value, of_x, of_kernel = np.zeros_like(x), np.zeros_like(x), np.zeros_like(kernel)
    size, (_, height, width, _) = len(kernel), x.shape
    for i, j, row, column in np.ndindex(size, size, height, width):
        r, c = row + i - size // 2, column + j - size // 2
        if 0 <= r < height and 0 <= c < width:
            value[:, row, column] += x[:, r, c] * kernel[i, j]
            of_x[:, r, c] += gradient[:, row, column] * kernel[i, j]
            of_kernel[i, j] += np.sum(x[:, r, c] * gradient[:, row, column], 0)
    return value, of_x, of_kernel


@pytest.mark.parametrize(
    ("shape", "size"), [(PIXEL, 3), (ROW, 5), (SEVEN, 5), (HIGH, 3)], ids=str
)
def test_a_depthwise_convolution_and_its_gradients_are_sums_of_products(shape, size):
    x, kernel, gradient = (
        random(*s, seed=n)
        for n, s in enumerate([shape, (size, size, shape[-1]), shape])
    )
    found = value_and_gradients(depthwise, (x, kernel), gradient)
    for a, b in zip(found, by_products(x, kernel, gradient), strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    ("stride", "dilation", "height"), [(1, 1, 5), (2, 1, 4), (1, 2, 5), (2, 2, 6)]
)
def test_a_depthwise_convolution_and_its_gradients_are_those_of_lax(
    stride, dilation, height
):
    shape = (3, height, 6, 3)
    out = (3, height // stride, 6 // stride, 3)
    x, kernel, gradient = (
        random(*s, seed=n) for n, s in enumerate([shape, (5, 5, 3), out])
    )

    def own(x, kernel):
        return depthwise(x, kernel, stride, dilation)

    def grouped(x, kernel):
        margin = (2 * dilation,) * 2
        return jax.lax.conv_general_dilated(
            x,
            kernel[:, :, None],
            (stride, stride),
            [margin, margin],
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    found = value_and_gradients(own, (x, kernel), gradient)
    wanted = value_and_gradients(grouped, (x, kernel), gradient)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize(
    ("way", "shape"),
    [
        *((_kernel_gradient, shape) for shape in (ROW, SEVEN)),
        *((_kernel_gradient_by_images, shape) for shape in BLOCKS),
    ],
)
def test_both_ways_to_a_kernels_gradient_add_up_all_images(way, shape):
    x, gradient = random(*shape), random(*shape, seed=1)
    found = way(x, gradient, size=3)
    *_, wanted = by_products(x, np.zeros((3, 3, shape[-1])), gradient)
    assert_close(found, wanted)


def lax_pool(x, start, reduce):
    ones = (1, 1, 1, 1)
    return jax.lax.reduce_window(x, start, reduce, (1, 3, 3, 1), ones, "SAME")


def lax_max_pool(x):
    return lax_pool(x, -jnp.inf, jax.lax.max)


def lax_average_pool(x):
    """Beyond the image there is nothing, which does not count either."""
    return lax_pool(x, 0.0, jax.lax.add) / lax_pool(jnp.ones_like(x), 0.0, jax.lax.add)


POOLS = {max_pool: lax_max_pool, average_pool: lax_average_pool}


@pytest.mark.parametrize("shape", [PIXEL, ROW, SEVEN], ids=str)
@pytest.mark.parametrize("pool", POOLS)
def test_pooling_and_its_gradient_are_those_of_lax(pool, shape):
    # All below zero, what the images are padded with must not win or count.
    x, gradient = random(*shape) - 5, random(*shape, seed=1)
    found = value_and_gradients(pool, (x,), gradient)
    wanted = value_and_gradients(POOLS[pool], (x,), gradient)
    for a, b in zip(found, wanted, strict=True):
        assert_close(a, b)


def test_of_equals_the_first_has_the_gradient_of_a_maximum():
    x, gradient = random(4, 6, 5, 2).round(), random(4, 6, 5, 2, seed=1)
    found = value_and_gradients(max_pool, (x,), gradient)
    value, of_x = (np.zeros_like(x, np.float64) for _ in range(2))
    ties = 0
    for n, row, column, channel in np.ndindex(x.shape):
        around = {
            (n, r, c, channel): x[n, r, c, channel]
            for r in range(max(row - 1, 0), min(row + 2, 6))
            for c in range(max(column - 1, 0), min(column + 2, 5))
        }
        largest = max(around.values())
        places = [place for place, of_place in around.items() if of_place == largest]
        value[n, row, column, channel] = largest
        of_x[places[0]] += gradient[n, row, column, channel]
        ties += len(places) > 1
    assert ties > 40  # otherwise the test would not be one
    for a, b in zip(found, (value, of_x), strict=True):
        assert_close(a, b)
    for a, b in zip(
        found, value_and_gradients(lax_max_pool, (x,), gradient), strict=True
    ):
        assert_close(a, b)


@pytest.mark.parametrize("function", [depthwise, *POOLS])
def test_half_precision_stays_half_precision(function):
    images = jax.ShapeDtypeStruct((2, 4, 3, 2), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((3, 3, 2), jnp.bfloat16)
    arguments = (images, kernel) if function is depthwise else (images,)
    found = jax.eval_shape(
        functools.partial(value_and_gradients, function), arguments, images
    )
    assert found == (images, *arguments)


def test_a_kernels_gradient_of_half_precision_adds_up_in_single_precision():
    # Ones, of which bfloat16 would lose all beyond the 256th.
    x = jnp.ones((331, 1, 2, 1), jnp.bfloat16)
    for way in (_kernel_gradient, _kernel_gradient_by_images):
        found = way(x, x, size=3)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found[1, :, 0], [331, 662, 331])
