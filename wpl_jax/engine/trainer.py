"""The protocol of a trainer, which trains children in one compiled call."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.axis import Axis
from wpl_jax.engine.training import TrainState
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.task import Data

# A protection's estimate (a Fisher): a function of the parameters, an architecture, its
# number among the children of the call, a PRNG key and an axis of devices.
Estimate = Callable[[Any, Architecture, Any, jax.Array, Axis], Any]


class Skipped(NamedTuple):
    """How many steps were skipped, as their loss or gradient was not finite."""

    of_epoch: jax.Array  # int32[]; in this epoch, each child of a step counts
    in_row: jax.Array  # int32[]; the last steps in a row that were finite for no child

    def after(self, sound: jax.Array) -> "Skipped":
        """The counts after a step; ``sound``, ``bool[...]``, says which were finite."""
        in_row = jnp.where(jnp.any(sound), 0, self.in_row + 1)
        return Skipped(self.of_epoch + jnp.sum(~sound), in_row)


class Progress(NamedTuple):
    """The values that each step of a call updates."""

    # Those of the last step, arrays [children, ...]; after a pass that also trains
    # architecture weights, the mixture that these have become.
    architectures: Architecture
    strategy: Any  # state of the strategy
    train_state: TrainState
    skipped: Skipped

    def with_carry(self, change: Callable[[Any], Any]) -> "Progress":
        """The progress with ``change`` applied to the carry."""
        carry = change(self.train_state.carry)
        return self._replace(train_state=self.train_state._replace(carry=carry))


class Companions(NamedTuple):
    """Architectures whose losses are added to that of a child.

    Those of several children have a leading axis of children.
    """

    architectures: Architecture  # arrays [companions, ...]
    weights: jax.Array  # float32[1 + companions]; of the losses, the child's first


class Stretch(NamedTuple):
    """The batches, keys and companions of a call, arrays ``[children, ...]``."""

    first: jax.Array  # int32[children]; number of the first training batch
    keys: jax.Array  # PRNG keys, from which those of all steps are derived
    companions: Companions | None = None  # of each child


class Trainer(Protocol):
    """Trains the children of a call, one batch after the other."""

    def init_carry(self) -> Any:
        """The carry before the first batch of a search."""

    def rows(self, architectures: Architecture) -> Any:
        """The rows of the shared parameters that are trained.

        Args:
          architectures: The children, of arrays ``[children, ...]``.
        """

    def train(
        self,
        transform: optax.GradientTransformationExtraArgs,
        progress: Progress,
        stretch: Stretch,
        data: Data,
    ) -> tuple[Progress, jax.Array]:
        """Takes a step on each batch of a stretch.

        Args:
          transform: The optimizer, under the penalty.
          progress: Before the first step, with the parameters of :meth:`rows`.
          stretch: The batches and the companions.
          data: Of the task.

        Returns:
          The progress after the last step, and the mean loss of each child over the
          batches whose step was finite, ``float32[children]``.
        """

    def estimate(
        self, params: Any, architectures: Architecture, each: Estimate, keys: jax.Array
    ) -> tuple[Any, Any]:
        """A protection's estimate for the children.

        Args:
          params: The parameters of :meth:`rows`.
          architectures: The children, of arrays ``[children, ...]``.
          each: The estimate of one child.
          keys: PRNG keys, one for each child.

        Returns:
          The estimate, a tree like ``params``, and a tree of ``bool`` that broadcasts
          to it, False for entries without an estimate.
        """


# Folded into the key of a step, a number that no loss uses.
_OF_STRATEGY = 2**31 - 1


def key_of_strategy(key: jax.Array) -> jax.Array:
    """The strategy's key in a step, from the key of the step."""
    return jax.random.fold_in(key, _OF_STRATEGY)


def first_of(tree: Any) -> Any:
    """The first entry along the leading axis of all arrays."""
    return jax.tree.map(lambda x: x[0], tree)


def mean_of_finite(loss: jax.Array) -> jax.Array:
    """Mean of the finite entries over the leading axis."""
    return jnp.nanmean(jnp.where(jnp.isfinite(loss), loss, jnp.nan), 0)
