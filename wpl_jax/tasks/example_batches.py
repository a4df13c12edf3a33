"""Which examples of a split are in a batch, as a function of the batch's number."""

import dataclasses

import jax
import jax.numpy as jnp

from wpl_jax.common.shuffling import shuffled
from wpl_jax.devices.axis import Axis


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches of equal size.

    Attributes:
      size: Examples of a batch, which devices divide.
    """

    size: int

    def places(self, index: jax.Array, axis: Axis) -> jax.Array:
        """Places in its split of a batch's examples, those of this device.

        Args:
          index: Number of the batch, ``int32[]``.
          axis: Devices that share it.

        Returns:
          ``int32[size / devices]``.
        """
        return index * self.size + axis.shard(jnp.arange(self.size))

    def shuffled(self, step: jax.Array, count: int, axis: Axis) -> jax.Array:
        """Places of a batch where each pass over a split has an order of its own.

        The orders do not depend on the seed of a search: all seeds see the examples of
        a split in the same order.

        Args:
          step: Number of the batch, ``int32[]``, counted on over all passes.
          count: Examples of the split.
          axis: Devices that share the batch.

        Returns:
          Those of this device, ``int32[size / devices]``.
        """
        batches = count // self.size
        key_of_pass = jax.random.fold_in(jax.random.key(0), step // batches)
        return shuffled(key_of_pass, self.places(step % batches, axis), count)
