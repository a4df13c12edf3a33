"""Paths drawn by the norms of their gradients (PA&DA).

Lu et al., "PA&DA: Jointly Sampling PAth and DAta for Consistent NAS" (CVPR 2023), the
part about paths. The variance of a stochastic gradient is smallest if each term is
drawn in proportion to its norm. So a choice ``i`` of a decision with ``K`` choices has
the probability

    p_i = share * g_i / sum_j g_j + (1 - share) / K,

where ``g_i`` is a running mean of the norm of the gradient of its weights in the epoch
before, and ``share`` grows from 0 to 1. Decisions with the same choices share their
means, as do the edges of a cell.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_int, check_number, check_parts, given
from wpl_jax.strategies.limits import NO_LIMITS, Limits
from wpl_jax.strategies.strategy import Candidates, Strategy
from wpl_jax.supernet import Architecture, Decision, Space, is_choice


class State(NamedTuple):
    """Of each kind of decision, padded to the largest number of choices."""

    norms: jax.Array  # float32[kinds, max_choices]; running means in this epoch
    probabilities: jax.Array  # float32[kinds, max_choices]; of this epoch


@dataclasses.dataclass(frozen=True)
class PathImportance(Strategy):
    """Draws choices for training in proportion to the norms of their gradients.

    Candidates for the best are drawn as the space draws them.

    Attributes:
      space: What is searched.
      candidates: How the best is selected.
      epochs: Epochs in which ``share`` grows from 0 to 1, linearly; in the paper, all
        epochs of the search.
      rate: Of the running mean, which starts at 0 in each epoch.
      limits: What proposals and candidates keep to.
    """

    space: Space
    candidates: Candidates = Candidates(proposed=1000)
    epochs: int = 250
    rate: float = 0.5
    limits: Limits = given(NO_LIMITS)

    uses_norms = True
    candidates_are = "drawn at random"

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_int(self, "epochs", 1)
        check_number(self, "rate", above=0, most=1)

    def init(self, key: jax.Array) -> State:
        """No norms, and all choices equally probable."""
        del key
        norms = jnp.zeros(self._there.shape)
        return State(norms, self._probabilities(norms, jnp.float32(0)))

    def begin_epoch(self, state: State, epoch: jax.Array) -> State:
        """Computes the probabilities by the norms of the epoch before."""
        share = jnp.clip((epoch - 1) / self.epochs, 0, 1)
        probabilities = self._probabilities(state.norms, share)
        return State(jnp.zeros_like(state.norms), probabilities)

    def propose(self, state: State, key: jax.Array) -> Architecture:
        """Draws each decision."""
        logits = jnp.log(state.probabilities)[self._kinds]

        def draw(key):
            return jax.random.categorical(key, logits).astype(jnp.int32)

        return Architecture(self.limits.keep(draw, key))

    def after_step(
        self, state: State, architectures: Architecture, norms: jax.Array
    ) -> State:
        """Updates the running means of the choices that were trained.

        A choice in several decisions counts with the mean of its norms, and a choice
        whose norms are all 0 is not updated. A child whose norms are all 0 has diverged
        in this step, and does not count.
        """
        places = jnp.broadcast_to(self._kinds, norms.shape), architectures.choice
        zeros = jnp.zeros_like(state.norms)
        counts = jnp.any(norms > 0, 1, keepdims=True).astype(norms.dtype)
        total, number = zeros.at[places].add(norms), zeros.at[places].add(counts)
        new = total / jnp.maximum(number, 1)
        moved = state.norms + self.rate * (new - state.norms)
        return state._replace(norms=jnp.where(total > 0, moved, state.norms))

    def finalists(self, state: State, key: jax.Array) -> Architecture:
        """Draws from the space: the probabilities are for training alone."""
        del state
        return Architecture(self.limits.keep(self.space.sample, key))

    def watch(self, state: State) -> dict[str, jax.Array]:
        """The probabilities of each decision's choices."""
        return {"probabilities": state.probabilities[self._kinds]}

    def _probabilities(self, norms: jax.Array, share: jax.Array) -> jax.Array:
        uniform = self._there / np.sum(self._there, 1, keepdims=True)
        total = jnp.sum(norms, 1, keepdims=True)
        # Without any norm, as of choices without weights, all are equally probable.
        by_norm = jnp.where(total > 0, norms / jnp.where(total > 0, total, 1), uniform)
        return share * by_norm + (1 - share) * uniform

    @property
    def _of_kinds(self) -> list[Decision]:
        """The first decision of each kind: of those with the same choices."""
        found: dict[tuple[str, ...], Decision] = {}
        for decision in self.space.decisions:
            found.setdefault(decision.choices, decision)
        return list(found.values())

    @property
    def _kinds(self) -> np.ndarray:
        """The kind of each decision, int[decisions]."""
        known = [decision.choices for decision in self._of_kinds]
        return np.array([known.index(one.choices) for one in self.space.decisions])

    @property
    def _there(self) -> np.ndarray:
        """False where choices are padded, bool[kinds, max_choices]."""
        return is_choice(self._of_kinds)
