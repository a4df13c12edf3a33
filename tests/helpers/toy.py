"""A supernet whose gradients one can write down, and a configuration that searches it.

A child predicts ``shared + 2 a + 3 b``, where ``a`` and ``b`` are rows that its two
decisions take from two stacks; the loss is half the squared distance to examples.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from configs import enas_rnn_pydoc
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.evaluation.plain_networks import Baseline
from wpl_jax.supernet import ALL, EVERY_ROW, Decision, Graph, Space
from wpl_jax.tasks import Evaluation
from wpl_jax.tasks.guessing import of_losses

ROWS, SIZE = 3, 2
FACTORS = {"shared": 1.0, "a": 2.0, "b": 3.0}


@dataclasses.dataclass(frozen=True)
class ToySpace(Space):
    name = "toy"
    mixes = True
    decisions = (
        Decision("a", ("0", "1", "2"), ordered=True),
        Decision("b", ("0", "1", "2")),
    )

    def init(self, key):
        keys = jax.random.split(key, 3)
        return {
            "shared": jax.random.normal(keys[0], (SIZE,)),
            "a": jax.random.normal(keys[1], (ROWS, SIZE)),
            "b": jax.random.normal(keys[2], (ROWS, SIZE)),
        }

    def rows(self, architecture):
        if architecture.weights is not None:
            return {"shared": ALL, "a": EVERY_ROW, "b": EVERY_ROW}
        return {
            "shared": ALL,
            "a": architecture.choice[:1],
            "b": architecture.choice[1:],
        }

    def apply(self, child, architecture, inputs, **kwargs):
        y = child["shared"]
        for decision, name in enumerate("ab"):
            rows = child[name]
            part = rows[0]
            if architecture.weights is not None:
                part = architecture.weights[decision] @ rows
            if architecture.gates is not None:
                gates = architecture.gates[decision]
                own = gates[architecture.choice[decision]]
                part = own * part + (jnp.sum(gates) - own)
            y += FACTORS[name] * part
        return y

    def graphs(self, choice):
        return {"toy": Graph({"in": "in", "out": "out"}, (("in", "out", ""),))}


@dataclasses.dataclass(frozen=True)
class Points(Space):
    """The prediction is the sum of so many vectors, without a choice."""

    number: int
    name = "points"
    decisions = ()

    def init(self, key):
        return {"vectors": jax.random.normal(key, (self.number, SIZE))}

    def rows(self, architecture):
        return {"vectors": ALL}

    def apply(self, child, architecture, inputs, **kwargs):
        return child["vectors"].sum(0)


BASELINE = Baseline("helpers.toy:Points", "number")


class ToyData(NamedTuple):
    train: Any  # float32[batches, examples, size]
    valid: Any
    test: Any


def make_data(seed=0, batches=5, examples=4):
    rng = np.random.default_rng(seed)
    return ToyData(
        *(
            jnp.asarray(rng.normal(size=(batches, examples, SIZE)), jnp.float32)
            for _ in ToyData._fields
        )
    )


@dataclasses.dataclass(frozen=True)
class ToyTask:
    space: ToySpace = ToySpace()
    seed: int = 0

    error_name = "distance"
    data_fields = ("seed",)
    predictions_per_batch = rows_per_batch = 4

    @staticmethod
    def open():
        return "toy examples"

    def check(self, dataset):
        pass

    def space_sizes(self, dataset):
        return {}

    def put(self, dataset, devices):
        return make_data(self.seed)

    def describe(self, dataset):
        return dataset

    def init_carry(self):
        return jnp.zeros(self.predictions_per_batch)

    def num_batches(self, data, split):
        return getattr(data, split).shape[0]

    def train_loss(
        self,
        child,
        architecture,
        data,
        carry,
        step,
        key,
        axis=NO_AXIS,
        split="train",
    ):
        nats = self.fisher_loss(child, architecture, data, split, step, axis)
        return nats, (nats, carry + 1)

    def validate(self, child, architecture, data, first, batches, axis=NO_AXIS):
        def add(i, total):
            return total + self.fisher_loss(
                child, architecture, data, "valid", first + i, axis
            )

        total = jax.lax.fori_loop(0, batches, add, 0.0)
        return _evaluation(axis.mean(total) / batches)

    def evaluate(self, child, architecture, data, split, axis=NO_AXIS):
        examples = getattr(data, split).reshape(-1, SIZE)
        losses = jax.vmap(self.example_loss, (None, None, 0))
        return _evaluation(jnp.mean(losses(child, architecture, examples)))

    def predict(self, child, architecture, data, inputs):
        y = self.space.apply(child, architecture, inputs)
        return -jnp.sum((inputs - y) ** 2, -1, keepdims=True) / 2

    def fisher_loss(self, child, architecture, data, split, step, axis=NO_AXIS):
        examples = self.fisher_examples(child, architecture, data, split, step, axis)
        return jnp.mean(
            jax.vmap(self.example_loss, (None, None, 0))(child, architecture, examples)
        )

    def fisher_examples(self, child, architecture, data, split, step, axis=NO_AXIS):
        examples = getattr(data, split)
        return axis.shard(examples[step % len(examples)])

    def example_loss(self, child, architecture, example):
        y = self.space.apply(child, architecture, example)
        return jnp.sum((y - example) ** 2) / 2

    def sample_labels(self, key, child, architecture, example):
        y = self.space.apply(child, architecture, example)
        return y + jax.random.normal(key, y.shape)

    def guess(self, data):
        train, valid = (np.reshape(x, (-1, SIZE)) for x in (data.train, data.valid))
        losses = np.sum((valid - train.mean(0)) ** 2, 1) / 2
        return of_losses(losses, lambda nats: float(np.sqrt(2 * max(nats, 0))))

    def reward(self, evaluation):
        return jnp.exp(-evaluation.loss)


def _evaluation(nats):
    """With the distance as the error."""
    return Evaluation(nats, jnp.sqrt(2 * nats))


def get_config():
    """A search of seconds with all its parts."""
    config = enas_rnn_pydoc.get_config()
    config.num_seeds = 1
    config.task = ConfigDict({"name": "helpers.toy:ToyTask", "ToyTask": {"seed": 0}})
    config.space = ConfigDict({"name": "helpers.toy:ToySpace", "ToySpace": {}})
    config.search.epochs = 3
    config.search.children = 4
    config.search.batches = 2
    config.search.eval_batches = 3
    config.search.learn_per_call = 2
    config.search.checkpoint_seconds = 1e6  # Only the ends of epochs save.
    config.optimizer.sgd.learning_rate = 0.05
    config.optimizer.sgd.clip_norm = None
    config.strategy.enas.steps = 4
    config.strategy.enas.hidden = 5
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 6, "screen_batches": 2, "keep": 3}
    )
    config.strategy.random.candidates = config.strategy.enas.candidates
    for name in ("ewc", "l2", "wpl"):
        config.penalty[name].start_epoch = 1
    config.retrain.epochs = 2
    config.retrain.checkpoint_seconds = 1e6
    config.retrain.baselines.names = ()
    config.retrain.space = ConfigDict()
    config.retrain.task = ConfigDict()
    config.retrain.optimizer.sgd.learning_rate = 0.05
    return config
