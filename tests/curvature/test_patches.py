"""Convolutions as products against XLA's convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.curvature.patches import Convolution

CASES = {
    "same": {"padding": "SAME"},
    "valid": {"padding": "VALID"},
    "strided": {"padding": "SAME", "window_strides": (2, 3)},
    "dilated": {"padding": "VALID", "rhs_dilation": (2, 1)},
    "uneven padding": {"padding": ((0, 2), (3, 1))},
    "cropping": {"padding": ((-1, 0), (0, -2))},
    "channels first": {"padding": "SAME", "layout": ("NCHW", "OIHW", "NCHW")},
    "mixed layouts": {"padding": "SAME", "layout": ("NHWC", "OIHW", "NCHW")},
    "odd output layout": {"padding": "SAME", "layout": ("NHWC", "HWIO", "HCWN")},
}
SIZES = {"N": 2, "H": 7, "W": 8, "C": 3}
KERNEL = {"H": 3, "W": 2, "I": 3, "O": 4}


def convolution(case):
    options = {"window_strides": (1, 1), **CASES[case]}
    images, kernel, outputs = options.pop("layout", ("NHWC", "HWIO", "NHWC"))
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], [SIZES[axis] for axis in images])
    k = jax.random.normal(keys[1], [KERNEL[axis] for axis in kernel])

    def convolve(x, k):
        return jax.lax.conv_general_dilated(
            x, k, dimension_numbers=(images, kernel, outputs), **options
        )

    return convolve, x, k


def as_product(convolve, x, k):
    (equation,) = jax.make_jaxpr(convolve)(x, k).jaxpr.eqns
    return Convolution(equation.params)


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_are_those_of_the_convolution(case):
    convolve, x, k = convolution(case)
    product = as_product(convolve, x, k)
    assert product.is_product()

    @jax.jit
    def value_and_gradients(x, k):
        results = []
        for function in (convolve, product):
            y, pull = jax.vjp(function, x, k)
            results.append((y, *pull(jnp.cos(y))))
        return results

    for wanted, found in zip(*value_and_gradients(x, k), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_one_and_three_dimensions():
    for dims in (1, 3):
        x = jax.random.normal(jax.random.key(0), (2, 3, *[5] * dims))
        k = jax.random.normal(jax.random.key(1), (4, 3, *[2] * dims))

        def convolve(x, k, dims=dims):
            return jax.lax.conv(x, k, [1] * dims, "SAME")

        product = as_product(convolve, x, k)
        np.testing.assert_allclose(
            jax.jit(product.__call__)(x, k), convolve(x, k), rtol=1e-4, atol=1e-5
        )


def test_grouped_and_transposed_convolutions_are_not_products():
    x, k = jnp.ones((2, 4, 5, 5)), jnp.ones((4, 2, 3, 3))

    def grouped(x, k):
        return jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", feature_group_count=2)

    def transposed(x, k):
        return jax.lax.conv_general_dilated(
            x[:, :2], k, (1, 1), ((1, 1), (1, 1)), lhs_dilation=(2, 2)
        )

    assert not as_product(grouped, x, k).is_product()
    (*_, equation) = jax.make_jaxpr(transposed)(x, k).jaxpr.eqns
    assert not Convolution(equation.params).is_product()
