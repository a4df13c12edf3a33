"""What a search strategy is."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax

from wpl_jax.common.settings import check_int
from wpl_jax.strategies.reinforce import RewardsFn
from wpl_jax.supernet import Architecture

State = Any


class Learned(NamedTuple):
    """What a strategy saw in some steps of learning."""

    reward: jax.Array  # float[]; mean over the steps
    entropy: jax.Array  # float[]; mean entropy of what it proposed, in nats


@dataclasses.dataclass(frozen=True)
class Candidates:
    """How a strategy's best architecture is selected at the end of a search.

    Attributes:
      proposed: Architectures that the strategy proposes.
      screen_batches: Validation batches on which each is evaluated first.
      keep: How many of the best are then evaluated on the whole validation set.
    """

    proposed: int = 100
    screen_batches: int = 10
    keep: int = 10

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in ("proposed", "screen_batches", "keep"):
            check_int(self, name, 1)


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

    def propose(self, state: State, key: jax.Array) -> Architecture:
        """The next child."""

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
