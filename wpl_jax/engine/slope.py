"""Losses and their gradients, from which differentiable strategies learn.

The gradient after a step of the shared weights is that of DARTS of second order (Liu,
Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, equations 6 to
8).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.engine.training import Batch
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.task import Task

# Norm of the step to each side in the central difference, as in the paper.
_STEP = 0.01
# Numbers that a key is not split into, so that no other draw has the same key.
_OF_NOISE, _OF_BATCH = 2**31 - 2, 2**31 - 3


@dataclasses.dataclass(frozen=True)
class Slope:
    """The loss of an architecture on one batch, and its gradient in ``theta``.

    ``theta`` are the strategy's parameters, of which the architecture is a function.

    Attributes:
      task: The task that defines the loss.
      child_of: The parameters of an architecture.
      batch: The training batch.
      carry: State that the last training batch passes to the next.
      stepped: The child's parameters after a step of their optimizer, a function of the
        parameters and their gradient. For mixtures only, as these all have the same
        parameters.
    """

    task: Task
    child_of: Callable[[Architecture], Any]
    batch: Batch
    carry: Any
    stepped: Callable[[Any, Any], Any]

    def __call__(
        self,
        of: Callable[[Any], Architecture],
        theta: Any,
        split: str = "train",
        *,
        own_batch: bool = False,
        unrolled: bool = False,
    ) -> tuple[jax.Array, Any]:
        """The loss and its gradient, averaged over the devices.

        Args:
          of: The architecture, a function of ``theta``.
          theta: Where the gradient is taken, a tree of floats.
          split: ``"train"`` for the batch that the shared weights are trained on next,
            with the same noise; ``"valid"`` for a validation batch, with noise of its
            own and no carry from a batch before.
          own_batch: Whether ``"train"`` is another training batch, drawn at random from
            those of the next pass over the data, with noise of its own.
          unrolled: Whether the loss is that after the next step of the parameters,
            which depends on ``theta`` as well.

        Returns:
          The loss, ``float32[]``, and its gradient, a tree like ``theta``. All are 0 if
          the loss or the gradient is not finite, so one batch cannot spoil a strategy.
        """
        loss = self._loss(of, split, own_batch)
        if unrolled:
            found = self._unrolled(of, theta, loss)
        else:

            def of_theta(theta):
                return loss(self.child_of(of(theta)), theta)

            found = self.batch.axis.mean(jax.value_and_grad(of_theta)(theta))
        sound = jnp.isfinite(found[0]) & jnp.isfinite(optax.tree.norm(found[1]))
        return jax.tree.map(lambda x: jnp.where(sound, x, 0), found)

    def _loss(self, of, split, own_batch=False):
        """The loss on this device's share of a batch, of parameters and ``theta``."""
        carry, (data, number, key, axis) = self.carry, self.batch
        if own_batch:
            batches = self.task.num_batches(data, split)
            key_of_batch = jax.random.fold_in(key, _OF_BATCH)
            number += 1 + jax.random.randint(key_of_batch, (), 0, batches)
        if own_batch or split != "train":
            carry = axis.shard(self.task.init_carry())
            key = jax.random.fold_in(key, _OF_NOISE)

        def loss(params, theta):
            found, _ = self.task.train_loss(
                params, of(theta), data, carry, number, key, axis, split
            )
            return found

        return loss

    def _unrolled(self, of, theta, loss):
        """The loss after the next step of the parameters, and its gradient.

        The chain rule multiplies the gradient in the parameters after the step by
        second derivatives. A central difference approximates this product.
        """
        mean, of_batch = self.batch.axis.mean, self._loss(of, "train")
        params = self.child_of(of(theta))
        slope = mean(jax.grad(of_batch)(params, theta))
        after, pull = jax.vjp(lambda slope: self.stepped(params, slope), slope)
        found, (of_params, of_theta) = mean(
            jax.value_and_grad(loss, (0, 1))(after, theta)
        )
        (direction,) = pull(of_params)
        size = _STEP / jnp.maximum(optax.tree.norm(direction), 1e-20)

        def beside(sign):
            moved = jax.tree.map(lambda p, d: p + sign * size * d, params, direction)
            return jax.grad(of_batch, 1)(moved, theta)

        # In a loop, so that the pass is compiled once.
        both = mean(jax.lax.map(beside, jnp.array([1.0, -1.0])))
        indirect = jax.tree.map(lambda of: (of[0] - of[1]) / (2 * size), both)
        return found, jax.tree.map(jnp.add, of_theta, indirect)


@dataclasses.dataclass(frozen=True)
class SlopeOfPass:
    """The loss and gradient of a mixture from the pass that trains the shared weights.

    Attributes:
      loss: Of the mixture on the training batch, ``float32[]``.
      gradient: In the mixture's weights, ``float32[groups, choices]``.
    """

    loss: jax.Array
    gradient: jax.Array

    def __call__(
        self,
        of: Callable[[Any], Architecture],
        theta: Any,
        split: str = "train",
        *,
        own_batch: bool = False,
        unrolled: bool = False,
    ) -> tuple[jax.Array, Any]:
        """The loss, and its gradient by the chain rule.

        Args:
          of: The mixture, a function of ``theta``.
          theta: The value that the mixture was computed from.
          split: ``"train"``.
          own_batch: False.
          unrolled: False.

        Raises:
          ValueError: If another loss is requested.
        """
        if (split, own_batch, unrolled) != ("train", False, False):
            raise ValueError(
                f"split, own_batch and unrolled are {split!r}, {own_batch} and "
                f"{unrolled}, expected 'train', False and False: a strategy with "
                "shares_pass has the loss of the training batch alone."
            )
        _, pull = jax.vjp(lambda theta: of(theta).weights, theta)
        return self.loss, pull(self.gradient)[0]
