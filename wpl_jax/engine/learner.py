"""Updates a strategy by the rewards of its proposals, evaluated with shared weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.engine.state import key_for
from wpl_jax.strategies import Strategy
from wpl_jax.strategies.rewards import Reward
from wpl_jax.strategies.strategy import Learned
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Data, Task


@dataclasses.dataclass(frozen=True)
class Learner:
    """Lets a strategy learn from rewards, whatever protects the parameters."""

    task: Task
    strategy: Strategy
    reward: Reward
    devices: Devices = ONE_DEVICE

    @compiled(donate_argnames="state", static_argnames="steps")
    def learn(
        self,
        state: Any,
        params: Any,
        data: Data,
        key: jax.Array,
        epoch: jax.Array,
        first: jax.Array,
        steps: int,
    ) -> tuple[Any, Learned]:
        """Some of the steps of an epoch, from ``first`` on."""

        def rewards(keys, choices, step):
            del step
            evaluator = Evaluator(self.task, self.devices)
            architectures = Architecture(choices)
            found = evaluator.rewards(params, architectures, data, keys, self.reward)
            # What may not be proposed is worth nothing.
            allowed = jax.vmap(self.strategy.limits.allows)(choices)
            return jnp.where(allowed, found, 0)

        key = key_for(key, "learn", epoch)
        learned = self.strategy.learn(state, key, rewards, first, steps)
        # What is drawn from a strategy must be the same on all devices.
        return self.devices.every.first(learned)
