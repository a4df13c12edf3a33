"""Rewards of architectures, and limits on which of them may be selected."""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from wpl_jax.common.registry import Registry
from wpl_jax.common.settings import check_number, check_parts, given, require
from wpl_jax.spaces.costs import Costs
from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks.task import Evaluation, Task

_LEAST = 1e-6  # of a cost, as a share of its target


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

    def loss(self, space: Space, architecture: Architecture) -> jax.Array:
        """What it adds to the loss of a mixture, ``float32[]``; by default, 0.

        Strategies that learn from gradients minimise it with the loss. The costs of the
        mixture are expected ones, with a gradient in its weights.

        Args:
          space: The space.
          architecture: The mixture.
        """
        del space, architecture
        return jnp.float32(0)


def finite_reward(
    reward: Reward, task: Task, evaluation: Evaluation, architecture: Architecture
) -> jax.Array:
    """The reward, 0 if it or the loss is not finite, ``float32[]``.

    What has no loss is as bad as can be, and strategies must not see a NaN. A reward of
    one's own may have one for a finite loss.

    Args:
      reward: The reward.
      task: As of :class:`Reward`.
      evaluation: The same.
      architecture: The same.
    """
    value = reward(task, evaluation, architecture)
    sound = jnp.isfinite(evaluation.loss) & jnp.isfinite(value)
    return jnp.where(sound, value, 0.0)


@dataclasses.dataclass(frozen=True)
class TaskReward(Reward):
    """The reward of the task."""


@dataclasses.dataclass(frozen=True)
class MnasNet(Reward):
    """The task's reward, weighted by a power of a cost.

    Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile" (CVPR
    2019), equations 2 and 3: ``reward * (cost / target) ** w``, where ``w`` is
    ``below`` up to the target, and ``above`` beyond it. The paper has -0.07 for both (a
    soft constraint), or 0 and -1 (a hard one). A cost counts as at least a millionth of
    the target, so that a child that costs nothing has a finite reward.

    The loss of a mixture is minus the logarithm of a probability, so the term that is
    added to it is ``-w log(expected cost / target)``.

    Attributes:
      target: Of the cost.
      cost: Which one: ``"parameters"``, ``"multiply_adds"`` or ``"latency_ms"``.
      below: The exponent up to the target, at most 0.
      above: The exponent beyond it, at most 0.
      costs: What children cost; None for the costs of the task's space.
    """

    target: float
    cost: str = "multiply_adds"
    below: float = -0.07
    above: float = -0.07
    costs: Costs | None = given(None)

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_number(self, "target", above=0)
        check_number(self, "below", most=0)
        check_number(self, "above", most=0)
        _check_cost(self)

    def __call__(self, task, evaluation, architecture):
        """The task's reward times the power of the cost."""
        # Of a mixture: what is left of it, and not all that it is mixed of.
        child = Architecture(architecture.choice)
        log_ratio, exponent = self._terms(task.space, child)
        return task.reward(evaluation) * jnp.exp(exponent * log_ratio)

    def loss(self, space, architecture):
        """Minus the exponent times the logarithm of the expected cost's share."""
        log_ratio, exponent = self._terms(space, architecture)
        return -exponent * log_ratio

    def _terms(self, space, architecture):
        ratio = _cost(self, space, architecture) / self.target
        log_ratio = jnp.log(jnp.maximum(ratio, _LEAST))
        return log_ratio, jnp.where(log_ratio > 0, self.above, self.below)


@dataclasses.dataclass(frozen=True)
class Limited(Reward):
    """The task's reward, less for what costs more than a limit.

    The hard constraint of :class:`MnasNet`: ``reward * min(1, limit / cost) **
    exponent``. What is selected in the end is within the limit, if any candidate is.
    ``config.limits`` limits what is proposed.

    Attributes:
      limit: Of the cost.
      cost: Which cost, as in :class:`MnasNet`.
      exponent: How fast the reward falls beyond the limit; 0 for the selection alone.
      costs: As in :class:`MnasNet`.
    """

    limit: float
    cost: str = "parameters"
    exponent: float = 1.0
    costs: Costs | None = given(None)

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_number(self, "limit", above=0)
        check_number(self, "exponent", least=0)
        _check_cost(self)

    def __call__(self, task, evaluation, architecture):
        """The task's reward, reduced by a power of the cost beyond the limit."""
        return self._hard(task, evaluation, architecture)

    def allows(self, space, architecture):
        """Whether the cost is within the limit."""
        child = Architecture(architecture.choice)
        return _cost(self, space, child) <= self.limit

    def loss(self, space, architecture):
        """The exponent times the logarithm of the expected cost beyond the limit."""
        return self._hard.loss(space, architecture)

    @property
    def _hard(self):
        return MnasNet(self.limit, self.cost, 0.0, -self.exponent, self.costs)


def _check_cost(reward: Any) -> None:
    named = isinstance(reward.cost, str) and bool(reward.cost)
    require(reward, "cost", named, "the name of a cost of the space")
    if reward.costs is not None:
        names = reward.costs.names
        expected = f"one of {sorted(names)}, which the space {reward.costs.space.name}"
        require(reward, "cost", reward.cost in names, f"{expected} counts")


def _cost(reward, space: Space, architecture: Architecture) -> jax.Array:
    costs = (reward.costs or Costs(space))(architecture)
    if reward.cost not in costs:
        raise ValueError(
            f"The space {space.name} has no cost {reward.cost!r}, expected one of "
            f"{sorted(costs)}."
        )
    return costs[reward.cost].astype(jnp.float32)


# By name: dataclasses with the methods of :class:`Reward`.
REWARDS = Registry(
    "wpl_jax.rewards",
    {"task": TaskReward, "limited": Limited, "mnasnet": MnasNet},
)
