"""A short training of each architecture on its own, before it is evaluated.

Its copy of the shared weights is trained for a few batches, while no other architecture
changes them. So nothing of it is overwritten: an order by these weights is what a
protection against forgetting could reach, if it cost nothing.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.settings import check_int, check_number
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.engine.training import Batch, TrainState, train_step
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Data


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How each architecture is trained on its own.

    Attributes:
      batches: Training batches, the first ones, the same for all architectures; 0 for
        no training.
      learning_rate: Of stochastic gradient descent, which begins anew with each.
      momentum: Of the heavy ball.
      clip_norm: Limit of the gradient's norm over all of the child.
    """

    batches: int = 0
    learning_rate: float = 0.01
    momentum: float = 0.9
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "batches", 0)
        check_number(self, "learning_rate", above=0)
        check_number(self, "momentum", least=0, below=1)
        check_number(self, "clip_norm", above=0)

    def transform(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer."""
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.sgd(self.learning_rate, self.momentum),
        )


NO_TUNING = Tuning()


@dataclasses.dataclass(frozen=True)
class TuningEvaluator(Evaluator):
    """Evaluates children after a training of each on its own."""

    tuning: Tuning = NO_TUNING

    def child(self, params: Any, architecture: Architecture, data: Data) -> Any:
        """The weights of a child after its training; the shared ones do not change."""
        child = super().child(params, architecture, data)
        if not self.tuning.batches:
            return child
        transform, key = self.tuning.transform(), jax.random.key(0)

        def step(state, number):
            batch = Batch(data, number, jax.random.fold_in(key, number))
            return train_step(self.task, transform, state, architecture, batch)[0], None

        start = TrainState(child, transform.init(child), self.task.init_carry())
        return jax.lax.scan(step, start, jnp.arange(self.tuning.batches))[0].params
