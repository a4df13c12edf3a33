"""Shared parameters under a protection: their optimizer, and what is remembered."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.trees import all_finite, norm_of_floats
from wpl_jax.engine.optimizers import Children, Optimizer
from wpl_jax.engine.several import zeros_of
from wpl_jax.engine.state import Shared, rows_of_state
from wpl_jax.engine.trainer import Companions, Trainer, first_of
from wpl_jax.protections.protection import Protection, Trained
from wpl_jax.supernet import Architecture, stacks
from wpl_jax.tasks import Data, Task


@dataclasses.dataclass(frozen=True, eq=False)
class Protected:
    """What the protection of a search does to its shared parameters.

    Attributes:
      task: What children are trained on.
      protection: What protects the weights that they share.
      optimizer: How they are trained.
      child: The shapes of what the strategy proposes.
      children_per_step: How many children are trained in one call.
    """

    task: Task
    protection: Protection
    optimizer: Optimizer
    child: Architecture
    children_per_step: int

    def transform(
        self, epoch: Any, scale: Any = 1.0, architectures: Architecture | None = None
    ) -> Any:
        """The optimizer of children in an epoch, under the penalty.

        Args:
          epoch: Of the search.
          scale: Factor of the learning rate.
          architectures: The children, with a leading axis; None for any, where only the
            form of the state matters.
        """
        epoch = jnp.asarray(epoch, jnp.int32)
        if architectures is None:
            architectures = zeros_of(self.child, self.children_per_step)
        children = Children(self.task.space, architectures)
        rate = self.optimizer.rate_of(epoch, children) * scale
        return self.protection.wrap_rows(
            self.optimizer.transform_of(rate, children),
            rate,
            self.protection.alpha(epoch),
            self._stacks,
        )

    @functools.cached_property
    def _stacks(self) -> Any:
        """Which parameters are stacks."""
        return stacks(self.task.space, self.child)

    def init(self, params: Any) -> Shared:
        """Parameters with the state of their optimizer and an empty memory."""
        return Shared(
            params,
            self.transform(0).init(params),
            self.protection.init(params, self.child),
        )

    def rows(self, shared: Shared, rows: Any) -> Shared:
        """The child's rows of the optimizer state and of the memory as well."""
        return Shared(
            params=rows,
            opt_state=rows_of_state(self.transform(0), shared.opt_state, rows),
            memory=self.protection.memory_rows(shared.memory, rows),
        )

    def companions(
        self, memory: Any, architectures: Architecture, keys: jax.Array
    ) -> Companions | None:
        """What is rehearsed beside each child, if anything.

        Args:
          memory: Of the protection.
          architectures: The children, with a leading axis.
          keys: PRNG keys, one for each.
        """
        if not self.protection.companions:
            return None
        rehearse = functools.partial(self.protection.rehearse, memory)
        return Companions(*jax.vmap(rehearse)(architectures, keys))

    def remember(
        self,
        shared: Shared,
        trained: Trained,
        data: Data,
        epoch: jax.Array,
        keys: jax.Array,
        trainer: Trainer,
    ) -> Shared:
        """Remembers what was trained, from the first epoch of the protection on.

        Args:
          shared: What the trainer trained, after it.
          trained: The children and their parameters.
          data: Of the task.
          epoch: Of the search.
          keys: PRNG keys, one for each child.
          trainer: Which trained them.
        """
        rows = self.task.space.rows(first_of(trained.architecture))

        def remember_if_finite(memory, opt_state):
            def estimate(params, architecture, place, key, axis):
                one = Trained(params, architecture, trained.number[place])
                return self.protection.estimate(one, self.task, data, key, axis)

            found, used = trainer.estimate(
                trained.params, trained.architecture, estimate, keys
            )
            alpha = self.protection.alpha(epoch)
            new = self.protection.remember(
                memory, opt_state, trained, found, used, rows, alpha
            )
            # A child that explodes has a Fisher without a meaning, and without an end.
            # Penalties leave out what is not a number, so it is looked for in both.
            sound = jnp.isfinite(norm_of_floats(new)) & all_finite(found)
            return jax.tree.map(
                lambda a, b: jnp.where(sound, a, b), new, (memory, opt_state)
            )

        memory, opt_state = jax.lax.cond(
            self.protection.active(epoch),
            remember_if_finite,
            lambda *unchanged: unchanged,
            shared.memory,
            shared.opt_state,
        )
        return shared._replace(memory=memory, opt_state=opt_state)
