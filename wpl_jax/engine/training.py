"""A step of training on one batch, in a search and in retraining."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.task import Data, Task


class TrainState(NamedTuple):
    """Parameters, optimizer state and carry, which a step updates."""

    params: Any  # of the child; of several at once, all shared ones
    opt_state: optax.OptState
    carry: Any  # what the last batch left for the next; of several, one each


class Batch(NamedTuple):
    """A training batch, and what a loss on it takes beside parameters and carry."""

    data: Data  # of the task
    number: jax.Array  # int32[]
    key: jax.Array  # PRNG key of the loss, for dropout and the like
    axis: Axis = NO_AXIS  # devices that share the batch; each has its part of the carry


class Step(NamedTuple):
    """Measurements of one training step."""

    loss: jax.Array  # float[]; of the batch
    sound: jax.Array  # bool[]; whether all was finite
    of_weights: Any = None  # gradient in the mixture's weights, if it was asked for


def stepped_by(
    transform: optax.GradientTransformation, opt_state: optax.OptState
) -> Callable[[Any, Any], Any]:
    """A function of parameters and a gradient: the parameters after a step.

    Args:
      transform: The optimizer.
      opt_state: Its state before the step. That after it is not kept.
    """

    def stepped(params, gradient):
        updates, _ = transform.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates)

    return stepped


def train_step(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    train_state: TrainState,
    architecture: Architecture,
    batch: Batch,
    of_weights: bool = False,
) -> tuple[TrainState, Step]:
    """A step on one batch; one that is not finite changes nothing.

    Args:
      task: Whose loss is minimised.
      transform: The optimizer.
      train_state: What is trained.
      architecture: What is trained.
      batch: On which it is trained.
      of_weights: Whether the same pass is to give the gradient in the weights of the
        mixture, zero where the step is not finite.

    Returns:
      The train state after the step, and what is told of it.
    """
    own = train_state.params, architecture.weights if of_weights else None

    def train_loss(own, *args):
        params, weights = own
        mixed = architecture
        if weights is not None:
            mixed = architecture._replace(weights=weights)
        return task.train_loss(params, mixed, *args)

    (gradient, of_mixture), carry, loss, sound = gradient_of_loss(
        train_loss, own, batch, train_state.carry
    )
    of_mixture = jax.tree.map(lambda g: jnp.where(sound, g, 0), of_mixture)
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
    return train_state, Step(loss, sound, of_mixture)


def gradient_of_batch(
    task: Task,
    params: Any,
    architecture: Architecture,
    batch: Batch,
    carry: Any,
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """The gradient of one batch, the carry, the loss, and whether all is finite."""

    def train_loss(params, *args):
        return task.train_loss(params, architecture, *args)

    return gradient_of_loss(train_loss, params, batch, carry)


def gradient_of_loss(
    train_loss: Callable[..., Any],
    params: Any,
    batch: Batch,
    carry: Any,
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """The same of a function of the parameters and of what follows them here."""
    gradient, (loss, carry) = jax.grad(train_loss, has_aux=True)(
        params, batch.data, carry, batch.number, batch.key, batch.axis
    )
    # Before anything is made of them: a mean of what is clipped is something else.
    gradient, loss = batch.axis.mean((gradient, loss))
    sound = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
    return gradient, carry, loss, sound
