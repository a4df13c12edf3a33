"""What a search does against forgetting: a Fisher a child, and where it is kept.

Benyahia et al. (2019), section 3.2. After a child has been trained, the Fisher of
the weights that it used is estimated, mixed into a running average, and written with
the weights themselves, the new anchor, into the optimizer's penalty
(:mod:`wpl_jax.penalty`), which the next children then train under.

A protection works on the parameters of one child; weights that it does not use keep
their Fisher and anchor. Theirs need no new anchor: they have not moved.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.task import Data, Task

Memory = Any  # a tree like the parameters, or nothing


class Trained(NamedTuple):
    """A child that has just been trained."""

    params: Any
    architecture: Architecture
    number: jax.Array  # int32[]; how many were trained before it


class Estimator(Protocol):
    """How the Fisher of a child is estimated."""

    def estimate(
        self,
        trained: Trained,
        task: Task,
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

    Attributes:
      start_epoch: First epoch whose children leave a Fisher, None for none.
    """

    start_epoch: int | None

    def alpha(self, epoch: jax.Array) -> jax.Array:
        """Strength of the penalty in an epoch."""

    def active(self, epoch: jax.Array) -> jax.Array:
        """Whether children leave a Fisher in this epoch, ``bool[]``."""

    def wrap(self, optimizer: Any, rate: Any, alpha: Any) -> Any:
        """The optimizer under the penalty.

        Args:
          optimizer: What would train a child without one.
          rate: Its learning rate.
          alpha: Strength of the penalty.
        """

    def init(self, params: Any) -> Memory:
        """What is remembered beside the optimizer's state."""

    def memory_rows(self, rows: Any) -> Any:
        """Which rows of the memory belong to a child that uses these of the weights."""

    def begin_epoch(
        self, memory: Memory, opt_state: Any, epoch: jax.Array
    ) -> tuple[Memory, Any]:
        """Forgets what is to be forgotten as an epoch begins."""

    def remember(
        self,
        memory: Memory,
        opt_state: Any,
        params: Any,
        found: Any,
        used: Any,
        rows: Any,
        alpha: jax.Array,
    ) -> tuple[Memory, Any]:
        """Remembers parameters as they have been trained.

        All trees are of one child, or all are of the shared parameters.

        Args:
          memory: What is remembered so far.
          opt_state: The optimizer's state, with the penalty.
          params: Where the parameters are now.
          found: What :meth:`estimate` found, or a mean over children.
          used: 0/1 or bool, broadcast to them: what is to be remembered.
          rows: Of any child; they tell what all children share.
          alpha: Strength of the penalty.
        """


@dataclasses.dataclass(frozen=True)
class NoProtection:
    """No penalty."""

    start_epoch = None

    def alpha(self, epoch):
        """Zero."""
        return jnp.zeros_like(epoch, jnp.float32)

    def active(self, epoch):
        """Never."""
        return jnp.zeros_like(epoch, bool)

    def wrap(self, optimizer, rate, alpha):
        """The optimizer as it is."""
        del rate, alpha
        return optimizer

    def init(self, params):
        """Nothing."""
        del params
        return ()

    def memory_rows(self, rows):
        """Nothing."""
        del rows
        return ()

    def begin_epoch(self, memory, opt_state, epoch):
        """Nothing."""
        del epoch
        return memory, opt_state

    def estimate(self, trained, *args):
        """Zeros."""
        del args
        return jax.tree.map(jnp.zeros_like, trained.params)

    def remember(self, memory, opt_state, *args):
        """Nothing."""
        del args
        return memory, opt_state
