"""The protocol of a protection against forgetting.

Benyahia et al. (2019), section 3.2. After a child has been trained, the Fisher of the
weights that it used is estimated and added to a running average. The average and the
weights, which are the new anchor, become the state of the optimizer's penalty
(:mod:`wpl_jax.penalty`). The next children are trained with this penalty.

A protection works on the parameters of one child. Weights that the child does not use
keep their Fisher and anchor, because they have not changed.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.supernet import ALL, Architecture
from wpl_jax.tasks.task import Data, FisherLoss

Memory = Any  # a tree of arrays, often like the parameters


class Trained(NamedTuple):
    """A child that has just been trained; of several, arrays of all but parameters."""

    params: Any  # of the child; of several, all shared ones
    architecture: Architecture
    number: jax.Array  # int32[]; how many were trained before it


class Estimator(Protocol):
    """How the Fisher of a child is estimated.

    If ``labels`` is ``"model"``, it draws labels from the model.
    """

    def estimate(
        self,
        trained: Trained,
        task: FisherLoss,
        data: Data,
        key: jax.Array,
        axis: Axis = NO_AXIS,
    ) -> Any:
        """The Fisher, a tree like the child's parameters, at least float32.

        Args:
          trained: The child.
          task: For its loss.
          data: Of the task.
          key: PRNG key.
          axis: Devices that share each batch.
        """


class Protection(Estimator, Protocol):
    """What protects the shared weights. Its functions are pure.

    A class that inherits from this one implements what it does and leaves out the rest.

    Attributes:
      start_epoch: First epoch whose children leave a Fisher, None for none.
      companions: How many architectures are rehearsed beside each child: trained on
        the same batch, by a weighted sum of the losses.
    """

    start_epoch: int | None = None
    companions: int = 0

    def check_task(self, task: FisherLoss) -> None:
        """Checks that a task has what the penalty needs; by default, any has.

        Raises:
          UserError: If it has not.
        """
        del task

    def alpha(self, epoch: jax.Array) -> jax.Array:
        """Strength of the penalty in an epoch, ``float32[]``; by default 0."""
        return jnp.zeros_like(epoch, jnp.float32)

    def active(self, epoch: jax.Array) -> jax.Array:
        """Whether what was trained is remembered in this epoch, ``bool[]``.

        By default it never is.
        """
        return jnp.zeros_like(epoch, bool)

    def wrap(self, optimizer: Any, rate: Any, alpha: Any) -> Any:
        """The optimizer under the penalty; by default, the optimizer.

        Args:
          optimizer: What would train a child without one.
          rate: Its learning rate.
          alpha: Strength of the penalty.
        """
        del rate, alpha
        return optimizer

    def wrap_rows(self, optimizer: Any, rate: Any, alpha: Any, stacks: Any) -> Any:
        """:meth:`wrap`, for a protection that treats the rows of stacks separately.

        Args:
          optimizer: What would train a child without one.
          rate: Its learning rate.
          alpha: Strength of the penalty.
          stacks: A tree of bool like the parameters: which have a row for each choice.
        """
        del stacks
        return self.wrap(optimizer, rate, alpha)

    def init(self, params: Any, child: Architecture) -> Memory:
        """What is remembered beside the optimizer's state.

        Args:
          params: The shared parameters.
          child: The shapes of what the strategy proposes.
        """
        del params, child
        return ()

    def memory_rows(self, memory: Memory, rows: Any) -> Any:
        """Which rows of the memory belong to a child; by default, all of it.

        Args:
          memory: What is remembered.
          rows: Those of the weights that the child uses.
        """
        del rows
        return jax.tree.map(lambda _: ALL, memory)

    def begin_epoch(
        self, memory: Memory, opt_state: Any, epoch: jax.Array
    ) -> tuple[Memory, Any]:
        """Forgets what is to be forgotten as an epoch begins; by default, nothing."""
        del epoch
        return memory, opt_state

    def rehearse(
        self, memory: Memory, architecture: Architecture, key: jax.Array
    ) -> tuple[Architecture, jax.Array]:
        """What is trained beside a child, if :attr:`companions` is not 0.

        Args:
          memory: What is remembered.
          architecture: The child.
          key: PRNG key of the child.

        Returns:
          The architectures, along a leading axis of ``companions``, and the weights of
          the losses, ``float32[1 + companions]``, the child's first.
        """
        raise NotImplementedError(f"{type(self).__name__} rehearses nothing.")

    def estimate(
        self,
        trained: Trained,
        task: FisherLoss,
        data: Data,
        key: jax.Array,
        axis: Axis = NO_AXIS,
    ) -> Any:
        """The Fisher of a child, see :class:`Estimator`; by default, zeros."""
        del task, data, key, axis
        return jax.tree.map(jnp.zeros_like, trained.params)

    def remember(
        self,
        memory: Memory,
        opt_state: Any,
        trained: Trained,
        found: Any,
        used: Any,
        rows: Any,
        alpha: jax.Array,
    ) -> tuple[Memory, Any]:
        """Remembers what has been trained; by default, nothing.

        All trees are of one child, or all are of the shared parameters.

        Args:
          memory: What is remembered so far.
          opt_state: The optimizer's state, with the penalty.
          trained: The children of the call, along a leading axis, with the
            parameters as they are now.
          found: What :meth:`estimate` found, or a mean over children.
          used: 0/1 or bool, broadcast to them: what is to be remembered.
          rows: Of any child; they tell what all children share.
          alpha: Strength of the penalty.
        """
        del trained, found, used, rows, alpha
        return memory, opt_state


@dataclasses.dataclass(frozen=True)
class NoProtection(Protection):
    """No penalty."""
