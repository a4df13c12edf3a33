"""A child as rows of the shared parameters.

Shared parameters that only some children use are stacked along a leading axis, and
a child is a set of rows of each stack. :func:`gather` takes them out and
:func:`scatter` puts them back, so that between the two, a training step costs what
the child costs and not what the supernet does; :func:`mask` tells the same to code
that works on all shared parameters.
"""

from typing import Any

import jax
import jax.numpy as jnp

# As rows: the whole of a parameter that is not a stack, and so of all children.
ALL = slice(None)
EVERY_ROW = slice(0, None)  # as rows: all of a stack, which a mixture uses
PAD = 2**30  # an index from here on is of no row: a place that stays zero


def gather(params: Any, rows: Any) -> Any:
    """Takes one child's parameters out of the shared ones.

    Args:
      params: The shared parameters, or a tree like them.
      rows: As :meth:`wpl_jax.supernet.Space.rows` gives it.

    Returns:
      A tree like ``params``, its leaves cut down to the rows; zeros for ``PAD``.
    """

    def take(p, index):
        return p if is_whole(index) else p.at[index].get(mode="fill", fill_value=0)

    return jax.tree.map(take, params, rows)


def scatter(params: Any, rows: Any, child: Any) -> Any:
    """Puts one child's parameters back where :func:`gather` took them.

    Returns:
      A tree like ``params``, unchanged outside the rows.
    """

    def put(p, index, c):
        if is_whole(index):
            return c
        return p.at[index].set(c, mode="drop", unique_indices=True)

    return jax.tree.map(put, params, rows, child)


def add_rows(params: Any, rows: Any, child: Any) -> Any:
    """Adds one child's parameters to where :func:`gather` would take them."""

    def add(p, index, c):
        if is_whole(index):
            return p + c
        return p.at[index].add(c, mode="drop", unique_indices=True)

    return jax.tree.map(add, params, rows, child)


def mask(params: Any, rows: Any) -> Any:
    """A tree like ``params`` of 0/1 arrays that broadcast to them.

    1 on the shared parameters that the child uses.
    """

    def used(p, index):
        if is_whole(index):
            return jnp.ones(())
        return jnp.zeros((len(p),) + (1,) * (p.ndim - 1)).at[index].set(1, mode="drop")

    return jax.tree.map(used, params, rows)


def real_rows(child: Any, rows: Any) -> Any:
    """A tree like ``child`` of 0/1 arrays that broadcast to it.

    1 where it holds parameters, 0 where a place is filled up with ``PAD``.
    """

    def there(c, index):
        if is_whole(index):
            return jnp.ones(())
        return jnp.float32(index < PAD).reshape(-1, *(1,) * (c.ndim - 1))

    return jax.tree.map(there, child, rows)


def count_parameters(params: Any, rows: Any) -> jax.Array:
    """How many parameters a child has, ``int32[]``.

    Args:
      params: The shared parameters, or their shapes.
      rows: The child's.
    """

    def count(p, index):
        if is_whole(index):
            return jnp.int32(p.size)
        return jnp.sum(index < PAD, dtype=jnp.int32) * (p.size // len(p))

    counts = jax.tree.map(count, params, rows)
    return sum(jax.tree.leaves(counts), jnp.int32(0))


def is_all(index: Any) -> bool:
    """Whether rows are ``ALL``, of a parameter that all children share."""
    return is_whole(index) and index == ALL


def is_whole(index: Any) -> bool:
    """Whether rows are ``ALL`` or ``EVERY_ROW``; an array cannot be compared to one."""
    return isinstance(index, slice)
