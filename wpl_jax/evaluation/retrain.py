"""Training of one architecture from scratch, with averaged SGD.

Merity et al., "Regularizing and Optimizing LSTM Language Models" (2017): SGD at a
constant rate until the validation error has not improved for some epochs, and from
then on the average of the weights (NT-ASGD). The weights with the lowest validation
error are kept. The test data is evaluated once, at the end.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.settings import check_int
from wpl_jax.devices import processes
from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.engine.optimizers import Optimizer
from wpl_jax.engine.training import Batch, TrainState, train_step
from wpl_jax.errors import UserError
from wpl_jax.runs.machine import Requests
from wpl_jax.runs.resumable import Resumable
from wpl_jax.runs.run_files import NUMBER, finite, read_json, to_json, write_atomically
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks import Data, Evaluation, Task
from wpl_jax.tasks.guessing import NO_BETTER, Model, check_guess, print_remark

RETRAINED_FILE = "retrained.json"
# Between two calls it is seen that a signal has come. How the batches are divided into
# calls does not change what they give.
SECONDS_OF_A_CALL = 2.0
_MOST_PATIENCE = 10_000  # epochs, whose errors are part of the state


def read_retrained(
    path: Path, splits: Sequence[str] = ("valid", "test")
) -> dict[str, Any]:
    """What a training from scratch has left in ``retrained.json``.

    Args:
      path: The file.
      splits: On which it was evaluated.

    Raises:
      UserError: If it is not what a training writes.
    """
    fields = {"parameters": NUMBER, **{f"{split}_error": NUMBER for split in splits}}
    remedy = "Delete it and run again: it is made anew from the checkpoint."
    found = read_json(path, fields, remedy)
    check_guess(found, path, remedy)
    return found


class State(NamedTuple):
    """All that a training is, between two calls."""

    key: jax.Array
    choice: jax.Array  # int32[num_decisions]
    params: Any  # of the child
    opt_state: optax.OptState
    carry: Any  # what the last batch left for the next
    average: Any  # mean of the parameters since averaging began
    averaged: jax.Array  # int32[]; steps in it, 0 before it begins
    averaging: jax.Array  # bool[]
    last: Evaluation  # of float32[]; newest validation, inf where not finite
    lowest: Evaluation  # of float32[]; the lowest nats and error so far
    recent: jax.Array  # float32[patience]; errors of the last epochs, as a ring
    before: jax.Array  # float32[]; the lowest error of the epochs before them
    best: Any  # parameters of the lowest error of them
    loss: jax.Array  # float32[]; sum over this epoch's batches
    skipped: jax.Array  # int32[]; steps that were not finite


class Kept(NamedTuple):
    """What a finished training keeps, on the host."""

    choice: np.ndarray  # int32[num_decisions]
    params: Any  # those of the lowest validation error
    statistics: Any  # batch statistics of the training data, None without any
    metrics: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Retraining:
    """The compiled functions of a training.

    Attributes:
      task: With the settings of this training.
      optimizer: How weights are trained.
      epochs: Passes over the training data.
      patience: Epochs without improvement before averaging begins, None for never.
      devices: Among which each batch is divided.
    """

    task: Task
    optimizer: Optimizer
    epochs: int
    patience: int | None
    devices: Devices = ONE_DEVICE

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "epochs", 1)
        check_int(self, "patience", 1, optional=True, most=_MOST_PATIENCE)

    @compiled()
    def init(self, key: jax.Array, choice: jax.Array, params: Any = None) -> State:
        """The state before the first step.

        Args:
          key: PRNG key.
          choice: Of the architecture, ``int32[num_decisions]``.
          params: Shared parameters of the space, of which the child's are taken; None
            for :meth:`init_params`.
        """
        if params is None:
            params = self.init_params(key)
        params = gather(params, self.task.space.rows(Architecture(choice)))
        return State(
            key=key,
            choice=choice,
            params=params,
            opt_state=self.optimizer.transform(0.0).init(params),
            carry=self.task.init_carry(),
            average=jax.tree.map(jnp.zeros_like, params),
            averaged=jnp.int32(0),
            averaging=jnp.bool(False),
            last=Evaluation(*(jnp.float32(jnp.inf),) * 2),
            lowest=Evaluation(*(jnp.float32(jnp.inf),) * 2),
            recent=jnp.full(self.patience or 1, jnp.inf, jnp.float32),
            before=jnp.float32(jnp.inf),
            best=params,
            loss=jnp.float32(0),
            skipped=jnp.int32(0),
        )

    def init_params(self, key: jax.Array) -> Any:
        """The shared parameters of which a training with this key takes the child's."""
        return self.task.space.init(jax.random.fold_in(key, 0))

    @compiled(donate_argnames="state")
    def train(self, state: State, data: Data, epoch, first, end) -> State:
        """Steps on the training batches ``first`` to ``end - 1`` of an epoch."""
        transform = self.optimizer.transform(self.optimizer.rate(epoch))
        key = jax.random.fold_in(jax.random.fold_in(state.key, 1), epoch)
        passed = epoch * self.task.num_batches(data, "train")
        axis = self.devices.every

        def step(i, state):
            train_state, told = train_step(
                self.task,
                transform,
                TrainState(state.params, state.opt_state, state.carry),
                Architecture(state.choice),
                Batch(data, passed + i, jax.random.fold_in(key, i), axis),
            )
            averaged = jnp.where(state.averaging, state.averaged + 1, 0)
            share = 1 / jnp.maximum(averaged, 1)
            average = jax.tree.map(
                lambda mean, p: mean + share * (p - mean),
                state.average,
                train_state.params,
            )
            return state._replace(
                **train_state._asdict(),
                average=average,
                averaged=averaged,
                loss=state.loss + jnp.where(told.sound, told.loss, 0),
                skipped=state.skipped + ~told.sound,
            )

        state = state._replace(
            loss=jnp.where(first == 0, 0, state.loss), carry=axis.shard(state.carry)
        )
        state = jax.lax.fori_loop(first, end, step, state)
        return state._replace(carry=axis.all_gather(state.carry))

    @compiled(donate_argnames="state")
    def validate(self, state: State, data: Data, epoch) -> State:
        """Evaluates on all validation data, and keeps what is best."""
        # The average is of no step before averaging began: the newest weights then.
        params = jax.tree.map(
            lambda mean, p: jnp.where(state.averaged > 0, mean, p),
            state.average,
            state.params,
        )
        found = self._evaluate(params, state, data, "valid")
        # NaN has no order.
        found = jax.tree.map(lambda x: jnp.where(jnp.isfinite(x), x, jnp.inf), found)
        better = found.error < state.lowest.error
        best = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), params, state.best
        )
        state = state._replace(
            last=found, best=best, lowest=jax.tree.map(jnp.minimum, state.lowest, found)
        )
        if self.patience is None:
            return state
        oldest = epoch % self.patience
        return state._replace(
            averaging=state.averaging | (found.error > state.before),
            before=jnp.minimum(state.before, state.recent[oldest]),
            recent=state.recent.at[oldest].set(found.error),
        )

    @compiled()
    def statistics(self, state: State, data: Data) -> Any:
        """Batch statistics of the best parameters over the training data."""
        task: Any = self.task  # One with a predictor has the two methods.
        architecture, axis = Architecture(state.choice), self.devices.every
        return task.statistics(state.best, architecture, data, axis)

    @compiled(static_argnames="split")
    def evaluate_with(
        self, statistics: Any, state: State, data: Data, split: str
    ) -> Evaluation:
        """What the best parameters are worth with given batch statistics."""
        task: Any = self.task
        architecture, axis = Architecture(state.choice), self.devices.every
        return task.evaluate_with(
            statistics, state.best, architecture, data, split, axis
        )

    @compiled(static_argnames="split")
    def measure(
        self, statistics: Any, state: State, data: Data, split: str
    ) -> dict[str, jax.Array]:
        """Metrics of the best parameters by name; {} of a task without metrics."""
        task: Any = self.task
        if not hasattr(task, "measure"):
            return {}
        architecture, axis = Architecture(state.choice), self.devices.every
        return task.measure(statistics, state.best, architecture, data, split, axis)

    @compiled(static_argnames="split")
    def evaluate(self, state: State, data: Data, split: str) -> Evaluation:
        """What the best parameters are worth on the whole of a split."""
        return self._evaluate(state.best, state, data, split)

    def _evaluate(self, params, state, data, split):
        axis = self.devices.every
        architecture = Architecture(state.choice)
        return self.task.evaluate(params, architecture, data, split, axis)


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
                "train this one, or give another --workdir."
            )
        speed, told = _Speed(task.predictions_per_batch), ""
        guess = task.guess(data)
        for number in job.calls():
            epoch, first = divmod(number, per_epoch)
            if first == batches:
                job.state = retraining.validate(job.state, data, np.int32(epoch))
                record = _record(jax.device_get(job.state), batches)
                job.record(epoch, record)
                if record["skipped"] == (epoch + 1) * batches:
                    raise _diverged(folder, "no step that was finite")
                error = float(job.state.last.error)
                told = f", {task.error_name} {error:.2f}"
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
        return _finish(retraining, job.state, data, guess, folder, title, splits, keep)


class _Speed:
    """How many words, or images, training goes through in a second."""

    def __init__(self, per_batch: int):
        self._per_batch, self._batches, self._seconds = per_batch, -1, 0.0

    @contextlib.contextmanager
    def of(self, batches: int) -> Iterator[None]:
        """Times so many batches; the first call compiles and is not counted."""
        start = time.monotonic()
        yield
        if self._batches >= 0:
            self._batches += batches
            self._seconds += time.monotonic() - start
        self._batches = max(self._batches, 0)

    def batches_of_a_call(self) -> int:
        """How many a call may have to take about ``SECONDS_OF_A_CALL``."""
        if not self._seconds:
            return 1
        return max(1, int(SECONDS_OF_A_CALL * self._batches / self._seconds))

    def __str__(self) -> str:
        if not self._seconds:
            return ""
        return f", {self._batches * self._per_batch / self._seconds:,.0f} a second"


def _record(state: State, batches: int) -> dict[str, Any]:
    return {
        "train_loss": finite(state.loss / batches),
        "valid_loss": finite(state.last.loss),
        "valid_error": finite(state.last.error),
        "averaged_steps": int(state.averaged),
        "skipped": int(state.skipped),
    }


REMEDY = (
    "Lower the learning rate (config.retrain.optimizer), or raise "
    "config.retrain.epochs."
)
_TOLD = {"valid": "validation"}


def _diverged(folder: Path, how: str) -> UserError:
    return UserError(
        f"{folder}: training from scratch diverged, {how}. Lower the learning rate or "
        "clip_norm (config.retrain.optimizer), and give another --workdir."
    )


def _finish(
    retraining, state, data, guess, folder, title, splits, keep
) -> dict[str, Any]:
    task = retraining.task
    space, architecture = task.space, Architecture(state.choice)
    found: dict[str, Any] = {
        "architecture": np.asarray(state.choice).tolist(),
        "error_name": task.error_name,
        "parameters": int(space.costs(architecture)["parameters"]),
        "averaged_steps": int(state.averaged),
    }
    found["guess"] = guess._asdict()
    told = []
    for split in splits:
        evaluation = retraining.evaluate(state, data, split)
        loss, error = (float(each) for each in evaluation)
        if not np.isfinite(loss) or not np.isfinite(state.lowest.loss):
            raise _diverged(folder, f"a loss of {loss} on {split} data")
        found[f"{split}_loss"] = loss
        found[f"{split}_error"] = error
        found |= _measures(retraining, None, state, data, split)
        told.append(f"{error:.2f} on {_TOLD.get(split, split)} data")
    # The task's own metrics, of the split that nothing else is done with.
    measured = found.get(f"{splits[-1]}_metrics", {})
    own = "".join(
        f"{name} {value:.4g}, " for name, value in measured.items() if value is not None
    )
    if keep is not None:
        keep(_kept(retraining, state, data, found, splits))
    write_atomically(folder / RETRAINED_FILE, to_json(found))
    print(
        f"{title}: {task.error_name} {' and '.join(told)}, "
        f"{own}{found['parameters']:,} parameters.",
        flush=True,
    )
    if "valid" in splits:
        model = Model(title, found["valid_error"], guess)
        print_remark([model], task.error_name, REMEDY)
    return found


def _measures(retraining, statistics, state, data, split) -> dict[str, Any]:
    """The task's own metrics on a split, as they are written; {} without any."""
    found = retraining.measure(statistics, state, data, split)
    values = {name: finite(value) for name, value in found.items()}
    return {f"{split}_metrics": values} if values else {}


def _kept(retraining, state, data, found, splits) -> Kept:
    """The best parameters, and what they are worth where each example is alone."""
    statistics = retraining.statistics(state, data)
    names = ("error_name", "parameters")
    metrics = {name: found[name] for name in names}
    for split in splits:
        evaluation = retraining.evaluate_with(statistics, state, data, split)
        loss, error = (float(each) for each in evaluation)
        metrics |= {f"{split}_loss": finite(loss), f"{split}_error": finite(error)}
        metrics |= _measures(retraining, statistics, state, data, split)
    choice, best, statistics = jax.device_get((state.choice, state.best, statistics))
    return Kept(choice, best, statistics, metrics)
