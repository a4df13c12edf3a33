"""Arrays of several architectures along a leading axis: parts of them, and back."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wpl_jax.tasks import Evaluation


def zeros_of(form: Any, count: int) -> Any:
    """Zeros for so many of a tree of shapes."""
    return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), form)


def no_evaluations(count: int) -> Evaluation:
    """Zeros for so many evaluations."""
    return Evaluation(jnp.zeros(count), jnp.zeros(count))


@jax.jit
def at(tree: Any, index: ArrayLike) -> Any:
    """Those at an index, or at several."""
    return jax.tree.map(lambda x: x[index], tree)


@functools.partial(jax.jit, static_argnames="count")
def some_from(tree: Any, first: ArrayLike, count: int) -> Any:
    """So many from ``first`` on; the last ones, if there are not enough."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count), tree)


@jax.jit
def put_back(tree: Any, first: ArrayLike, new: Any) -> Any:
    """Puts new ones in the places of those that :func:`some_from` returns."""

    def put(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new, first, 0)

    return jax.tree.map(put, tree, new)
