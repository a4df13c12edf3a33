"""Several children of one supernet as an ensemble: the mean of their predictions."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks import Data, Evaluation, Task


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Evaluates children together, with the shared parameters.

    Attributes:
      task: That they were trained on.
      devices: Among which each batch is divided.
    """

    task: Task
    devices: Devices = ONE_DEVICE

    @compiled(static_argnames="split")
    def evaluate(
        self, params: Any, architectures: Architecture, data: Data, split: str
    ) -> Evaluation:
        """What the mean of the members' probabilities is worth on a whole split.

        Args:
          params: The shared parameters.
          architectures: The members, along a leading axis.
          data: Of the task.
          split: ``"valid"`` or ``"test"``.
        """
        task, axis = self.task, self.devices.every

        def begin(architecture):
            child = gather(params, task.space.rows(architecture))
            carry = task.begin_split(child, architecture, data, axis)
            return architecture, child, carry

        def one(carries, index):
            def predict(member):
                architecture, child, carry = member
                return task.predict_batch(
                    child, architecture, data, split, index, carry, axis
                )

            # One after the other: mapped at once, a choice would become all choices.
            found, carries = jax.lax.map(predict, (*members, carries))
            together = jax.nn.logsumexp(found, 0) - jnp.log(float(len(found)))
            return carries, task.score(together, data, split, index, axis)

        *members, carries = jax.lax.map(begin, architectures)
        batches = jnp.arange(task.batches_of_split(data, split))
        _, scores = jax.lax.scan(one, carries, batches)
        return task.conclude(axis.sum(jax.tree.map(jnp.sum, scores)))
