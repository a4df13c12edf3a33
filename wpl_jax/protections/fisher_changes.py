"""Transformations of a child's Fisher before it becomes part of the penalty.

A change is a function of the Fisher and of a :class:`Child`. Only
:class:`RunningAverage` has a state.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax import fisher as fisher_lib
from wpl_jax.supernet import is_all

Fisher = Any  # a tree like the child's parameters, real


class Child(NamedTuple):
    """The arguments of a change that describe the child."""

    used: Any  # 0/1 or bool, broadcast to the Fisher: the entries that count
    rows: Any  # its rows of the shared parameters
    alpha: jax.Array  # float32[]; strength of the penalty


Change = Callable[[Fisher, Child], Fisher]


def apply(changes: Sequence[Change], fisher: Fisher, child: Child) -> Fisher:
    """Applies one change after the other."""
    for change in changes:
        fisher = change(fisher, child)
    return fisher


@dataclasses.dataclass(frozen=True)
class RunningAverage:
    """A running average; what is remembered is the average after some more changes.

    Attributes:
      eta: Share of the newest Fisher.
      form: ``"paper"`` or ``"code"``, see :func:`wpl_jax.fisher.update_average`.
      changes: Of the average, before it is remembered.
    """

    eta: float
    form: Literal["paper", "code"]
    changes: tuple[Change, ...] = ()

    def update(self, memory: Fisher, found: Fisher, child: Child) -> Fisher:
        """The new average; where a child does not use a weight, zero."""
        new = fisher_lib.update_average(memory, found, eta=self.eta, form=self.form)
        return apply((of_used, *self.changes), new, child)


def of_used(fisher: Fisher, child: Child) -> Fisher:
    """Zero where the child does not use a weight."""
    return jax.tree.map(lambda f, u: jnp.where(u, f, 0), fisher, child.used)


def clip_norm(max_norm: float) -> Change:
    """Limits the norm of each tensor; a row of stacked parameters is a tensor."""

    def change(fisher, child):
        clip = functools.partial(fisher_lib.clip_norm, max_norm=max_norm)
        return _of_each_tensor(clip, child.rows, fisher)

    return change


def times_alpha(fisher: Fisher, child: Child) -> Fisher:
    """Multiplies by the strength of the penalty."""
    return jax.tree.map(lambda f: child.alpha * f, fisher)


def of_choices(fisher: Fisher, child: Child) -> Fisher:
    """Zero for weights that all children share."""
    return jax.tree.map(jnp.multiply, fisher, used_choices(child))


def used(child: Child) -> Any:
    """Which entries the child uses, broadcast."""
    return child.used


def used_choices(child: Child) -> Any:
    """Which entries belong to a choice that the child uses, broadcast."""
    return jax.tree.map(
        lambda there, index: there * (not is_all(index)), child.used, child.rows
    )


def normalize(
    per: Literal["tree", "tensor"], counted: Callable[[Child], Any]
) -> Change:
    """Scales the Fisher to a mean of 1, over all that counts or each tensor of it.

    Args:
      per: ``"tree"`` or ``"tensor"``.
      counted: Which entries count, 0/1 broadcast to the Fisher.
    """

    def change(fisher, child):
        mask = counted(child)
        if per == "tree":
            return fisher_lib.normalize(fisher, mask)
        return _of_each_tensor(fisher_lib.normalize, child.rows, fisher, mask)

    return change


def _of_each_tensor(function, rows, *trees):
    """Maps over tensors; where parameters are a stack of them, over its rows."""

    def of_leaf(index, *leaves):
        if is_all(index):
            return function(*leaves)
        count = len(leaves[0])  # What is the same for all rows has no axis of them.
        of_rows = [jnp.broadcast_to(x, (count, *jnp.shape(x)[1:])) for x in leaves]
        return jax.vmap(function)(*of_rows)

    return jax.tree.map(of_leaf, rows, *trees)
