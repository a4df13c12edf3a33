"""Training of one architecture from scratch, in a folder.

:mod:`wpl_jax.evaluation.retraining` has the steps, :mod:`wpl_jax.evaluation.retrained`
what is left in the end. The test data is evaluated once, at the end.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.devices import processes
from wpl_jax.errors import UserError, option
from wpl_jax.evaluation.retrained import Kept, diverged, finish
from wpl_jax.evaluation.retraining import Retraining, State
from wpl_jax.evaluation.speed import Speed
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.resumable import Resumable
from wpl_jax.runs.run_files import finite
from wpl_jax.tasks import Data
from wpl_jax.tasks.guessing import NO_BETTER


def run(
    retraining: Retraining,
    data: Data,
    choice: Any,
    seed: int,
    folder: Path,
    title: str,
    requests: Requests,
    checkpoint_seconds: float,
    splits: Sequence[str] = ("valid", "test"),
    keep: Callable[[Kept], None] | None = None,
    start_from: Callable[[Any], Any] | None = None,
) -> dict[str, Any]:
    """Trains from wherever an earlier process stopped, and writes the result.

    Args:
      retraining: The training.
      data: Of its task.
      choice: Of the architecture, ``int32[num_decisions]``.
      seed: Of all randomness.
      folder: Of this training.
      title: What it is called in what is printed.
      requests: To end between two calls, and to trace some.
      checkpoint_seconds: Between two checkpoints.
      splits: On which the best parameters are evaluated in the end.
      keep: Receives the best parameters once training has ended, before
        ``retrained.json`` is written; None to leave them in the checkpoint alone.
      start_from: A function of initial shared parameters, which returns others to start
        from. It is not called if the training is resumed.

    Returns:
      What ``retrained.json`` holds.

    Raises:
      UserError: If the folder is of another training, or this one diverges.
      SystemExit: After a signal, once all is saved.
    """
    choice = jnp.asarray(choice, jnp.int32)
    task = retraining.task
    batches = task.num_batches(data, "train")
    per_epoch = batches + 1  # Its last step is the validation.
    key = jax.random.key(seed)
    initial = functools.partial(retraining.init, key, choice)

    def start() -> State:
        if start_from is None:
            return initial()
        return initial(start_from(jax.jit(retraining.init_params)(key)))

    with Resumable(
        folder,
        total=retraining.epochs * per_epoch,
        like=jax.eval_shape(initial),
        start=start,
        record_of=lambda done: done // per_epoch,
        title=title,
        unit="steps",
        requests=requests,
        checkpoint_seconds=checkpoint_seconds,
        place=retraining.devices.replicate,
    ) as job:
        if np.any(job.state.choice != choice):
            raise UserError(
                f"{folder} holds the training of another architecture, "
                f"{np.asarray(job.state.choice).tolist()}. Delete the folder to "
                f"train this one, or give another {option('workdir')}."
            )
        speed, told = Speed(task.predictions_per_batch), ""
        guess = task.guess(data)
        for number in job.calls():
            epoch, first = divmod(number, per_epoch)
            if first == batches:
                job.state = retraining.validate(job.state, data, np.int32(epoch))
                record = _record(jax.device_get(job.state))
                job.record(epoch, record)
                if record["skipped"] == (epoch + 1) * batches:
                    raise diverged(folder, title, "no step that was finite")
                error = float(job.state.last.error)
                told = f", validation {task.error_name} {error:.2f}"
                if guess.explains(error):
                    told += f", {NO_BETTER}"
            else:
                end = min(
                    first + processes.broadcast(speed.batches_of_a_call()), batches
                )
                job.took = end - first
                numbers = map(np.int32, (epoch, first, end))
                with speed.of(end - first):
                    job.state = retraining.train(job.state, data, *numbers)
                    jax.block_until_ready(job.state)
            job.note = f"epoch {epoch + 1}{told}{speed}"
        return finish(retraining, job.state, data, guess, folder, title, splits, keep)


def _record(state: State) -> dict[str, Any]:
    return {
        "train_loss": finite(state.loss / state.finite) if state.finite else None,
        "valid_loss": finite(state.last.loss),
        "valid_error": finite(state.last.error),
        "averaged_steps": int(state.averaged),
        "skipped": int(state.skipped),
    }
