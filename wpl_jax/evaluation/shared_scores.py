"""Scores of many architectures by shared parameters, in blocks.

A block is one compiled call. It evaluates its architectures one after the other, on the
same validation batches, without noise. The last block is padded, so that all blocks use
the same compiled program.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_int, check_parts
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.evaluation.tuning import NO_TUNING, Tuning, TuningEvaluator
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.resumable import Resumable
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Data, Evaluation, Task


@dataclasses.dataclass(frozen=True)
class SharedScores:
    """Evaluates architectures with shared parameters.

    Attributes:
      task: The task on which the parameters were trained.
      devices: Devices that divide the architectures of a block.
      batches: The first validation batches, on which all are evaluated; None for the
        whole validation set.
      block: Architectures in a call; at most as many as there are.
      tuning: How each is trained on its own before it is evaluated.
    """

    task: Task
    devices: Devices = ONE_DEVICE
    batches: int | None = None
    block: int = 100
    tuning: Tuning = NO_TUNING

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self, but=("task",))
        check_int(self, "batches", 1, optional=True)
        check_int(self, "block", 1)

    def of(self, params: Any, choices: np.ndarray, data: Data) -> Evaluation:
        """Losses and errors on the validation batches, each ``float32[n]``.

        Args:
          params: The shared parameters.
          choices: ``int32[n, decisions]``.
          data: Of the task.
        """
        found = self._nothing(len(choices))
        for number in range(self._blocks(len(choices))):
            found = self._add(found, number, params, choices, data)
        return found

    def resumably(
        self,
        params: Any,
        choices: np.ndarray,
        data: Data,
        folder: Path,
        title: str,
        requests: Requests,
    ) -> Evaluation:
        """Like :meth:`of`, but continues after the last block of an earlier process.

        Args:
          params: The shared parameters.
          choices: ``int32[n, decisions]``.
          data: Of the task.
          folder: Where checkpoints of the scores are written.
          title: Name of the job in printed lines.
          requests: To stop between two blocks, and to profile some.

        Raises:
          SystemExit: After a signal, once all is saved.
        """
        count, nothing = len(choices), self._nothing(len(choices))
        with Resumable(
            folder,
            total=self._blocks(count),
            like=jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nothing
            ),
            start=lambda: nothing,
            record_of=lambda done: 0,
            title=title,
            unit="blocks",
            requests=requests,
            checkpoint_seconds=0.0,
        ) as job:
            for number in job.calls():
                job.state = self._add(job.state, number, params, choices, data)
                done = min((number + 1) * self._size(count), count)
                job.note = f"{done:,} of {count:,} architectures"
            return job.state

    def _nothing(self, count: int) -> Evaluation:
        zeros: Any = np.zeros(count, np.float32)
        return Evaluation(zeros, zeros)

    def _size(self, count: int) -> int:
        return min(self.block, count)

    def _blocks(self, count: int) -> int:
        return -(-count // self._size(count))

    def _add(self, found, number, params, choices, data):
        """Evaluates a block, and writes its results into ``found``."""
        size = self._size(len(choices))
        places = np.arange(number * size, min((number + 1) * size, len(choices)))
        padded = choices[np.resize(places, size)]
        some = self.devices.replicate(Architecture(jnp.asarray(padded)))
        evaluator = TuningEvaluator(self.task, self.devices, self.tuning)
        new = evaluator.on_validation(params, some, data, self.batches)

        def put(old, new):
            old = np.array(old)
            old[places] = np.asarray(new)[: len(places)]
            return old

        return jax.tree.map(put, found, new)
