"""Slices and updates of arrays that hold several architectures along an axis."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wpl_jax.tasks import Evaluation


def zeros_of(form: Any, count: int) -> Any:
    """Zeros with a leading axis of ``count`` for each shape of a tree."""
    return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), form)


def no_evaluations(count: int) -> Evaluation:
    """``count`` evaluations of zeros, arrays ``float32[count]``."""
    return Evaluation(jnp.zeros(count), jnp.zeros(count))


@jax.jit
def at(tree: Any, index: ArrayLike) -> Any:
    """The entries at an index, or at several, along the leading axis."""
    return jax.tree.map(lambda x: x[index], tree)


@functools.partial(jax.jit, static_argnames="count")
def some_from(tree: Any, first: ArrayLike, count: int) -> Any:
    """``count`` entries from ``first`` on; the last ``count`` if there are fewer."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count), tree)


@jax.jit
def put_back(tree: Any, first: ArrayLike, new: Any) -> Any:
    """Replaces the entries that :func:`some_from` returns."""

    def put(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new, first, 0)

    return jax.tree.map(put, tree, new)
