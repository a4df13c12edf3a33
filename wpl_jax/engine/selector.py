"""Selection of the best architecture, after the last epoch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.engine.several import at, no_evaluations, put_back, some_from, zeros_of
from wpl_jax.engine.state import Selection, key_for
from wpl_jax.strategies import Strategy
from wpl_jax.strategies.rewards import Reward
from wpl_jax.tasks import Data, Task


@dataclasses.dataclass(frozen=True)
class Selector:
    """Selects the best of a strategy's candidates.

    It does not depend on the penalty, so searches with different penalties share its
    compiled functions. See :class:`wpl_jax.strategies.strategy.Candidates`.
    """

    task: Task
    strategy: Strategy
    reward: Reward
    devices: Devices = ONE_DEVICE

    @property
    def num_judged(self) -> int:
        """Number of candidates that are evaluated again, on more validation data."""
        candidates = self.strategy.candidates
        return min(candidates.keep, candidates.proposed)

    def init(self, strategy: Any, key: jax.Array) -> Selection:
        """A selection without candidates.

        Args:
          strategy: State of the strategy; only its shapes are used.
          key: A PRNG key; only its shape is used.
        """
        finalist = jax.eval_shape(self.strategy.finalists, strategy, key)
        proposed, keep = self.strategy.candidates.proposed, self.num_judged
        return Selection(
            architectures=zeros_of(finalist, proposed),
            screened=no_evaluations(proposed),
            kept=jnp.zeros(keep, jnp.int32),
            judged=no_evaluations(keep),
            allowed=jnp.ones(proposed, bool),
        )

    @compiled(donate_argnames="selection")
    def propose(self, selection: Selection, strategy: Any, key: jax.Array) -> Selection:
        """Draws the candidates.

        Args:
          selection: Without candidates.
          strategy: State of the strategy.
          key: PRNG key of the search.
        """
        keys = jax.random.split(
            key_for(key, "derive"), self.strategy.candidates.proposed
        )
        architectures = self.strategy.propose_finalists(strategy, keys)

        def allows(architecture):
            by_reward = self.reward.allows(self.task.space, architecture)
            return by_reward & self.strategy.limits.allows(architecture.choice)

        return selection._replace(
            architectures=architectures, allowed=jax.vmap(allows)(architectures)
        )

    def screen(
        self,
        selection: Selection,
        params: Any,
        data: Data,
        index: ArrayLike,
        count: int,
    ) -> Selection:
        """Evaluates some candidates on a few validation batches.

        Args:
          selection: With candidates.
          params: The shared parameters.
          data: Of the task.
          index: Number of the first candidate, ``int32[]``.
          count: Number of candidates.
        """
        found = Evaluator(self.task, self.devices).on_validation(
            params,
            some_from(selection.architectures, index, count),
            data,
            self.strategy.candidates.screen_batches,
        )
        return selection._replace(screened=put_back(selection.screened, index, found))

    @compiled(donate_argnames="selection")
    def keep(self, selection: Selection) -> Selection:
        """Keeps the best of the candidates, once all have been screened."""
        order = self.strategy.candidates.order
        ranked = order(selection.screened, selection.allowed)
        return selection._replace(kept=ranked[: self.num_judged])

    def judge(
        self,
        selection: Selection,
        params: Any,
        data: Data,
        index: ArrayLike,
        count: int,
    ) -> Selection:
        """Evaluates kept candidates on more validation data; see :meth:`screen`."""
        kept = some_from(selection.kept, index, count)
        found = Evaluator(self.task, self.devices).on_validation(
            params,
            at(selection.architectures, kept),
            data,
            self.strategy.candidates.judge_batches,
        )
        return selection._replace(judged=put_back(selection.judged, index, found))
