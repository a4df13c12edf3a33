"""Arrays in memory, a space of layers for them, and a network with batch statistics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import wpl_jax
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.engine.optimizers import Sgd
from wpl_jax.protections.estimators import Batch
from wpl_jax.protections.quadratic import WeightPlasticity
from wpl_jax.search import Search
from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.images import Outputs
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import ALL, EVERY_ROW, Decision, Graph, Space

CHOICES = ("relu", "tanh")


@dataclasses.dataclass(frozen=True)
class Layers(Space):
    """Layers of numbers, which return an array and know no keywords."""

    input_shape: tuple[int, ...]
    target_shape: tuple[int, ...] = (1,)
    hidden: int = 4
    layers: int = 2

    name = "layers"
    mixes = True

    @property
    def decisions(self):
        return tuple(Decision(f"layer_{i}", CHOICES) for i in range(self.layers))

    def init(self, key):
        keys = jax.random.split(key, 3)
        h, n = self.hidden, 2 * self.layers
        return {
            "first": jax.random.normal(keys[0], (*self.input_shape, h)) / 2,
            "layers": jax.random.normal(keys[1], (n, h, h)) / 4,
            "last": jax.random.normal(keys[2], (h, *self.target_shape)),
        }

    def rows(self, architecture):
        if architecture.weights is not None:
            return {"first": ALL, "layers": EVERY_ROW, "last": ALL}
        rows = 2 * jnp.arange(self.layers) + architecture.choice
        return {"first": ALL, "layers": rows, "last": ALL}

    def apply(self, child, architecture, inputs):
        x = inputs @ child["first"]
        for layer in range(self.layers):
            if architecture.weights is not None:
                one, other = (x @ child["layers"][2 * layer + i] for i in range(2))
                weight = architecture.weights[layer]
                x += weight[0] * jax.nn.relu(one) + weight[1] * jnp.tanh(other)
                continue
            y = x @ child["layers"][layer]
            chosen = architecture.choice[layer] == 0
            y = jnp.where(chosen, jax.nn.relu(y), jnp.tanh(y))
            if architecture.gates is not None:
                gates = architecture.gates[layer]
                own = gates[architecture.choice[layer]]
                y = own * y + (jnp.sum(gates) - own)
            x += y
        return x @ child["last"]

    def graphs(self, choice):
        return {"layers": Graph({"in": "in", "out": "out"}, (("in", "out", ""),))}


def layers_in_numpy(child, choice, x):
    """A child of :class:`Layers` in float64."""
    child = {name: np.asarray(value, np.float64) for name, value in child.items()}
    x = x @ child["first"]
    for layer, index in enumerate(choice):
        y = x @ child["layers"][layer]
        x = x + (np.maximum(y, 0) if index == 0 else np.tanh(y))
    return x @ child["last"]


@dataclasses.dataclass(frozen=True)
class Normalized(Space):
    """A linear model of images that are normalized by the batch."""

    image_shape: tuple[int, int, int]
    num_classes: int

    name = "normalized"
    decisions = (Decision("kernel", ("first", "second")),)

    def init(self, key):
        size = int(np.prod(self.image_shape))
        return {"kernel": jax.random.normal(key, (2, size, self.num_classes)) / 4}

    def rows(self, architecture):
        return {"kernel": architecture.choice}

    def apply(
        self, child, architecture, images, *, noise=None, batch_stats=None, axis=NO_AXIS
    ):
        if batch_stats is None:
            mean = axis.mean(jnp.mean(images, (0, 1, 2)))
            variance = axis.mean(jnp.mean((images - mean) ** 2, (0, 1, 2)))
            batch_stats = jax.lax.stop_gradient(Moments(mean, variance))
        x = (images - batch_stats.mean) / jnp.sqrt(batch_stats.variance + 0.1)
        logits = x.reshape(len(x), -1) @ child["kernel"][0]
        return Outputs(logits, None, batch_stats)

    def graphs(self, choice):
        return {"linear": Graph({"in": "in", "out": "out"}, (("in", "out", ""),))}


def numbers(count, seed=0, features=3, outputs=1):
    """Inputs and targets of a regression."""
    rng = np.random.default_rng(seed)
    x = rng.normal(2, 3, (count, features))
    y = np.sin(x).sum(1, keepdims=True) + rng.normal(0, 0.1, (count, outputs))
    return x, y


Sines = wpl_jax.task(
    kind="regression",
    train=numbers(120),
    standardize=True,
    name="sines",
    metrics={"distance": lambda outputs, targets: jnp.abs(outputs - targets)[:, 0]},
)

SPACE = Layers((3,))


def search_of_sines(**changes):
    """A search of sines that compiles fast."""
    given = {
        "task": Sines(SPACE, batch_size=8),
        "strategy": RandomSearch(SPACE, Candidates(4, 1, 2)),
        "protection": WeightPlasticity(strength=0.1, start_epoch=0, estimator=Batch()),
        "optimizer": Sgd(0.05, clip_norm=1.0),
        "children": 3,
        "batches": 4,
        "eval_batches": 1,
    }
    return Search(**given | changes)


SEARCH = search_of_sines()
