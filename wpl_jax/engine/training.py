"""A step of training on one batch, in a search and in retraining."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.supernet import Architecture, norms_of_choices
from wpl_jax.tasks.task import Data, Task


class TrainState(NamedTuple):
    """Parameters, optimizer state and carry, which a step updates."""

    params: Any  # of the child; all shared ones if several are trained together
    opt_state: optax.OptState
    carry: Any  # passed from batch to batch; for several children, one each


class Batch(NamedTuple):
    """Arguments of a loss on one batch, except parameters and carry."""

    data: Data  # of the task
    number: jax.Array  # int32[]
    key: jax.Array  # PRNG key of the loss, for dropout and the like
    axis: Axis = NO_AXIS  # devices that divide the batch and the carry


class Step(NamedTuple):
    """Measurements of one training step."""

    loss: jax.Array  # float[]; of the batch
    sound: jax.Array  # bool[]; whether loss, gradient and update are finite
    of_weights: Any = None  # gradient in the mixture's weights, if requested
    norms: Any = None  # float32[decisions]; of the gradient, if requested


def stepped_by(
    transform: optax.GradientTransformation, opt_state: optax.OptState
) -> Callable[[Any, Any], Any]:
    """A function of parameters and a gradient: the parameters after a step.

    Args:
      transform: The optimizer.
      opt_state: Its state before the step. The state after it is discarded.
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
    norms: bool = False,
) -> tuple[TrainState, Step]:
    """A step on one batch. If it is not finite, the state does not change.

    Args:
      task: The task whose loss is minimised.
      transform: The optimizer.
      train_state: The state before the step.
      architecture: The child or mixture that is trained.
      batch: The training batch.
      of_weights: Whether the same pass computes the gradient in the weights of the
        mixture. It is 0 if the step is not finite.
      norms: Whether the norms of the gradient of each choice's rows are computed.

    Returns:
      The train state after the step, and the measurements of the step.
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
    of_choices = None
    if norms:
        of_choices = finite_norms(task, architecture, gradient, sound)
    return train_state, Step(loss, sound, of_mixture, of_choices)


def finite_norms(
    task: Task, architecture: Architecture, gradient: Any, sound: jax.Array
) -> jax.Array:
    """Norms of the gradient of each choice's rows, ``float32[decisions]``.

    They are 0 if the step is not finite.
    """
    found = norms_of_choices(task.space, architecture.choice, gradient)
    return jnp.where(sound, found, 0)


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
    """Like :func:`gradient_of_batch`, for any loss function.

    ``train_loss`` takes the parameters, then data, carry, number, key and axis.
    """
    gradient, (loss, carry) = jax.grad(train_loss, has_aux=True)(
        params, batch.data, carry, batch.number, batch.key, batch.axis
    )
    # Averaged before clipping, as the mean of clipped gradients is another one.
    gradient, loss = batch.axis.mean((gradient, loss))
    sound = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
    return gradient, carry, loss, sound
