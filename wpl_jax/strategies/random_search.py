"""Random search with weight sharing (RS-WS; Li and Talwalkar, 2019).

Architectures are drawn uniformly, for training and at the end; what makes it a
search is the selection: many candidates on a few validation batches, the best of
them on all.
"""

import dataclasses

import jax

from wpl_jax.strategies.strategy import Candidates, Learned, RewardsFn
from wpl_jax.supernet import Decision, random_architecture


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """The strategy.

    Attributes:
      decisions: Of the space.
      candidates: How the best is selected.
    """

    decisions: tuple[Decision, ...]
    candidates: Candidates = Candidates(proposed=1000)

    steps = 0  # It does not learn.

    def init(self, key: jax.Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def begin_epoch(self, state: tuple[()]) -> tuple[()]:
        """Nothing."""
        return state

    def propose(self, state: tuple[()], key: jax.Array) -> jax.Array:
        """Draws every decision uniformly."""
        del state
        return random_architecture(key, self.decisions)

    def learn(
        self,
        state: tuple[()],
        key: jax.Array,
        rewards_fn: RewardsFn,
        first: jax.Array,
        steps: int,
    ) -> tuple[tuple[()], Learned]:
        """Never called, as there are no steps to take."""
        raise NotImplementedError("Random search does not learn.")
