"""Training of one architecture with averaged SGD, as compiled functions.

Merity et al., "Regularizing and Optimizing LSTM Language Models" (2017): SGD at a
constant rate until the validation error has not improved for some epochs, and from
then on the average of the weights (NT-ASGD). The weights with the lowest validation
error are kept.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.settings import check_int, check_parts
from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.engine.optimizers import Optimizer
from wpl_jax.engine.training import Batch, TrainState, train_step
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks import Data, Evaluation, Task, check_task

_MOST_PATIENCE = 10_000  # epochs, whose errors are part of the state


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
    loss: jax.Array  # float32[]; sum over this epoch's batches whose step was finite
    finite: jax.Array  # int32[]; how many these are
    skipped: jax.Array  # int32[]; steps that were not finite


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
        check_task(self)
        check_parts(self, but=("task",))
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
            finite=jnp.int32(0),
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
                finite=state.finite + told.sound,
                skipped=state.skipped + ~told.sound,
            )

        state = state._replace(
            loss=jnp.where(first == 0, 0, state.loss),
            finite=jnp.where(first == 0, 0, state.finite),
            carry=axis.shard(state.carry),
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
