"""The protocol of a trainer: how a search trains the children of a call."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.axis import Axis
from wpl_jax.engine.training import TrainState
from wpl_jax.supernet import Architecture
from wpl_jax.tasks.task import Data

# Of parameters, an architecture, its place in the call, a key and an axis: the estimate
# of a protection.
Estimate = Callable[[Any, Architecture, Any, jax.Array, Axis], Any]


class Skipped(NamedTuple):
    """How many steps were not finite, and were left out."""

    of_epoch: jax.Array  # int32[]; in this epoch, one for each child of a step
    in_row: jax.Array  # int32[]; steps up to now of which no child's was finite

    def after(self, sound: jax.Array) -> "Skipped":
        """After a step of one child, or of several, ``bool[...]``."""
        in_row = jnp.where(jnp.any(sound), 0, self.in_row + 1)
        return Skipped(self.of_epoch + jnp.sum(~sound), in_row)


class Progress(NamedTuple):
    """What the steps of a call update, from one batch to the next."""

    architectures: Architecture  # as they are trained, of arrays [children, ...]
    strategy: Any  # state of the strategy
    train_state: TrainState
    skipped: Skipped

    def with_carry(self, change: Callable[[Any], Any]) -> "Progress":
        """The same with another carry, a function of this one."""
        carry = change(self.train_state.carry)
        return self._replace(train_state=self.train_state._replace(carry=carry))


class Companions(NamedTuple):
    """Architectures that are rehearsed beside a child; of several, arrays of all."""

    architectures: Architecture  # along a leading axis of companions
    weights: jax.Array  # float32[1 + companions]; of the losses, the child's first


class Stretch(NamedTuple):
    """What children are trained on in a call, of arrays ``[children, ...]``."""

    first: jax.Array  # int32[children]; number of the first training batch
    keys: jax.Array  # of all steps
    companions: Companions | None = None  # rehearsed beside each


class Trainer(Protocol):
    """Trains the children of a call, one batch after the other."""

    def init_carry(self) -> Any:
        """What the first batch of a search starts from."""

    def rows(self, architectures: Architecture) -> Any:
        """Which rows of the shared parameters it trains.

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
        """Steps on each batch of a stretch.

        Args:
          transform: The optimizer, under the penalty.
          progress: Before the first step, with the parameters of :meth:`rows`.
          stretch: The batches, and what is rehearsed on them.
          data: Of the task.

        Returns:
          The progress after the last step, and the mean loss of each child over the
          batches whose step was finite, ``float32[children]``.
        """

    def estimate(
        self, params: Any, architectures: Architecture, each: Estimate, keys: jax.Array
    ) -> tuple[Any, Any]:
        """What a protection estimates of the children.

        Args:
          params: Of :meth:`rows`.
          architectures: The children, of arrays ``[children, ...]``.
          each: The estimate of one child.
          keys: PRNG keys, one for each child.

        Returns:
          The estimate, a tree like ``params``, and which of its entries there are, a
          tree of ``bool`` that broadcasts to it.
        """


# To a key of a step: for the strategy, out of the reach of what a loss splits it into.
_OF_STRATEGY = 2**31 - 1


def key_of_strategy(key: jax.Array) -> jax.Array:
    """A key for the strategy in a step, from that of the step."""
    return jax.random.fold_in(key, _OF_STRATEGY)


def first_of(tree: Any) -> Any:
    """The first child of arrays of several."""
    return jax.tree.map(lambda x: x[0], tree)


def mean_of_finite(loss: jax.Array) -> jax.Array:
    """Mean of the finite entries over the leading axis."""
    return jnp.nanmean(jnp.where(jnp.isfinite(loss), loss, jnp.nan), 0)
