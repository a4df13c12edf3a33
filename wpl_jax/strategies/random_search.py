"""Random search with weight sharing (RS-WS; Li and Talwalkar, 2019).

Architectures are drawn uniformly, for training and at the end; what makes it a
search is the selection: many candidates on a few validation batches, the best of
them on all.
"""

import dataclasses

import jax

from wpl_jax.strategies.strategy import Candidates, Learned, RewardsFn
from wpl_jax.supernet import Architecture, Space


@dataclasses.dataclass(frozen=True)
class RandomSearch:
    """The strategy.

    Attributes:
      space: What is searched.
      candidates: How the best is selected.
    """

    space: Space
    candidates: Candidates = Candidates(proposed=1000)

    steps = 0  # It does not learn.

    def init(self, key: jax.Array) -> tuple[()]:
        """Nothing."""
        del key
        return ()

    def begin_epoch(self, state: tuple[()]) -> tuple[()]:
        """Nothing."""
        return state

    def propose(self, state: tuple[()], key: jax.Array) -> Architecture:
        """Draws from the space, uniformly unless it knows better."""
        del state
        return Architecture(self.space.sample(key))

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
