"""A search with shared weights (Benyahia et al., 2019, section 3.2).

    for each epoch:
      for each child of the epoch:
        sample an architecture                          train_child
        train it under the penalty, on some batches
        evaluate it (err1)
        estimate its Fisher, move the anchor
      evaluate all of the epoch's children again (err2)  evaluate_again
      let the strategy learn from validation rewards    learn

Each name on the right is a method that takes the whole state to the next, by compiled
functions that serve every architecture, epoch and strength of the penalty; what has
nothing to do with the penalty is compiled once for all penalties. Randomness is a
function of the seed and of the position in the search, so that a search that goes on
from a saved state takes the same path. The order of the training examples is a function
of the position alone, the same for all seeds.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from wpl_jax.common.settings import check_int, check_parts
from wpl_jax.devices.choice import check_children
from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.engine.compatibility import check_compatibility
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.engine.forgetting import forgetting
from wpl_jax.engine.learner import Learner
from wpl_jax.engine.optimizers import Optimizer
from wpl_jax.engine.plan import check_counts
from wpl_jax.engine.protected import Protected
from wpl_jax.engine.selector import Selector
from wpl_jax.engine.several import no_evaluations, put_back, some_from, zeros_of
from wpl_jax.engine.state import Epoch, Measured, Shared, State, key_for
from wpl_jax.engine.trainer import Progress, Skipped, Stretch, Trainer
from wpl_jax.engine.training import TrainState
from wpl_jax.engine.updates import Joint, Update
from wpl_jax.protections.protection import Protection, Trained
from wpl_jax.strategies import Strategy
from wpl_jax.strategies.rewards import Reward, TaskReward, finite_reward
from wpl_jax.supernet import Architecture, gather, scatter
from wpl_jax.tasks import Data, Task, check_task

# Measurements of what mixtures are discretized to, None without mixtures.
_OF_DERIVED = ("derived_loss", "derived_error", "gap_loss", "gap_error")


@dataclasses.dataclass(frozen=True)
class Search:
    """The compiled functions of a search.

    Attributes:
      task: What children are trained and judged on.
      strategy: Who proposes them.
      protection: What protects the weights that they share.
      optimizer: How they are trained.
      children: How many an epoch trains.
      batches: Batches that each is trained on.
      eval_batches: Validation batches of err1 and err2, the same for all.
      children_per_step: How many children are trained in one call; divides the
        children of an epoch.
      update_rule: How these change the shared weights.
      average_from: First epoch of those over whose ends the shared weights are averaged
        for the selection (Ning et al., 2021); None for no average.
      reward: What the strategy learns from, and what may be selected.
      devices: What it all runs on. They change results by no more than rounding.
    """

    task: Task
    strategy: Strategy
    protection: Protection
    optimizer: Optimizer
    children: int
    batches: int
    eval_batches: int
    children_per_step: int = 1
    update_rule: Update = dataclasses.field(default_factory=Joint)
    average_from: int | None = None
    reward: Reward = dataclasses.field(default_factory=TaskReward)
    devices: Devices = ONE_DEVICE

    def __post_init__(self) -> None:
        """Checks the parts, and that they go together."""
        check_task(self)
        check_parts(self, but=("task",))
        check_counts(self)
        check_children(self.devices, self.children_per_step)
        check_int(self, "average_from", 0, optional=True)
        check_compatibility(self)

    @property
    def num_judged(self) -> int:
        """How many candidates are evaluated again, on more validation data."""
        return self._selector.num_judged

    def at_once(self, phase: str) -> int:
        """How many architectures a call of a phase is for."""
        each_device = {
            "evaluate": self.children,
            "screen": self.strategy.candidates.proposed,
            "judge": self.num_judged,
        }
        if phase in each_device:
            return min(self.devices.count, each_device[phase])
        return self.children_per_step if phase == "train" else 1

    @compiled()
    def init(self, key: jax.Array, params: Any = None) -> State:
        """The state before the first epoch; all randomness comes from the key.

        Args:
          key: PRNG key.
          params: Shared parameters to start from; None for :meth:`init_params`.
        """
        if params is None:
            params = self.init_params(key)
        strategy = self.strategy.init(key_for(key, "strategy"))
        mixes = self._child().weights is not None
        derived = no_evaluations(self.children) if mixes else None
        averaged: Any = ()
        if self.average_from is not None:
            averaged = jax.tree.map(jnp.copy, params)
        return State(
            key=key,
            shared=self._protected.init(params),
            strategy=strategy,
            carry=self._trainer.init_carry(),
            rate_scale=jnp.float32(1),
            skipped=Skipped(of_epoch=jnp.int32(0), in_row=jnp.int32(0)),
            epoch=Epoch(
                architectures=zeros_of(self._child(), self.children),
                train_loss=jnp.zeros(self.children),
                err1=no_evaluations(self.children),
                err2=no_evaluations(self.children),
                derived_err1=derived,
                derived_err2=derived,
                reward=jnp.float32(0),
                entropy=jnp.float32(0),
            ),
            selection=self._selector.init(strategy, key),
            averaged=averaged,
        )

    def init_params(self, key: jax.Array) -> Any:
        """The shared parameters that a search with this key starts from."""
        return self.task.space.init(key_for(key, "params"))

    @compiled(donate_argnames="state")
    def begin_epoch(self, state: State, epoch: jax.Array) -> State:
        """Before the first child of an epoch."""
        memory, opt_state = self.protection.begin_epoch(
            state.shared.memory, state.shared.opt_state, epoch
        )
        # Should rounding ever differ between devices, then not for long.
        params, opt_state, memory = self.devices.every.first(
            (state.shared.params, opt_state, memory)
        )
        return state._replace(
            shared=Shared(params, opt_state, memory),
            strategy=self.strategy.begin_epoch(state.strategy, epoch),
            skipped=state.skipped._replace(of_epoch=jnp.int32(0)),
            epoch=jax.tree.map(jnp.zeros_like, state.epoch)._replace(
                reward=jnp.float32(jnp.nan), entropy=jnp.float32(jnp.nan)
            ),
        )

    def train_child(
        self, state: State, data: Data, epoch: np.int32, index: np.int32
    ) -> State:
        """Proposes, trains, protects and evaluates one child of an epoch.

        Or several, the first of them ``index``, which are trained together.
        """
        state = self.train_and_protect(state, data, epoch, index)
        is_last = index + self.children_per_step == self.children
        if is_last and self.average_from is not None:
            state = self._average(state, epoch)
        return self._take("err1", state, index, self.children_per_step, data)

    @compiled(donate_argnames="state")
    def _average(self, state: State, epoch: jax.Array) -> State:
        """Adds the weights at the end of an epoch to their mean, or replaces it."""
        number = jnp.maximum(epoch - (self.average_from or 0) + 1, 1)

        def add(mean, new):
            return mean + (new - mean) / number

        averaged = jax.tree.map(add, state.averaged, state.shared.params)
        return state._replace(averaged=averaged)

    def weights(self, state: State) -> Any:
        """The shared weights that architectures are selected and ranked with."""
        return state.shared.params if self.average_from is None else state.averaged

    @compiled(donate_argnames="state")
    def train_and_protect(
        self, state: State, data: Data, epoch: jax.Array, index: jax.Array
    ) -> State:
        """Proposes, trains and protects the child, or those trained together."""
        places = index + jnp.arange(self.children_per_step)
        numbers = epoch * self.children + places  # in the whole search

        def keys(purpose):
            return jax.vmap(lambda i: key_for(state.key, purpose, epoch, i))(places)

        architectures = self.strategy.propose_several(state.strategy, keys("propose"))
        rows = self._trainer.rows(architectures)
        rows_of_all = self._protected.rows(state.shared, rows)
        shared = gather(state.shared, rows_of_all)
        companions = self._protected.companions(
            state.shared.memory, architectures, keys("rehearse")
        )
        train_state = TrainState(shared.params, shared.opt_state, state.carry)
        progress, loss = self._trainer.train(
            self._protected.transform(epoch, state.rate_scale, architectures),
            Progress(architectures, state.strategy, train_state, state.skipped),
            Stretch(numbers * self.batches, keys("train"), companions),
            data,
        )
        params, opt_state, carry = progress.train_state
        shared = shared._replace(params=params, opt_state=opt_state)
        trained = Trained(params, progress.architectures, numbers)
        shared = self._protected.remember(
            shared, trained, data, epoch, keys("fisher"), self._trainer
        )
        seen = state.epoch
        return state._replace(
            shared=scatter(state.shared, rows_of_all, shared),
            strategy=progress.strategy,
            carry=carry,
            skipped=progress.skipped,
            epoch=seen._replace(
                architectures=put_back(
                    seen.architectures, index, progress.architectures
                ),
                train_loss=put_back(seen.train_loss, index, loss),
            ),
        )

    @property
    def _trainer(self) -> Trainer:
        """How children are trained."""
        return self.update_rule.trainer(
            self.task,
            self.strategy,
            self.batches,
            self.devices,
            self.children_per_step,
            self._changes_rows,
        )

    @property
    def _changes_rows(self) -> bool:
        """Whether what is trained in a call changes from batch to batch."""
        sampled = self.strategy.differentiable and self._child().weights is None
        return bool(self.protection.companions) or sampled

    @functools.cached_property
    def _protected(self) -> Protected:
        """The shared parameters under the protection."""
        return Protected(
            self.task,
            self.protection,
            self.optimizer,
            self._child(),
            self.children_per_step,
        )

    def _child(self) -> Architecture:
        """The shapes of what the strategy proposes: a choice, or a mixture."""

        def propose(key):
            return self.strategy.propose(self.strategy.init(key), key)

        return jax.eval_shape(propose, jax.eval_shape(lambda: jax.random.key(0)))

    def evaluate_again(self, state: State, data: Data, index: ArrayLike) -> State:
        """Takes err2 of children of the epoch, the first of them ``index``."""
        return self._take("err2", state, index, self.at_once("evaluate"), data)

    def learn(
        self, state: State, data: Data, epoch: np.int32, first: np.int32, steps: int
    ) -> State:
        """Lets the strategy learn for some of its steps in an epoch."""
        learner = Learner(self.task, self.strategy, self.reward, self.devices)
        strategy, learned = learner.learn(
            state.strategy, state.shared.params, data, state.key, epoch, first, steps
        )
        share = np.float32(steps / self.strategy.steps_after(int(epoch)))
        seen, started = state.epoch, int(first) > 0

        def add(total, new):
            return (total if started else 0) + share * new

        return state._replace(
            strategy=strategy,
            epoch=seen._replace(
                reward=add(seen.reward, learned.reward),
                entropy=add(seen.entropy, learned.entropy),
            ),
        )

    @compiled()
    def measure(self, state: State, epoch: jax.Array) -> Measured:
        """What an epoch was, after its last call."""
        seen = state.epoch
        reward = functools.partial(finite_reward, self.reward, self.task)
        lost = jax.tree.map(forgetting, seen.err1, seen.err2)
        architectures = seen.architectures
        of_derived: dict[str, Any] = dict.fromkeys(_OF_DERIVED)
        if seen.derived_err1 is not None and seen.derived_err2 is not None:
            derived = jax.tree.map(forgetting, seen.derived_err1, seen.derived_err2)
            gap = jax.tree.map(jnp.subtract, seen.derived_err2, seen.err2)
            means = jnp.mean(gap.loss), jnp.mean(gap.error)
            of_derived = dict(zip(_OF_DERIVED, (*derived, *means), strict=True))
        return Measured(
            loss=lost.loss,
            error=lost.error,
            **of_derived,
            err1=seen.err1.loss,
            err2=seen.err2.loss,
            child_error=jnp.mean(seen.err2.error),
            train_loss=jnp.mean(seen.train_loss),
            child_reward=jnp.mean(jax.vmap(reward)(seen.err2, architectures)),
            reward=seen.reward,
            entropy=seen.entropy,
            best=architectures.choice[self.strategy.candidates.order(seen.err2)[0]],
            choices=architectures.choice if architectures.weights is None else None,
            errors=seen.err2.error if architectures.weights is None else None,
            alpha=self.protection.active(epoch) * self.protection.alpha(epoch),
            rate=self.optimizer.rate(epoch) * state.rate_scale,
            skipped=state.skipped.of_epoch,
            strategy=self.strategy.watch(state.strategy),
        )

    def propose(self, state: State) -> State:
        """Draws the candidates for the best, after the last epoch."""
        selection = self._selector.propose(state.selection, state.strategy, state.key)
        return state._replace(selection=selection)

    def screen(self, state: State, data: Data, index: ArrayLike) -> State:
        """Evaluates candidates on a few validation batches, from ``index`` on.

        See :class:`wpl_jax.strategies.strategy.Candidates`, also for :meth:`judge`.
        """
        selection = self._selector.screen(
            state.selection, self.weights(state), data, index, self.at_once("screen")
        )
        return state._replace(selection=selection)

    def keep(self, state: State) -> State:
        """Keeps the best of the candidates, once all have been screened."""
        return state._replace(selection=self._selector.keep(state.selection))

    def judge(self, state: State, data: Data, index: ArrayLike) -> State:
        """Evaluates kept candidates on more validation data, from ``index`` on."""
        selection = self._selector.judge(
            state.selection, self.weights(state), data, index, self.at_once("judge")
        )
        return state._replace(selection=selection)

    @property
    def _selector(self) -> Selector:
        return Selector(self.task, self.strategy, self.reward, self.devices)

    def _take(self, name, state, index, count, data):
        """Takes err1 or err2 of children, and of what mixtures are discretized to."""
        seen = state.epoch
        children = {name: seen.architectures}
        if seen.architectures.weights is not None:
            children[f"derived_{name}"] = Architecture(seen.architectures.choice)
        found = {}
        for each, architectures in children.items():
            new = Evaluator(self.task, self.devices).validate(
                state.shared.params,
                some_from(architectures, index, count),
                data,
                np.int32(self.eval_batches),
            )
            found[each] = put_back(getattr(seen, each), index, new)
        return state._replace(epoch=seen._replace(**found))
