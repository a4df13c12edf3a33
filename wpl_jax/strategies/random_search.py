"""Random search with weight sharing (RS-WS; Li and Talwalkar, 2019).

Architectures are drawn at random, for training and for the final selection. The
selection evaluates many candidates on a few validation batches, and the best of them on
more.
"""

import dataclasses
import functools

import jax

from wpl_jax.common.settings import SettingError, check_parts, chosen, given
from wpl_jax.strategies.limits import NO_LIMITS, Limits
from wpl_jax.strategies.samplers import SAMPLERS, Sampler, Uniform
from wpl_jax.strategies.strategy import Candidates, Strategy
from wpl_jax.supernet import Architecture, Space


@dataclasses.dataclass(frozen=True)
class RandomSearch(Strategy):
    """Draws architectures from the space.

    Attributes:
      space: What is searched.
      candidates: How the best is selected.
      sampler: How architectures are drawn; those that are trained together are drawn
        together.
      limits: What the drawn architectures keep to.
    """

    space: Space
    candidates: Candidates = Candidates(proposed=1000)
    sampler: Sampler = chosen(SAMPLERS, Uniform())
    limits: Limits = given(NO_LIMITS)

    candidates_are = "drawn at random"

    def __post_init__(self) -> None:
        """Checks that the sampler can draw from the space, within the limits."""
        check_parts(self)
        self.sampler.check(self.space)
        if self.sampler.joint and self.limits.most:
            name = type(self.sampler).__name__.lower()
            expected = (
                "another one with limits, which redraw single children: this "
                "one draws several that belong together"
            )
            raise SettingError("sampler", name, expected)

    def check_children(self, number: int) -> None:
        """Checks what the sampler needs of the number of children in a step."""
        self.sampler.check_children(self.space, number)

    def propose(self, state: tuple[()], key: jax.Array) -> Architecture:
        """Draws one architecture."""
        del state
        return Architecture(self.limits.keep(self._draw, key))

    def propose_several(self, state: tuple[()], keys: jax.Array) -> Architecture:
        """Draws architectures together."""
        del state
        drawn = self.sampler.draw(self.space, keys)
        redraw = functools.partial(self.limits.redraw, draw=self._draw)
        return Architecture(jax.vmap(lambda c, k: redraw(c, key=k))(drawn, keys))

    def _draw(self, key):
        return self.sampler.draw(self.space, key[None])[0]
