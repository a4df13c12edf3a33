"""Random search with weight sharing (RS-WS; Li and Talwalkar, 2019).

Architectures are drawn uniformly, for training and for the final selection. The
selection evaluates many candidates on a few validation batches, and the best of them on
more.
"""

import dataclasses

import jax

from wpl_jax.strategies.strategy import Candidates, Strategy
from wpl_jax.supernet import Architecture, Space


@dataclasses.dataclass(frozen=True)
class RandomSearch(Strategy):
    """Draws architectures from the space.

    Attributes:
      space: What is searched.
      candidates: How the best is selected.
    """

    space: Space
    candidates: Candidates = Candidates(proposed=1000)

    def propose(self, state: tuple[()], key: jax.Array) -> Architecture:
        """Draws from the space, uniformly unless it knows better."""
        del state
        return Architecture(self.space.sample(key))
