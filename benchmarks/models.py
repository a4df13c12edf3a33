"""The models that the benchmarks differentiate, with made-up data."""

import jax
import jax.numpy as jnp
import optax

from wpl_jax import two_models

MLP_SIZES = (784, 50, 50, 50, 50, 50, 10)


def mlp(key: jax.Array):
    """The experiment's network B with 50 hidden units: parameters and loss."""
    params = two_models.init_layers(key, MLP_SIZES, "relu")

    def loss(params, example):
        image, label = example
        logits = two_models.apply_layers(params, image, "relu")
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    return params, loss


def convnet(key: jax.Array):
    """Two 3x3 convolutions and a dense layer on 28x28 images."""
    keys = jax.random.split(key, 3)
    params = {
        "conv1": 0.3 * jax.random.normal(keys[0], (3, 3, 1, 16)),
        "conv2": 0.1 * jax.random.normal(keys[1], (3, 3, 16, 32)),
        "dense": 0.02 * jax.random.normal(keys[2], (7 * 7 * 32, 10)),
    }

    def block(x, kernel):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        _, h, w, c = x.shape
        return jax.nn.relu(x).reshape(1, h // 2, 2, w // 2, 2, c).mean((2, 4))

    def loss(params, example):
        image, label = example
        x = block(image.reshape(1, 28, 28, 1), params["conv1"])
        x = block(x, params["conv2"])
        logits = x.reshape(-1) @ params["dense"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    return params, loss


def examples(key: jax.Array, n: int):
    """``n`` images with labels: float32[n, 784], int32[n]."""
    images, labels = jax.random.split(key)
    return (
        jax.random.normal(images, (n, 784)),
        jax.random.randint(labels, (n,), 0, 10, jnp.int32),
    )
