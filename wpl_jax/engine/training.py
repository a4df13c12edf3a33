"""Training a child: a step, in a search as from scratch, and a search's loop of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.task import Data, Task


class TrainState(NamedTuple):
    """What a step changes."""

    params: Any  # of the child; of several at once, all shared ones
    opt_state: optax.OptState
    carry: Any  # what the last batch left for the next; of several, one each


class Skipped(NamedTuple):
    """How many steps were not finite, and were left out."""

    of_epoch: jax.Array  # int32[]; in this epoch, one for each child of a step
    in_row: jax.Array  # int32[]; steps up to now of which no child's was finite

    def after(self, sound: jax.Array) -> "Skipped":
        """After a step of one child, or of several, ``bool[...]``."""
        in_row = jnp.where(jnp.any(sound), 0, self.in_row + 1)
        return Skipped(self.of_epoch + jnp.sum(~sound), in_row)


class Step(NamedTuple):
    """What is told of a step."""

    loss: jax.Array  # float[]; of the batch
    sound: jax.Array  # bool[]; whether all was finite


def train_batches(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    train_state: TrainState,
    skipped: Skipped,
    architecture: Architecture,
    data: Data,
    first: jax.Array,
    batches: int,
    key: jax.Array,
    axis: Axis = NO_AXIS,
) -> tuple[TrainState, Skipped, jax.Array]:
    """Steps on one batch after the other.

    Args:
      task: Whose loss is minimised.
      transform: The optimizer.
      train_state: What is trained.
      skipped: Steps before these.
      architecture: What is trained.
      data: Of the task.
      first: Number of the first training batch, ``int32[]``.
      batches: How many there are.
      key: PRNG key of all steps.
      axis: Devices that share each batch.

    Returns:
      The train state and the skipped steps after it, and the mean nats of the batches
      on which they were finite.
    """

    def step(carry, i):
        train_state, skipped = carry
        train_state, (loss, sound) = train_step(
            task,
            transform,
            train_state,
            architecture,
            data,
            first + i,
            jax.random.fold_in(key, i),
            axis,
        )
        return (train_state, skipped.after(sound)), loss

    train_state = train_state._replace(carry=axis.shard(train_state.carry))
    (train_state, skipped), loss = jax.lax.scan(
        step, (train_state, skipped), jnp.arange(batches)
    )
    train_state = train_state._replace(carry=axis.all_gather(train_state.carry))
    return train_state, skipped, mean_of_finite(loss)


def mean_of_finite(loss: jax.Array) -> jax.Array:
    """Over the leading axis."""
    return jnp.nanmean(jnp.where(jnp.isfinite(loss), loss, jnp.nan), 0)


def train_step(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    train_state: TrainState,
    architecture: Architecture,
    data: Data,
    step: jax.Array,
    key: jax.Array,
    axis: Axis = NO_AXIS,
) -> tuple[TrainState, Step]:
    """A step on one batch; one that is not finite changes nothing.

    Args:
      task: Whose loss is minimised.
      transform: The optimizer.
      train_state: What is trained.
      architecture: What is trained.
      data: Of the task.
      step: Number of the training batch, ``int32[]``.
      key: PRNG key of the loss, for dropout and the like.
      axis: Devices that share the batch; of the stream each has its part.

    Returns:
      The train state after the step, and what is told of it.
    """
    gradient, carry, loss, sound = gradient_of_batch(
        task, train_state.params, architecture, data, train_state.carry, step, key, axis
    )
    updates, opt_state = transform.update(
        gradient, train_state.opt_state, train_state.params
    )
    params = optax.apply_updates(train_state.params, updates)
    sound &= jnp.isfinite(optax.tree.norm(updates))
    train_state = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old),
        TrainState(params, opt_state, carry),
        train_state,
    )
    return train_state, Step(loss, sound)


def gradient_of_batch(
    task: Task,
    params: Any,
    architecture: Architecture,
    data: Data,
    carry: Any,
    step: jax.Array,
    key: jax.Array,
    axis: Axis = NO_AXIS,
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """The gradient of one batch, the carry, the nats, and whether all is finite."""
    gradient, (loss, carry) = jax.grad(task.train_loss, has_aux=True)(
        params, architecture, data, carry, step, key, axis
    )
    # Before anything is made of them: a mean of what is clipped is something else.
    gradient, loss = axis.mean((gradient, loss))
    sound = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
    return gradient, carry, loss, sound
