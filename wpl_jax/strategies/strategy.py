"""What a search strategy is."""

from typing import Any, NamedTuple, Protocol

import jax
from ml_collections import ConfigDict

from wpl_jax.common.config_fields import get_field, require_int, require_only
from wpl_jax.strategies.reinforce import RewardsFn

State = Any


class Learned(NamedTuple):
    """What a strategy saw in some steps of learning."""

    reward: jax.Array  # float[]; mean over the steps
    entropy: jax.Array  # float[]; mean entropy of what it proposed, in nats


class Candidates(NamedTuple):
    """How a strategy's best architecture is selected at the end of a search."""

    proposed: int  # architectures
    screen_batches: int  # validation batches that each is first judged on
    keep: int  # how many of them are judged on the whole validation set


class Strategy(Protocol):
    """A way to search, on any space's decisions. Its functions are pure."""

    @property
    def steps(self) -> int:
        """How many steps it learns for in each epoch."""

    @property
    def candidates(self) -> Candidates:
        """How its best is selected."""

    def init(self, key: jax.Array) -> State:
        """What it starts from."""

    def begin_epoch(self, state: State) -> State:
        """What it does before an epoch's first step of learning."""

    def propose(self, state: State, key: jax.Array) -> jax.Array:
        """An architecture, ``int32[num_decisions]``."""

    def learn(
        self,
        state: State,
        key: jax.Array,
        rewards_fn: RewardsFn,
        first: jax.Array,
        steps: int,
    ) -> tuple[State, Learned]:
        """Learns in the steps ``first`` to ``first + steps - 1`` of an epoch.

        Args:
          state: The strategy's state.
          key: PRNG key of the epoch; a step's draws depend on it and the step.
          rewards_fn: Rewards of architectures, traced. Several at once are divided
            among the devices.
          first: Number of the first step, ``int32[]``.
          steps: How many, at least 1.
        """


def make_candidates(config: ConfigDict, path: str) -> Candidates:
    """The settings of ``candidates`` in the configuration, under a strategy's path."""
    require_only(config, f"{path}.candidates", Candidates._fields)
    for name in Candidates._fields:
        require_int(config, f"{path}.candidates.{name}", 1)
    return Candidates(**get_field(config, f"{path}.candidates").to_dict())
