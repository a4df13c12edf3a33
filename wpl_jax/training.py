"""One step of training a child, in the search as in training from scratch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.parallel import ALONE, Axis
from wpl_jax.tasks.task import Data, Task


class Trainee(NamedTuple):
    """What a step changes."""

    params: Any  # of the child
    opt_state: optax.OptState
    stream: Any  # what the last batch left for the next


class Step(NamedTuple):
    """What is told of a step."""

    nats: jax.Array  # float[]; of the batch
    sound: jax.Array  # bool[]; whether all was finite


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
