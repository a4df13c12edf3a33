"""Rewards of architectures, and limits on which of them may be selected."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import check_number, require
from wpl_jax.registry import Registry
from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks.task import Evaluation, Task


class Reward(Protocol):
    """The reward of an architecture; its methods are pure.

    A class that inherits from this one has the defaults.
    """

    def __call__(
        self, task: Task, evaluation: Evaluation, architecture: Architecture
    ) -> jax.Array:
        """The reward, higher is better, ``float32[]``; by default, the task's.

        Args:
          task: With its own reward.
          evaluation: Of the architecture, on validation data.
          architecture: The child.
        """
        del architecture
        return task.reward(evaluation)

    def allows(self, space: Space, architecture: Architecture) -> jax.Array:
        """Whether it may be selected in the end, ``bool[]``; by default it may."""
        del space, architecture
        return jnp.bool(True)


@dataclasses.dataclass(frozen=True)
class TaskReward(Reward):
    """The reward of the task."""


@dataclasses.dataclass(frozen=True)
class Limited(Reward):
    """The task's reward, less for what costs more than a limit.

    The soft constraint of Tan et al., "MnasNet: Platform-Aware Neural Architecture
    Search for Mobile" (CVPR 2019), equation 2 with a weight of 0 below the limit:
    ``reward * min(1, limit / cost) ** exponent``. What is selected in the end is within
    the limit, if any candidate is.

    Attributes:
      limit: Of the cost.
      cost: Which cost, by its name in :meth:`wpl_jax.supernet.Space.costs`.
      exponent: How fast the reward falls beyond the limit; 0 for the selection alone.
    """

    limit: float
    cost: str = "parameters"
    exponent: float = 1.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_number(self, "limit", above=0)
        named = isinstance(self.cost, str) and bool(self.cost)
        require(self, "cost", named, "the name of a cost of the space")
        check_number(self, "exponent", least=0)

    def __call__(self, task, evaluation, architecture):
        """The task's reward, reduced by a power of the cost beyond the limit."""
        share = self.limit / self._cost(task.space, architecture)
        return task.reward(evaluation) * jnp.minimum(1, share) ** self.exponent

    def allows(self, space, architecture):
        """Whether the cost is within the limit."""
        return self._cost(space, architecture) <= self.limit

    def _cost(self, space, architecture):
        # Of a mixture: what is left of it, and not all that it is mixed of.
        costs = space.costs(Architecture(architecture.choice))
        if self.cost not in costs:
            raise ValueError(
                f"The space {space.name} has no cost {self.cost!r}, expected one of "
                f"{sorted(costs)}."
            )
        return costs[self.cost].astype(jnp.float32)


# By name: dataclasses with the methods of :class:`Reward`.
REWARDS = Registry("wpl_jax.rewards", {"task": TaskReward, "limited": Limited})
