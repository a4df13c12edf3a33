"""Arrays whose rows are divided among devices."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NAME


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sharded:
    """An array of which each device holds some of the rows.

    :meth:`Devices.shard` makes it; functions that run on the devices take rows of it
    by their numbers as of the whole array.

    Attributes:
      part: Of every device its rows, ``[devices, rows_of_each, ...]``; in a function,
        those of its device, ``[rows_of_each, ...]``.
      first: Of every device the number of its first row, ``int32[devices]``; in a
        function, of its device, ``int32[]``.
      shape: Of the whole array.
    """

    part: jax.Array
    first: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def __getitem__(self, places: jax.Array) -> jax.Array:
        """Rows by their numbers, from the devices that hold them.

        Devices may request different rows, but all must do so at once, and the same
        number of rows. Each needs memory for the rows that all request together.

        Args:
          places: Numbers of rows, ``int32[...]``, from 0 to the last row's. Numbers out
            of range give rows of zeros.

        Returns:
          ``[..., *shape[1:]]``.
        """
        asked = jax.lax.all_gather(places, NAME) - self.first
        held = (asked >= 0) & (asked < len(self.part))
        rows = self.part[jnp.where(held, asked, 0)]
        held = held.reshape(held.shape + (1,) * (rows.ndim - held.ndim))
        return jax.lax.psum_scatter(jnp.where(held, rows, 0), NAME)

    def __iter__(self) -> Iterator[Any]:
        """Not possible."""
        raise TypeError("An array that devices divide has no rows in order.")


def is_sharded(x: Any) -> bool:
    """Whether devices divide the rows; for ``is_leaf`` of trees."""
    return isinstance(x, Sharded)


def unsharded(tree: Any) -> Any:
    """The tree with the forms of whole arrays in the place of sharded ones."""

    def form(x):
        if isinstance(x, Sharded):
            return jax.ShapeDtypeStruct(x.shape, x.part.dtype)
        return x

    return jax.tree.map(form, tree, is_leaf=is_sharded)
