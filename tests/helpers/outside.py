"""Parts of a search that lie outside of the library, as users write them."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import optax

from wpl_jax.evaluation.truth import Truth
from wpl_jax.protections import NoProtection
from wpl_jax.strategies.strategy import Candidates, Strategy
from wpl_jax.supernet import Architecture


@dataclasses.dataclass(frozen=True)
class Pull(NoProtection):
    """A penalty with a setting of its own, and without an epoch it starts in."""

    pull: float = 0.1

    def wrap(self, optimizer, rate, alpha):
        return optax.chain(optax.add_decayed_weights(self.pull), optimizer)


@dataclasses.dataclass(frozen=True)
class FirstChoices(Strategy):
    """A strategy without settings: every other child is the first choices."""

    space: Any

    candidates = Candidates(4, 1, 2)

    def init(self, key):
        return jnp.int32(0)

    def begin_epoch(self, state, epoch):
        return state + 1

    def propose(self, state, key):
        drawn = self.space.sample(key)
        return Architecture(jnp.where(state % 2 == 0, drawn, jnp.zeros_like(drawn)))


@dataclasses.dataclass(frozen=True)
class Table(Truth):
    """The true error is the sum of the choices' numbers, and more."""

    more: float = 0.5

    about = "by a table"

    def of(self, space, choices, train):
        assert train is None
        return [float(sum(choice) + self.more) for choice in choices]


@dataclasses.dataclass(frozen=True)
class Orphan:
    """Not a protection."""
