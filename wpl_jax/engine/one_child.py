"""Training one child on its own rows of the shared parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.slope import Slope, SlopeOfPass
from wpl_jax.engine.trainer import (
    Estimate,
    Progress,
    Stretch,
    Trainer,
    first_of,
    key_of_strategy,
    mean_of_finite,
)
from wpl_jax.engine.training import Batch, stepped_by, train_step
from wpl_jax.strategies import Strategy
from wpl_jax.supernet import Architecture, real_rows
from wpl_jax.tasks.task import Data, Task


@dataclasses.dataclass(frozen=True)
class OneChild(Trainer):
    """Trains one child on the rows that it uses, so a step costs that of one child.

    It takes no companions.

    Attributes:
      task: The task whose loss is minimised.
      strategy: May learn before each batch, or from the pass of the training step.
      batches: Batches of the child in a call.
      devices: Devices that divide each batch.
    """

    task: Task
    strategy: Strategy
    batches: int
    devices: Devices

    def init_carry(self) -> Any:
        """The carry before the first batch."""
        return self.task.init_carry()

    def rows(self, architectures: Architecture) -> Any:
        """The rows of the child."""
        return self.task.space.rows(first_of(architectures))

    def train(
        self,
        transform: optax.GradientTransformationExtraArgs,
        progress: Progress,
        stretch: Stretch,
        data: Data,
    ) -> tuple[Progress, jax.Array]:
        """Steps on each batch; see :meth:`Trainer.train`."""
        axis = self.devices.batch
        number, key = first_of((stretch.first, stretch.keys))

        def step(progress, i):
            batch = Batch(data, number + i, jax.random.fold_in(key, i), axis)
            return self._step(transform, progress, batch)

        # The steps have no axis of children.
        progress = progress._replace(architectures=first_of(progress.architectures))
        progress = progress.with_carry(axis.shard)
        progress, loss = jax.lax.scan(step, progress, jnp.arange(self.batches))
        progress = progress.with_carry(axis.all_gather)
        architectures, loss = jax.tree.map(
            lambda x: x[None], (progress.architectures, mean_of_finite(loss))
        )
        return progress._replace(architectures=architectures), loss

    def _step(self, transform, progress, batch):
        """A step on one batch; the strategy may learn before or after it."""
        architecture, strategy, train_state, skipped = progress
        own_key, shares = key_of_strategy(batch.key), self.strategy.shares_pass
        if not shares:
            slope = Slope(
                self.task,
                lambda _: train_state.params,
                batch,
                train_state.carry,
                stepped_by(transform, train_state.opt_state),
            )
            strategy, architecture = self.strategy.step(
                strategy, architecture, slope, own_key
            )
        train_state, told = train_step(
            self.task,
            transform,
            train_state,
            architecture,
            batch,
            of_weights=shares,
            norms=self.strategy.uses_norms,
        )
        if self.strategy.uses_norms:
            trained = jax.tree.map(lambda x: x[None], architecture)
            strategy = self.strategy.after_step(strategy, trained, told.norms[None])
        if shares:
            known = SlopeOfPass(told.loss, told.of_weights)
            strategy, architecture = self.strategy.step(
                strategy, architecture, known, own_key
            )
        skipped = skipped.after(told.sound)
        return Progress(architecture, strategy, train_state, skipped), told.loss

    def estimate(
        self, params: Any, architectures: Architecture, each: Estimate, keys: jax.Array
    ) -> tuple[Any, Any]:
        """A protection's estimate for the child; see :meth:`Trainer.estimate`."""
        architecture = first_of(architectures)
        found = each(params, architecture, 0, keys[0], self.devices.batch)
        return found, real_rows(params, self.task.space.rows(architecture))
