"""A search on the toy task, and the same written out in float64 numpy."""

import numpy as np

from helpers import toy
from helpers.parts import make_protection
from wpl_jax.engine.optimizers import Exponential, Sgd
from wpl_jax.protections.protection import NoProtection
from wpl_jax.search import Search
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates

CHILDREN, BATCHES, EVALUATED = 4, 2, 3

RATE, DECAY, WEIGHT_DECAY = 0.05, 0.5, 0.1

EPOCHS = 5


def make_search(task=None, protection=None, strategy=None, children=CHILDREN, **others):
    task = task or toy.ToyTask()
    candidates = Candidates(6, 2, 3)
    return Search(
        task=task,
        strategy=strategy or RandomSearch(task.space, candidates),
        protection=protection or NoProtection(),
        optimizer=Sgd(RATE, Exponential(DECAY, 2), None, WEIGHT_DECAY, None),
        children=children,
        batches=BATCHES,
        eval_batches=EVALUATED,
        **others,
    )


def run_epoch(search, state, data, epoch):
    state = search.begin_epoch(state, np.int32(epoch))
    for index in range(search.children):
        state = search.train_child(state, data, np.int32(epoch), np.int32(index))
    for index in range(search.children):
        state = search.evaluate_again(state, data, np.int32(index))
    return state


def make_penalty(**changes):
    settings = {"start_epoch": 1, "flush_every": 2, "strength": 3.0, "batches": 2}
    return make_protection(**settings | {"normalize": "tree"} | changes)


class Written:
    """The same search in numpy, weights in float64."""

    def __init__(self, params, data, penalty):
        self.params = {k: np.asarray(v, np.float64) for k, v in params.items()}
        self.data = [np.asarray(split, np.float64) for split in data]
        self.anchor = {k: np.zeros_like(v) for k, v in self.params.items()}
        self.fisher, self.average = (
            {k: np.zeros_like(v) for k, v in self.params.items()} for _ in range(2)
        )
        self.penalty = penalty

    def parts(self, architecture):
        """Of each parameter, where the child has its share."""
        return {
            "shared": slice(None),
            "a": slice(architecture[0], architecture[0] + 1),
            "b": slice(architecture[1], architecture[1] + 1),
        }

    def predict(self, architecture):
        return sum(
            toy.FACTORS[k] * self.params[k][part].reshape(toy.SIZE)
            for k, part in self.parts(architecture).items()
        )

    def loss(self, architecture, batches):
        y = self.predict(architecture)
        return np.mean([0.5 * np.sum((y - x) ** 2, -1).mean() for x in batches])

    def evaluate(self, architecture):
        return self.loss(architecture, self.data[1][:EVALUATED])

    def gradient(self, architecture, batch):
        error = self.predict(architecture) - batch.mean(0)
        return {
            k: toy.FACTORS[k] * error.reshape(self.params[k][part].shape)
            for k, part in self.parts(architecture).items()
        }

    def rate(self, architecture, epoch):
        return RATE * DECAY ** max(epoch - 1, 0)

    def train(self, architecture, epoch, index):
        p, rate = self.penalty, self.rate(architecture, epoch)
        for i in range(BATCHES):
            number = (epoch * CHILDREN + index) * BATCHES + i
            batch = self.data[0][number % len(self.data[0])]
            gradient = self.gradient(architecture, batch)
            for k, part in self.parts(architecture).items():
                theta, f = self.params[k][part], p.strength * self.fisher[k][part]
                step = gradient[k] + WEIGHT_DECAY * theta
                if p.step == "explicit":
                    step = step + f * (theta - self.anchor[k][part])
                theta = theta - rate * step
                if p.step == "proximal":
                    theta = (theta + rate * f * self.anchor[k][part]) / (1 + rate * f)
                self.params[k][part] = theta

    def protect(self, architecture, epoch, index):
        if epoch < self.penalty.start_epoch:
            return
        number, parts = epoch * CHILDREN + index, self.parts(architecture)
        squares = dict.fromkeys(parts, 0.0)
        for i in range(self.penalty.estimator.batches):
            batch = self.data[1][(number * 2 + i) % len(self.data[1])]
            for k, g in self.gradient(architecture, batch).items():
                squares[k] += g**2 / self.penalty.estimator.batches
        for k, part in parts.items():
            self.average[k][part] = 0.1 * self.average[k][part] + squares[k]
        mean = np.concatenate([self.average[k][p].ravel() for k, p in parts.items()])
        for k, part in parts.items():
            decay = self.penalty.anchor_decay * (self.fisher[k][part] > 0)
            self.fisher[k][part] = self.average[k][part] / mean.mean()
            moved = decay * self.anchor[k][part] + (1 - decay) * self.params[k][part]
            self.anchor[k][part] = moved

    def flush(self):
        for tree in (self.fisher, self.average):
            for leaf in tree.values():
                leaf[...] = 0
