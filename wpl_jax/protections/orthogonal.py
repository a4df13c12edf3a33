"""Steps orthogonal to the gradients of earlier children (OGL)."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.settings import check_choice, check_int
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.protections.estimators import Split
from wpl_jax.protections.orthogonal_gradients import (
    orthogonal_gradients,
    remember_gradients,
)
from wpl_jax.protections.protection import Protection

_MOST_DIRECTIONS = 64  # each is a copy of the shared parameters


@dataclasses.dataclass(frozen=True)
class Orthogonal(Protection):
    """Projects gradients, see :mod:`wpl_jax.protections.orthogonal_gradients`.

    Each row of a stack, such as the kernel of an operation on an edge, has a basis of
    the gradients of the last children that used it. A child's gradient is that of its
    loss on one batch, after its training.

    Attributes:
      directions: Number of gradients for each row. Each takes the memory of the
        parameters.
      protect: ``"choices"``: the rows of stacks, as in OGL. ``"all"``: also each
        parameter that all children share, whose basis then has the gradients of the
        last children of all.
      split: Data of the gradient, ``"train"`` or ``"valid"``.
      start_epoch: First epoch whose children leave a gradient.
    """

    directions: int = 4
    protect: Literal["choices", "all"] = "choices"
    split: Split = "train"
    start_epoch: int | None = 5

    def __post_init__(self) -> None:
        """Checks the settings."""
        expected = "each a copy of the shared parameters"
        check_int(self, "directions", 1, expected, most=_MOST_DIRECTIONS)
        check_choice(self, "protect", ("all", "choices"))
        check_choice(self, "split", ("train", "valid"))
        check_int(self, "start_epoch", 0)

    def active(self, epoch):
        """Whether children leave a gradient: from ``start_epoch`` on."""
        return epoch >= self.start_epoch

    def wrap_rows(self, optimizer, rate, alpha, stacks):
        """The projection first, as it is one of the gradient."""
        del rate, alpha
        others = "array" if self.protect == "all" else "none"
        spaces = jax.tree.map(lambda stack: "rows" if stack else others, stacks)
        return optax.chain(orthogonal_gradients(self.directions, spaces), optimizer)

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """The gradient of the child on one batch."""
        del key
        return axis.mean(
            jax.grad(task.fisher_loss)(
                *(trained.params, trained.architecture, data),
                *(self.split, trained.number, axis),
            )
        )

    def remember(self, memory, opt_state, trained, found, used, rows, alpha):
        """Adds the gradient to the bases of the rows that the child used."""
        del trained, rows, alpha
        gradients: Any = jax.tree.map(lambda g, u: jnp.where(u, g, 0), found, used)
        return memory, remember_gradients(opt_state, gradients)
