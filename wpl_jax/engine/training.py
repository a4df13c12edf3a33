"""Training a child: a step, in a search as from scratch, and a search's loop of it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.parallel import ALONE, Axis
from wpl_jax.tasks.task import Data, Task


class Trainee(NamedTuple):
    """What a step changes."""

    params: Any  # of the child; of several at once, all shared ones
    opt_state: optax.OptState
    stream: Any  # what the last batch left for the next; of several, one each


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

    nats: jax.Array  # float[]; of the batch
    sound: jax.Array  # bool[]; whether all was finite


def train_batches(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    trainee: Trainee,
    skipped: Skipped,
    architecture: jax.Array,
    data: Data,
    first: jax.Array,
    batches: int,
    key: jax.Array,
    axis: Axis = ALONE,
) -> tuple[Trainee, Skipped, jax.Array]:
    """Steps on one batch after the other.

    Args:
      task: Whose loss is minimised.
      transform: The optimizer.
      trainee: What is trained.
      skipped: Steps before these.
      architecture: ``int32[num_decisions]``.
      data: Of the task.
      first: Number of the first training batch, ``int32[]``.
      batches: How many there are.
      key: PRNG key of all steps.
      axis: Devices that share each batch.

    Returns:
      The trainee and the skipped steps after it, and the mean nats of the batches
      on which they were finite.
    """

    def step(carry, i):
        trainee, skipped = carry
        trainee, (nats, sound) = train_step(
            task,
            transform,
            trainee,
            architecture,
            data,
            first + i,
            jax.random.fold_in(key, i),
            axis,
        )
        return (trainee, skipped.after(sound)), nats

    trainee = trainee._replace(stream=axis.share(trainee.stream))
    (trainee, skipped), nats = jax.lax.scan(
        step, (trainee, skipped), jnp.arange(batches)
    )
    trainee = trainee._replace(stream=axis.join(trainee.stream))
    return trainee, skipped, mean_of_finite(nats)


def mean_of_finite(nats: jax.Array) -> jax.Array:
    """Over the leading axis."""
    return jnp.nanmean(jnp.where(jnp.isfinite(nats), nats, jnp.nan), 0)


def train_step(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    trainee: Trainee,
    architecture: jax.Array,
    data: Data,
    step: jax.Array,
    key: jax.Array,
    axis: Axis = ALONE,
) -> tuple[Trainee, Step]:
    """A step on one batch; one that is not finite changes nothing.

    Args:
      task: Whose loss is minimised.
      transform: The optimizer.
      trainee: What is trained.
      architecture: ``int32[num_decisions]``.
      data: Of the task.
      step: Number of the training batch, ``int32[]``.
      key: PRNG key of the loss, for dropout and the like.
      axis: Devices that share the batch; of the stream each has its part.

    Returns:
      The trainee after the step, and what is told of it.
    """
    gradient, stream, nats, sound = gradient_of_batch(
        task, trainee.params, architecture, data, trainee.stream, step, key, axis
    )
    updates, opt_state = transform.update(gradient, trainee.opt_state, trainee.params)
    params = optax.apply_updates(trainee.params, updates)
    sound &= jnp.isfinite(optax.tree.norm(updates))
    trainee = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old),
        Trainee(params, opt_state, stream),
        trainee,
    )
    return trainee, Step(nats, sound)


def gradient_of_batch(
    task: Task,
    params: Any,
    architecture: jax.Array,
    data: Data,
    stream: Any,
    step: jax.Array,
    key: jax.Array,
    axis: Axis = ALONE,
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """The gradient of one batch, the stream, the nats, and whether all is finite."""
    gradient, (nats, stream) = jax.grad(task.train_loss, has_aux=True)(
        params, architecture, data, stream, step, key, axis
    )
    # Before anything is made of them: a mean of what is clipped is something else.
    gradient, nats = axis.mean((gradient, nats))
    sound = jnp.isfinite(nats) & jnp.isfinite(optax.tree.norm(gradient))
    return gradient, stream, nats, sound
