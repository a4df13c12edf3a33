"""Evaluation of children on validation data, with the shared parameters.

The devices divide several architectures among them, or the batches of a single one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.strategies.rewards import Reward, finite_reward
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks import Data, Evaluation, Task


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Evaluates children with the shared parameters, whatever protects them."""

    task: Task
    devices: Devices = ONE_DEVICE

    @compiled()
    def validate(
        self, params: Any, architectures: Architecture, data: Data, batches: jax.Array
    ) -> Evaluation:
        """Several, along a leading axis, on the first validation batches."""

        def one(architecture, axis):
            child = self.child(params, architecture, data)
            return self.task.validate(child, architecture, data, 0, batches, axis)

        return self._each(one, architectures)

    @compiled(static_argnames="split")
    def evaluate(
        self, params: Any, architectures: Architecture, data: Data, split: str
    ) -> Evaluation:
        """Several, along a leading axis, on the whole of a split."""

        def one(architecture, axis):
            child = self.child(params, architecture, data)
            return self.task.evaluate(child, architecture, data, split, axis)

        return self._each(one, architectures)

    def on_validation(
        self, params: Any, architectures: Architecture, data: Data, batches: int | None
    ) -> Evaluation:
        """Several, on the first validation batches, or on all where these are None."""
        if batches is None:
            return self.evaluate(params, architectures, data, "valid")
        return self.validate(params, architectures, data, np.int32(batches))

    def rewards(
        self,
        params: Any,
        architectures: Architecture,
        data: Data,
        keys: jax.Array,
        reward: Reward,
    ) -> jax.Array:
        """Of one validation batch each, drawn by the keys; traced, not compiled."""

        def one(each, axis):
            architecture, key = each
            batch = jax.random.randint(key, (), 0, self.task.num_batches(data, "valid"))
            child = self.child(params, architecture, data)
            found = self.task.validate(child, architecture, data, batch, 1, axis)
            return finite_reward(reward, self.task, found, architecture)

        return self._each(one, (architectures, keys))

    def _each(self, function: Callable[[Any, Axis], Any], items: Any) -> Any:
        """Several are divided among the devices; of one, the batch is."""
        if len(jax.tree.leaves(items)[0]) > 1:
            return self.devices.every.map(lambda item: function(item, NO_AXIS), items)
        return NO_AXIS.map(lambda item: function(item, self.devices.every), items)

    def child(self, params: Any, architecture: Architecture, data: Data) -> Any:
        """The weights of a child, its rows of the shared parameters."""
        del data
        return gather(params, self.task.space.rows(architecture))
