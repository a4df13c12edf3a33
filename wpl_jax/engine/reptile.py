"""Children that all start from the shared weights, which move to their mean (SUMNAS).

"SUMNAS: Supernet with Unbiased Meta-Features for Neural Architecture Search" (ICLR
2022), with the outer step of Reptile (Nichol, Achiam, Schulman, "On First-Order
Meta-Learning Algorithms", 2018). Each of ``K`` children takes some steps from the
shared weights ``W`` to weights ``w_k``. Then

    W <- W + rate / K sum_k (w_k - W).

So no child is trained on weights that another one has changed. Of a weight that a
child does not use, ``w_k - W`` is 0.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.settings import check_number
from wpl_jax.engine.joint_training import Child, Together, batches_of_several
from wpl_jax.engine.state import rows_of_state
from wpl_jax.engine.trainer import Progress, Stretch, mean_of_finite
from wpl_jax.engine.training import Batch, TrainState, train_step
from wpl_jax.engine.updates import Update
from wpl_jax.supernet import add_rows, gather
from wpl_jax.tasks.task import Data


@dataclasses.dataclass(frozen=True)
class Reptile(Update):
    """Moves the shared weights to the mean of ``search.children_per_step`` children.

    Each child takes ``search.batches`` steps.

    Attributes:
      rate: Of the step to the mean. With 1 the new weights are the mean. A row that one
        of ``K`` children uses then moves by ``1 / K`` of the change of this child.
    """

    rate: float = 1.0

    one_path = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_number(self, "rate", above=0)

    def trainer(self, task, strategy, batches, devices, children, changes_rows):
        """The trainer, for any number of children."""
        del changes_rows
        return FromTheSame(task, strategy, batches, devices, children, self.rate)

    def copies(self, children, state):
        """The sum of the changes, and the new parameters with their optimizer state."""
        del children
        return 2 * state


@dataclasses.dataclass(frozen=True)
class FromTheSame(Together):
    """Trains each child from the shared weights, as if there were no other.

    The optimizer state of a weight, such as its momentum, starts from the shared one as
    well, and moves to the mean with a rate of 1.

    Attributes:
      rate: Of the step to the mean.
    """

    rate: float

    def train(
        self,
        transform: optax.GradientTransformationExtraArgs,
        progress: Progress,
        stretch: Stretch,
        data: Data,
    ) -> tuple[Progress, jax.Array]:
        """Trains the children, then steps to their mean; see ``Trainer.train``."""
        done = stretch.first[0] // self.children
        first, stride = batches_of_several(self.task, data, done, self.children)
        params, opt_state, carries = progress.train_state

        def train_one(total, item):
            child, carry = item
            rows = self.task.space.rows(child.architecture)
            of_state = rows_of_state(transform, opt_state, rows)
            own, state = gather((params, opt_state), (rows, of_state))
            ended, told = self._steps(
                transform, TrainState(own, state, carry), child, stride, data
            )
            changes = _changes((ended.params, ended.opt_state), (own, state))
            total = add_rows(total, (rows, of_state), changes)
            return total, (ended.carry, told)

        nothing = _changes((params, opt_state), (params, opt_state))
        children = Child(progress.architectures, first, stretch.keys)
        (of_params, of_state), (carries, told) = self.devices.children.accumulate(
            train_one, nothing, (children, carries)
        )
        train_state = TrainState(
            self._moved(params, of_params, self.rate),
            self._moved(opt_state, of_state, 1.0),
            carries,
        )

        def count(skipped, sound):
            return skipped.after(sound), None

        skipped, _ = jax.lax.scan(count, progress.skipped, told.sound.T)
        progress = progress._replace(train_state=train_state, skipped=skipped)
        return progress, mean_of_finite(told.loss.T)

    def _steps(self, transform, train_state, child, stride, data):
        """The steps of one child, each on a batch of its own."""
        axis = self.devices.batch

        def step(train_state, i):
            key = jax.random.fold_in(child.key, i)
            batch = Batch(data, child.step + i * stride, key, axis)
            return train_step(
                self.task, transform, train_state, child.architecture, batch
            )

        started = train_state._replace(carry=axis.shard(train_state.carry))
        ended, told = jax.lax.scan(step, started, jnp.arange(self.batches))
        return ended._replace(carry=axis.all_gather(ended.carry)), told

    def _moved(self, tree, changes, rate):
        """A tree moved by the mean of changes, of which it has the sum."""

        def move(x, total):
            # Of a count, which changes alike for all children, the quotient is exact.
            return x + (rate * (total / self.children)).astype(x.dtype)

        return jax.tree.map(move, tree, changes)


def _changes(after: Any, before: Any) -> Any:
    return jax.tree.map(jnp.subtract, after, before)
