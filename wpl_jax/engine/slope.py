"""Losses and their gradients, from which differentiable strategies learn."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.task import Data, Task


@dataclasses.dataclass(frozen=True)
class Slope:
    """The loss of an architecture on one batch, and its gradient in ``theta``.

    ``theta`` are the strategy's parameters, of which the architecture is a function.

    Attributes:
      task: Whose loss it is.
      child_of: The parameters of an architecture.
      data: Of the task.
      carry: What the last training batch left for the next.
      step: Number of the batch, ``int32[]``.
      key: PRNG key of the loss, for dropout and the like.
      axis: Devices that share the batch.
    """

    task: Task
    child_of: Callable[[Architecture], Any]
    data: Data
    carry: Any
    step: jax.Array
    key: jax.Array
    axis: Axis = NO_AXIS

    def __call__(
        self, of: Callable[[Any], Architecture], theta: Any, split: str = "train"
    ) -> tuple[jax.Array, Any]:
        """The loss and its gradient, averaged over the devices.

        Args:
          of: Makes an architecture of ``theta``.
          theta: Where the gradient is taken, a tree of floats.
          split: ``"train"`` for the batch that weights are trained on next, as they
            are trained on it; ``"valid"`` for one of the validation data. Where batches
            follow each other, that one begins anew.

        Returns:
          The loss, ``float32[]``, and a tree like ``theta``. Of a loss or a gradient
          that is not finite, zeros, so that one batch cannot spoil a strategy.
        """
        carry = self.carry
        if split != "train":
            carry = self.axis.shard(self.task.init_carry())

        def loss(theta):
            architecture = of(theta)
            found, _ = self.task.train_loss(
                self.child_of(architecture),
                architecture,
                self.data,
                carry,
                self.step,
                self.key,
                self.axis,
                split=split,
            )
            return found

        found = self.axis.mean(jax.value_and_grad(loss)(theta))
        sound = jnp.isfinite(found[0]) & jnp.isfinite(optax.tree.norm(found[1]))
        return jax.tree.map(lambda x: jnp.where(sound, x, 0), found)


@dataclasses.dataclass(frozen=True)
class SlopeOfPass:
    """The same of a mixture from the pass that its shared weights are trained by.

    Attributes:
      loss: Of the mixture on the training batch, ``float32[]``.
      gradient: In its weights, ``float32[num_decisions, max_choices]``.
    """

    loss: jax.Array
    gradient: jax.Array

    def __call__(
        self, of: Callable[[Any], Architecture], theta: Any, split: str = "train"
    ) -> tuple[jax.Array, Any]:
        """The loss, and its gradient by the chain rule.

        Args:
          of: Makes the mixture of ``theta``.
          theta: What the mixture was made of.
          split: ``"train"``.

        Raises:
          ValueError: If another split is asked for, over which there is no pass.
        """
        if split != "train":
            raise ValueError(
                f"split is {split!r}, expected 'train': a strategy with shares_pass "
                "has no loss of other data."
            )
        _, pull = jax.vjp(lambda theta: of(theta).weights, theta)
        return self.loss, pull(self.gradient)[0]
