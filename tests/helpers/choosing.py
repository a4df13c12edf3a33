"""Networks with choices, and the same networks written by hand for one architecture."""

import jax
import jax.numpy as jnp
from flax import nnx

import wpl_jax

SHAPE, CLASSES = (4, 4, 2), 3


def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


# A function: branches with kernels of the same and of other shapes, with a parameter
# of two branches, of all branches, and with none; a choice inside of a branch; inputs.
def init(key, image_shape, num_classes, channels: int = 4):
    c = channels
    shapes = {
        "stem": (1, 1, image_shape[-1], c),
        "first": {"one": (1, 1, c, c), "three": (3, 3, c, c), "other": (1, 1, c, c)},
        "second": {"inner": (1, 1, c, c), "both": (c,), "all": (c,)},
        "last": (c, num_classes),
    }
    leaves, tree = jax.tree.flatten(shapes, is_leaf=lambda x: isinstance(x, tuple))
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, s) / 2 for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


@wpl_jax.space(init=init)
def plain(params, images):
    first, second = params["first"], params["second"]
    x = convolve(images, params["stem"])
    y = wpl_jax.choice(
        "first",
        {
            "one": lambda x: jnp.tanh(convolve(x, first["one"])),
            "three": lambda x: jnp.sin(convolve(x, first["three"])),
            "other": lambda x: convolve(jnp.cos(x), first["other"]),
            "skip": lambda x: x,
        },
        x,
    )

    def nested(y):
        inner = {"sin": jnp.sin, "inner": lambda y: convolve(y, second["inner"])}
        return second["all"] * wpl_jax.choice("inner", inner, y)

    z = wpl_jax.choice(
        "second",
        {
            "nested": nested,
            "add": lambda y: y + second["both"] + second["all"],
            "multiply": lambda y: y * second["both"] - second["all"],
        },
        y,
    )
    a, b = wpl_jax.choice_of_inputs("inputs", {"x": x, "y": y, "z": z}, count=2)
    return (a + 2 * b).mean((1, 2)) @ params["last"]


def plain_by_hand(params, images, chosen):
    """The same for one architecture, by the names of its choices."""
    first, second = params["first"], params["second"]
    x = convolve(images, params["stem"])
    if chosen["first"] == "one":
        y = jnp.tanh(convolve(x, first["one"]))
    elif chosen["first"] == "three":
        y = jnp.sin(convolve(x, first["three"]))
    elif chosen["first"] == "other":
        y = convolve(jnp.cos(x), first["other"])
    else:
        y = x
    if chosen["second"] == "add":
        z = y + second["both"] + second["all"]
    elif chosen["second"] == "multiply":
        z = y * second["both"] - second["all"]
    elif chosen["inner"] == "sin":
        z = second["all"] * jnp.sin(y)
    else:
        z = second["all"] * convolve(y, second["inner"])
    a, b = ({"x": x, "y": y, "z": z}[name] for name in chosen["inputs"].split("+"))
    return (a + 2 * b).mean((1, 2)) @ params["last"]


class Block(nnx.Module):
    """A convolution and a batch normalization."""

    def __init__(self, size, channels, rngs):
        self.conv = nnx.Conv(channels, channels, (size, size), rngs=rngs)
        self.norm = nnx.BatchNorm(channels, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.conv(nnx.relu(x)))


@wpl_jax.space
class Modular(nnx.Module):
    """A module: branches that are modules, that close over modules, and functions."""

    def __init__(
        self, image_shape, num_classes, layers: int = 2, channels=4, rate=0.0, *, rngs
    ):
        c = channels
        self.stem = nnx.Conv(image_shape[-1], c, (1, 1), rngs=rngs)
        self.threes = nnx.List([Block(3, c, rngs) for _ in range(layers)])
        self.ones = nnx.List([Block(1, c, rngs) for _ in range(layers)])
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(c, num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.stem(images)
        for i, one in enumerate(self.ones):
            x += wpl_jax.choice(
                f"layer_{i}",
                {
                    "three": self.threes[i],
                    "one": lambda x, one=one: self.dropout(one(jnp.sin(x))),
                    "skip": jnp.zeros_like,
                },
                x,
            )
        return self.last(x.mean((1, 2)))


def normalize(x):
    mean = x.mean((0, 1, 2))
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean((0, 1, 2)) + 1e-5)


def modular_by_hand(params, images, chosen):
    """The same without modules, without dropout."""

    def block(own, x):
        y = convolve(jnp.maximum(x, 0), own["conv"]["kernel"]) + own["conv"]["bias"]
        return normalize(y) * own["norm"]["scale"] + own["norm"]["bias"]

    x = convolve(images, params["stem"]["kernel"]) + params["stem"]["bias"]
    for i, name in enumerate(chosen.values()):
        if name == "three":
            x = x + block(params["threes"][i], x)
        elif name == "one":
            x = x + block(params["ones"][i], jnp.sin(x))
    return x.mean((1, 2)) @ params["last"]["kernel"] + params["last"]["bias"]


@wpl_jax.space
class Rungs(nnx.Module):
    """Layers of numbers, each a product with one of two activations, or nothing."""

    def __init__(self, input_shape, target_shape, layers=3, hidden=3, *, rngs):
        def new(activation):
            return nnx.Sequential(nnx.Linear(hidden, hidden, rngs=rngs), activation)

        self.first = nnx.LinearGeneral(input_shape, hidden, axis=-1, rngs=rngs)
        self.pairs = nnx.data([[new(nnx.relu), new(nnx.tanh)] for _ in range(layers)])
        self.last = nnx.LinearGeneral(hidden, target_shape, axis=-1, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        for i, (relu, tanh) in enumerate(self.pairs):
            branches = {"relu": relu, "tanh": tanh, "skip": lambda x: 0 * x}
            x += wpl_jax.choice(f"layer_{i}", branches, x)
        return self.last(x)
