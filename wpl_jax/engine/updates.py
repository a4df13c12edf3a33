"""How the children of a call change the shared weights, by the names in ``UPDATES``."""

import dataclasses
from typing import Protocol

from wpl_jax.common.registry import Registry
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.joint_training import Together
from wpl_jax.engine.one_child import OneChild
from wpl_jax.engine.trainer import Trainer
from wpl_jax.strategies import Strategy
from wpl_jax.tasks.task import Task


class Update(Protocol):
    """Chooses the trainer of a search.

    Attributes:
      one_path: Whether each child has to be the same architecture in all steps of a
        call, without companions, and with a strategy that does not learn in the steps.
    """

    one_path: bool = False

    def trainer(
        self,
        task: Task,
        strategy: Strategy,
        batches: int,
        devices: Devices,
        children: int,
        changes_rows: bool,
    ) -> Trainer:
        """The trainer.

        Args:
          task: The task whose loss is minimised.
          strategy: The strategy, which may learn before each batch.
          batches: Batches of each child in a call.
          devices: Devices that divide the children, or else the batch of each.
          children: Number of children that are trained in a call.
          changes_rows: Whether architectures change within a call, or have companions.
        """

    def copies(self, children: int, state: float) -> float:
        """Memory beside that of a single child, in copies of the shared parameters.

        Args:
          children: Number of children that are trained in a call.
          state: Copies in the shared parameters, their optimizer state and memory.
        """


@dataclasses.dataclass(frozen=True)
class Joint(Update):
    """Steps by the mean of the children's gradients."""

    def trainer(self, task, strategy, batches, devices, children, changes_rows):
        """On the rows of a single child if they stay the same, or else on all."""
        if children == 1 and not changes_rows:
            return OneChild(task, strategy, batches, devices)
        return Together(task, strategy, batches, devices, children)

    def copies(self, children, state):
        """Of several children, a sum of gradients and its mean."""
        del state
        return 2.0 * (children > 1)


# By name: dataclasses with the methods of :class:`Update`.
UPDATES = Registry(
    "wpl_jax.updates",
    {
        "joint": Joint,
        "reptile": "wpl_jax.engine.reptile:Reptile",
    },
)
