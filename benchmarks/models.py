"""The models that the benchmarks differentiate, with made-up data."""

import jax
import jax.numpy as jnp
import optax

from wpl_jax.two_models import experiment as two_models

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


def changed_mlp(change, times: int = 1):
    """Three dense layers of 256 units, their weights changed before they are used.

    Args:
      change: A function of a weight.
      times: How often the layer in the middle is used.

    Returns:
      A function of a key, which returns parameters and loss.
    """

    def make(key: jax.Array):
        params = two_models.init_layers(key, (784, 256, 256, 10), "relu")

        def loss(params, example):
            image, label = example
            first, middle, last = (
                layer | {"kernel": change(layer["kernel"])} for layer in params
            )
            layers = [first, *[middle] * times, last]
            logits = two_models.apply_layers(layers, image, "relu")
            return optax.softmax_cross_entropy_with_integer_labels(logits, label)

        return params, loss

    return make


def standardize(w: jax.Array) -> jax.Array:
    """Weight standardization (Qiao et al., 2019)."""
    return (w - w.mean(0)) / jnp.sqrt(w.var(0) * len(w) + 1e-4)


def gru(key: jax.Array):
    """A gated recurrent unit of 128 over 16 rows of an image, by ``lax.scan``."""
    keys = jax.random.split(key, 3)
    params = {
        "x": 0.1 * jax.random.normal(keys[0], (49, 384)),
        "h": 0.1 * jax.random.normal(keys[1], (128, 384)),
        "bias": jnp.zeros(384),
        "out": 0.1 * jax.random.normal(keys[2], (128, 10)),
    }

    def loss(params, example):
        image, label = example

        def step(state, x):
            from_x = jnp.split(x @ params["x"] + params["bias"], 3)
            from_state = jnp.split(state @ params["h"], 3)
            update, reset = (
                jax.nn.sigmoid(a + b)
                for a, b in zip(from_x[:2], from_state[:2], strict=True)
            )
            value = jnp.tanh(from_x[2] + reset * from_state[2])
            return (1 - update) * state + update * value, None

        state, _ = jax.lax.scan(step, jnp.zeros(128), image.reshape(16, 49))
        logits = state @ params["out"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    return params, loss


def transformer(key: jax.Array):
    """A transformer block of width 128 and four heads on 28 rows of an image."""
    sizes = {
        "embed": (28, 128),
        "query": (128, 128),
        "key": (128, 128),
        "value": (128, 128),
        "mix": (128, 128),
        "wide": (128, 512),
        "narrow": (512, 128),
        "out": (128, 10),
    }
    keys = jax.random.split(key, len(sizes))
    params = {
        name: jax.random.normal(k, size) / size[0] ** 0.5
        for k, (name, size) in zip(keys, sizes.items(), strict=True)
    }
    params |= {"scale": jnp.ones((2, 128)), "offset": jnp.zeros((2, 128))}

    def loss(params, example):
        image, label = example
        x = image.reshape(28, 28) @ params["embed"]

        def normalized(i):
            y = jax.nn.standardize(x, -1)
            return y * params["scale"][i] + params["offset"][i]

        def heads(name):
            return (normalized(0) @ params[name]).reshape(28, 4, 32).swapaxes(0, 1)

        scores = heads("query") @ heads("key").swapaxes(1, 2) / 32**0.5
        mixed = (jax.nn.softmax(scores) @ heads("value")).swapaxes(0, 1)
        x = x + mixed.reshape(28, 128) @ params["mix"]
        x = x + jax.nn.gelu(normalized(1) @ params["wide"]) @ params["narrow"]
        logits = jnp.mean(x, 0) @ params["out"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label)

    return params, loss


def normalized_convnet(key: jax.Array):
    """The convnet with batch normalization in evaluation mode."""
    params, _ = convnet(key)
    params |= {f"scale{i}": jnp.ones(16 * i) for i in (1, 2)}
    params |= {f"offset{i}": jnp.zeros(16 * i) for i in (1, 2)}

    def loss(params, example):
        image, label = example
        x = image.reshape(1, 28, 28, 1)
        for i in (1, 2):
            x = jax.lax.conv_general_dilated(
                x,
                params[f"conv{i}"],
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            mean, variance = jnp.full(16 * i, 0.1), jnp.full(16 * i, 0.9)
            x = (x - mean) * (jax.lax.rsqrt(variance) * params[f"scale{i}"])
            x = jax.nn.relu(x + params[f"offset{i}"])
            _, h, w, c = x.shape
            x = x.reshape(1, h // 2, 2, w // 2, 2, c).mean((2, 4))
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
