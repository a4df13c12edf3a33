"""Training a child: the step of a search and of retraining, and a search's loop."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.slope import Slope, SlopeOfPass
from wpl_jax.strategies import Strategy
from wpl_jax.supernet import Architecture, real_rows
from wpl_jax.tasks.task import Data, Task


class TrainState(NamedTuple):
    """Parameters, optimizer state and carry, which a step updates."""

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
    """Measurements of one training step."""

    loss: jax.Array  # float[]; of the batch
    sound: jax.Array  # bool[]; whether all was finite
    of_weights: Any = None  # gradient in the mixture's weights, if it was asked for


Estimate = Callable[[Any, Architecture, Any, jax.Array, Axis], Any]


class Companions(NamedTuple):
    """Architectures that are rehearsed beside a child; of several, arrays of all."""

    architectures: Architecture  # along a leading axis of companions
    weights: jax.Array  # float32[1 + companions]; of the losses, the child's first


class Child(NamedTuple):
    """One of the children of a call; of several, arrays of all."""

    architecture: Architecture
    step: jax.Array  # int32[]; number of its first training batch
    key: jax.Array  # of all of its steps


class Progress(NamedTuple):
    """What a call of training leaves, beside the carry."""

    train_state: TrainState
    skipped: Skipped
    strategy: Any  # state of the strategy
    architectures: Architecture  # as they are trained last, along a leading axis
    loss: jax.Array  # float32[children]; mean over the batches with a finite step


# To a key of a step: for the strategy, out of the reach of what a loss splits it into.
_OF_STRATEGY = 2**31 - 1


def key_of_strategy(key: jax.Array) -> jax.Array:
    """A key for the strategy in a step, from that of the step."""
    return jax.random.fold_in(key, _OF_STRATEGY)


@dataclasses.dataclass(frozen=True)
class OneChild:
    """Trains one child on its own parameters, at the cost of a child.

    Attributes:
      task: Whose loss is minimised.
      strategy: Which may learn before each batch.
      devices: Among which each batch is divided.
    """

    task: Task
    strategy: Strategy
    devices: Devices

    def init_carry(self) -> Any:
        """What the first batch starts from."""
        return self.task.init_carry()

    def rows(self, architectures: Architecture) -> Any:
        """Which rows of the shared parameters are trained."""
        return self.task.space.rows(first_of(architectures))

    def train(
        self,
        transform: optax.GradientTransformationExtraArgs,
        train_state: TrainState,
        skipped: Skipped,
        strategy: Any,
        companions: Companions | None,
        children: Child,
        data: Data,
        batches: int,
    ) -> Progress:
        """Steps on one batch after the other.

        Args:
          transform: The optimizer.
          train_state: Of the child's parameters.
          skipped: Steps before these.
          strategy: State of the strategy.
          companions: None.
          children: The child, along a leading axis of 1.
          data: Of the task.
          batches: How many.
        """
        del companions
        axis, child = self.devices.batch, first_of(children)

        def step(carry, i):
            architecture, strategy, train_state, skipped = carry
            number, key = child.step + i, jax.random.fold_in(child.key, i)
            slope = Slope(
                self.task,
                lambda _: train_state.params,
                data,
                train_state.carry,
                number,
                key,
                axis,
            )
            own_key, shares = key_of_strategy(key), self.strategy.shares_pass
            if not shares:
                strategy, architecture = self.strategy.step(
                    strategy, architecture, slope, own_key
                )
            train_state, told = train_step(
                self.task,
                transform,
                train_state,
                architecture,
                data,
                number,
                key,
                axis,
                of_weights=shares,
            )
            if shares:
                known = SlopeOfPass(told.loss, told.of_weights)
                strategy, architecture = self.strategy.step(
                    strategy, architecture, known, own_key
                )
            skipped = skipped.after(told.sound)
            return (architecture, strategy, train_state, skipped), told.loss

        train_state = train_state._replace(carry=axis.shard(train_state.carry))
        start = child.architecture, strategy, train_state, skipped
        end, loss = jax.lax.scan(step, start, jnp.arange(batches))
        architecture, strategy, train_state, skipped = end
        train_state = train_state._replace(carry=axis.all_gather(train_state.carry))
        loss = mean_of_finite(loss)
        return Progress(
            train_state, skipped, strategy, *jax.tree.map(_alone, (architecture, loss))
        )

    def estimate(
        self, params: Any, architectures: Architecture, each: Estimate, keys: jax.Array
    ) -> tuple[Any, Any]:
        """What a protection estimates of the child, and what of it is there.

        Args:
          params: Of the child.
          architectures: The child, along a leading axis of 1.
          each: Of parameters, an architecture, a place in the call, a key and an axis,
            the estimate.
          keys: A key, along a leading axis of 1.
        """
        architecture = first_of(architectures)
        found = each(params, architecture, 0, keys[0], self.devices.batch)
        return found, real_rows(params, self.task.space.rows(architecture))


def first_of(tree: Any) -> Any:
    """The first child of arrays of several."""
    return jax.tree.map(lambda x: x[0], tree)


def _alone(x: jax.Array) -> jax.Array:
    return x[None]


def mean_of_finite(loss: jax.Array) -> jax.Array:
    """Mean of the finite entries over the leading axis."""
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
    of_weights: bool = False,
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
        train_loss, own, data, train_state.carry, step, key, axis
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
    data: Data,
    carry: Any,
    step: jax.Array,
    key: jax.Array,
    axis: Axis = NO_AXIS,
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """The gradient of one batch, the carry, the loss, and whether all is finite."""

    def train_loss(params, *args):
        return task.train_loss(params, architecture, *args)

    return gradient_of_loss(train_loss, params, data, carry, step, key, axis)


def gradient_of_loss(
    train_loss: Callable[..., Any],
    params: Any,
    data: Data,
    carry: Any,
    step: jax.Array,
    key: jax.Array,
    axis: Axis = NO_AXIS,
) -> tuple[Any, Any, jax.Array, jax.Array]:
    """The same of a function of the parameters and of what follows them here."""
    gradient, (loss, carry) = jax.grad(train_loss, has_aux=True)(
        params, data, carry, step, key, axis
    )
    # Before anything is made of them: a mean of what is clipped is something else.
    gradient, loss = axis.mean((gradient, loss))
    sound = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(gradient))
    return gradient, carry, loss, sound
