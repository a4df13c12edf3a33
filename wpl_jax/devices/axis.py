"""The axis of devices: how a function that runs on several divides its work.

Each device computes a part of the work, and the parts are averaged, summed or gathered.
With one device the methods of an :class:`Axis` return their arguments.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.trees import with_keys, without_keys

NAME = "devices"  # of the axis in JAX


@dataclasses.dataclass(frozen=True)
class Axis:
    """Devices that share some work; its methods are for functions that run on them.

    Attributes:
      size: How many devices; of one alone nothing is shared.
    """

    size: int = 1

    def shard(self, tree: Any, axis: int = 0) -> Any:
        """This device's part of arrays that every device has whole.

        Args:
          tree: Arrays whose ``axis`` the number of devices divides.
          axis: Which.

        Returns:
          The arrays, each cut down to the part.

        Raises:
          ValueError: If an array cannot be sharded equally.
        """
        if self.size == 1:
            return tree

        def part(x):
            if x.shape[axis] % self.size:
                raise ValueError(
                    f"{x.shape[axis]} rows cannot be shared equally by {self.size} "
                    "devices."
                )
            each = x.shape[axis] // self.size
            first = self._index() * each
            return jax.lax.dynamic_slice_in_dim(x, first, each, axis)

        return jax.tree.map(part, tree)

    def all_gather(self, tree: Any) -> Any:
        """The arrays that the devices have parts of, along the leading axis."""
        if self.size == 1:
            return tree
        return jax.tree.map(lambda x: jax.lax.all_gather(x, NAME, tiled=True), tree)

    def first(self, tree: Any) -> Any:
        """What the first device has, on all; PRNG keys too."""
        if self.size == 1:
            return tree

        def of_first(x):
            mine = jnp.where(self._index() == 0, x, jnp.zeros_like(x))
            return jax.lax.psum(mine, NAME).astype(x.dtype)

        return with_keys(jax.tree.map(of_first, without_keys(tree)), tree)

    def mean(self, tree: Any) -> Any:
        """The mean over the devices; its gradient is that of all devices' losses."""
        return tree if self.size == 1 else jax.lax.pmean(tree, NAME)

    def sum(self, tree: Any) -> Any:
        """The sum over the devices."""
        return tree if self.size == 1 else jax.lax.psum(tree, NAME)

    def accumulate(
        self, add: Callable[[Any, Any], tuple[Any, Any]], nothing: Any, items: Any
    ) -> tuple[Any, Any]:
        """Adds up over items, which the devices divide among each other.

        Args:
          add: Of a sum so far and an item: the sum with it, and anything beside it.
          nothing: Zeros, what each device starts from.
          items: A tree of arrays with a leading axis, which the number of devices
            divides.

        Returns:
          The sum over all, and what there was beside of each, stacked.
        """
        total, beside = jax.lax.scan(add, nothing, self.shard(items))
        return self.sum(total), self.all_gather(beside)

    def map(self, function: Callable[[Any], Any], items: Any) -> Any:
        """Maps a function over items, which the devices divide among each other.

        One after the other on each device: mapped at once, a choice between
        operations would become all of the operations.

        Args:
          function: Of one item.
          items: A tree of arrays with a leading axis of the same length.

        Returns:
          What the function returns, stacked, for all items, on every device.
        """
        count = len(jax.tree.leaves(items)[0])
        each = -(-count // self.size)
        if self.size > 1:
            # The last devices do again what would be beyond the end.
            mine = self._index() * each + jnp.arange(each)
            items = jax.tree.map(lambda x: x[jnp.minimum(mine, count - 1)], items)
        if each == 1:  # A loop of one would be a loop to the compiler.
            found = function(jax.tree.map(lambda x: x[0], items))
            found = jax.tree.map(lambda x: x[None], found)
        else:
            found = jax.lax.map(function, items)
        return jax.tree.map(lambda x: x[:count], self.all_gather(found))

    def _index(self) -> jax.Array:
        return jax.lax.axis_index(NAME)


NO_AXIS = Axis()
