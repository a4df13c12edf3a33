"""The residual network against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.spaces.residual import ResidualNetwork
from wpl_jax.supernet import Architecture

NO_CHOICE = Architecture(jnp.zeros(0, jnp.int32))
SPACE = ResidualNetwork((5, 6, 2), 3, channels=2, blocks=2)
BATCH = 4


def make():
    keys = iter(jax.random.split(jax.random.key(0), 200))
    shapes = jax.eval_shape(SPACE.init, next(keys))
    params = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), shapes)
    return params, jax.random.normal(next(keys), (BATCH, *SPACE.image_shape))


def convolution(x, kernel, stride):
    """3x3, zeros beyond the image, a pixel at a time."""
    batch, height, width, inputs = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = kernel.reshape(9 * inputs, -1)
    rows, columns = range(0, height, stride), range(0, width, stride)
    found = np.zeros((batch, len(rows), len(columns), kernel.shape[1]))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            window = padded[:, row : row + 3, column : column + 3]
            found[:, i, j] = window.reshape(batch, -1) @ kernel
    return found


def normalized(x, child):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5) * child["scale"] + child["offset"]


def in_numpy(params, images):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def convolved(x, child, stride=1):
        return normalized(convolution(x, child["kernel"], stride), child)

    x = np.maximum(convolved(np.asarray(images, np.float64), p["stem"]), 0)
    for stage in range(3):
        for block in range(SPACE.blocks):
            child = p[f"stage_{stage}"][f"block_{block}"]
            stride = 2 if stage and block == 0 else 1
            y = np.maximum(convolved(x, child["first"], stride), 0)
            y = convolved(y, child["second"])
            if stride == 2:
                halved = x[:, ::2, ::2] @ child["shortcut"]["kernel"]
                x = normalized(halved, child["shortcut"])
            x = np.maximum(x + y, 0)
    return x.mean((1, 2)) @ p["classifier"]["kernel"] + p["classifier"]["bias"]


def test_scores_are_those_of_numpy():
    params, images = make()
    found = jax.jit(SPACE.apply)(params, NO_CHOICE, images)
    expected = in_numpy(params, images)
    np.testing.assert_allclose(found.logits, expected, rtol=2e-4, atol=2e-4)
    assert found.auxiliary is None
    # Statistics that it returns normalize an image as those of its batch did.
    first = jax.jit(SPACE.apply)(
        params, NO_CHOICE, images[:1], batch_stats=found.batch_stats
    )
    np.testing.assert_allclose(first.logits, expected[:1], rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("blocks", [1, 3])
def test_it_has_the_parameters_of_its_layers(blocks):
    space = ResidualNetwork((8, 8, 3), 10, channels=16, blocks=blocks)

    def convolution(inputs, outputs, pixels=9):
        return pixels * inputs * outputs + 2 * outputs

    expected = convolution(3, 16) + 64 * 10 + 10
    for stage in range(3):
        c = 16 * 2**stage
        expected += (2 * blocks - (stage > 0)) * convolution(c, c)
        if stage:
            expected += convolution(c // 2, c) + convolution(c // 2, c, pixels=1)
    assert space.costs(NO_CHOICE)["parameters"] == expected
