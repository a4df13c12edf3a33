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
from a saved state takes the same path.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from wpl_jax.devices.compiled import compiled
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.engine.forgetting import forgetting
from wpl_jax.engine.joint_training import (
    Child,
    batches_of_several,
    mean_over_children,
    train_together,
)
from wpl_jax.engine.learner import Learner
from wpl_jax.engine.optimizers import Optimizer
from wpl_jax.engine.state import Epoch, Measured, Selection, Shared, State, key_for
from wpl_jax.engine.training import Skipped, TrainState, train_batches
from wpl_jax.protections.protection import Protection, Trained
from wpl_jax.strategies import Strategy
from wpl_jax.supernet import ALL, Architecture, gather, real_rows, scatter
from wpl_jax.tasks import Data, Evaluation, Task, ranking


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
      children_per_step: How many children are trained at once, by the mean of their
        gradients; divides the children of an epoch.
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
    devices: Devices = ONE_DEVICE

    @property
    def num_judged(self) -> int:
        """How many candidates are judged on the whole validation set."""
        candidates = self.strategy.candidates
        return min(candidates.keep, candidates.proposed)

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
    def init(self, key: jax.Array) -> State:
        """The state before the first epoch; all randomness comes from the key."""
        params = self.task.space.init(key_for(key, "params"))
        strategy = self.strategy.init(key_for(key, "strategy"))
        proposed, keep = self.strategy.candidates.proposed, self.num_judged
        # As the strategy proposes them: choices, or mixtures.
        child = jax.eval_shape(self.strategy.propose, strategy, key)

        def no_architectures(count: int) -> Architecture:
            return jax.tree.map(lambda x: jnp.zeros((count, *x.shape), x.dtype), child)

        return State(
            key=key,
            shared=Shared(
                params, self._transform(0).init(params), self.protection.init(params)
            ),
            strategy=strategy,
            carry=self._init_carries(),
            rate_scale=jnp.float32(1),
            skipped=Skipped(of_epoch=jnp.int32(0), in_row=jnp.int32(0)),
            epoch=Epoch(
                architectures=no_architectures(self.children),
                train_loss=jnp.zeros(self.children),
                err1=_no_evaluations(self.children),
                err2=_no_evaluations(self.children),
                reward=jnp.float32(0),
                entropy=jnp.float32(0),
            ),
            selection=Selection(
                architectures=no_architectures(proposed),
                screened=_no_evaluations(proposed),
                kept=jnp.zeros(keep, jnp.int32),
                judged=_no_evaluations(keep),
            ),
        )

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
            strategy=self.strategy.begin_epoch(state.strategy),
            skipped=state.skipped._replace(of_epoch=jnp.int32(0)),
            epoch=jax.tree.map(jnp.zeros_like, state.epoch),
        )

    def train_child(
        self, state: State, data: Data, epoch: ArrayLike, index: ArrayLike
    ) -> State:
        """Proposes, trains, protects and evaluates one child of an epoch.

        Or several, the first of them ``index``, which are trained together.
        """
        state = self.train_and_protect(state, data, epoch, index)
        seen = state.epoch
        err1 = self._validate(
            state, seen.architectures, seen.err1, index, self.children_per_step, data
        )
        return state._replace(epoch=seen._replace(err1=err1))

    @compiled(donate_argnames="state")
    def train_and_protect(
        self, state: State, data: Data, epoch: jax.Array, index: jax.Array
    ) -> State:
        """Proposes, trains and protects the child, or those trained together."""
        train = self._train_one if self.children_per_step == 1 else self._train_several
        return train(state, data, epoch, index)

    def _train_one(self, state, data, epoch, index):
        """On the child's own parameters, at a child's cost."""
        architecture = self.strategy.propose(
            state.strategy, key_for(state.key, "propose", epoch, index)
        )
        rows = self.task.space.rows(architecture)
        rows_of_all = self._rows_of_all(state.shared, rows)
        child, axis = gather(state.shared, rows_of_all), self.devices.batch
        train_state, skipped, loss = train_batches(
            self.task,
            self._transform(epoch, state.rate_scale),
            TrainState(child.params, child.opt_state, state.carry),
            state.skipped,
            architecture,
            data,
            # Epochs go on in the data where the one before ended.
            (epoch * self.children + index) * self.batches,
            self.batches,
            key_for(state.key, "train", epoch, index),
            axis,
        )
        child = child._replace(
            params=train_state.params, opt_state=train_state.opt_state
        )
        trained = Trained(child.params, architecture, epoch * self.children + index)

        def find():
            key = key_for(state.key, "fisher", epoch, index)
            found = self.protection.estimate(trained, self.task, data, key, axis)
            return found, real_rows(child.params, rows)

        child = self._protect(child, rows, epoch, find)
        seen = state.epoch
        return state._replace(
            shared=scatter(state.shared, rows_of_all, child),
            carry=train_state.carry,
            skipped=skipped,
            epoch=seen._replace(
                architectures=jax.tree.map(
                    lambda all, new: all.at[index].set(new),
                    seen.architectures,
                    architecture,
                ),
                train_loss=seen.train_loss.at[index].set(loss),
            ),
        )

    def _train_several(self, state, data, epoch, index):
        """On all shared parameters, each child on batches of its own."""
        numbers = index + jnp.arange(self.children_per_step)

        def keys(purpose):
            return jax.vmap(lambda i: key_for(state.key, purpose, epoch, i))(numbers)

        propose = functools.partial(self.strategy.propose, state.strategy)
        architectures = jax.vmap(propose)(keys("propose"))
        done = (epoch * self.children + index) // self.children_per_step * self.batches
        first, stride = batches_of_several(
            self.task, data, done, self.children_per_step
        )
        train_state, skipped, loss = train_together(
            self.task,
            self._transform(epoch, state.rate_scale),
            TrainState(state.shared.params, state.shared.opt_state, state.carry),
            state.skipped,
            Child(architectures, first, keys("train")),
            data,
            self.batches,
            stride,
            self.devices,
        )
        params, opt_state, carry = train_state
        shared = state.shared._replace(params=params, opt_state=opt_state)

        def estimate(params, child):
            trained = Trained(
                params, child.architecture, epoch * self.children + child.step
            )
            found = self.protection.estimate(trained, self.task, data, child.key)
            return found, jnp.isfinite(optax.tree.norm(found)), ()

        def find():
            children = Child(architectures, numbers, keys("fisher"))
            found, used, _ = mean_over_children(
                params, self.task.space.rows, estimate, children, self.devices
            )
            return found, used

        rows = self.task.space.rows(jax.tree.map(lambda x: x[0], architectures))
        seen = state.epoch
        return state._replace(
            shared=self._protect(shared, rows, epoch, find),
            carry=carry,
            skipped=skipped,
            epoch=seen._replace(
                architectures=_put(seen.architectures, index, architectures),
                train_loss=_put(seen.train_loss, index, loss),
            ),
        )

    def _protect(self, shared, rows, epoch, find):
        """Lets the protection remember what was trained, from its first epoch on."""

        def remember(memory, opt_state):
            found, used = find()
            alpha = self.protection.alpha(epoch)
            return self.protection.remember(
                memory, opt_state, shared.params, found, used, rows, alpha
            )

        def remember_if_finite(*old):
            new = remember(*old)
            # A child that explodes has a Fisher without a meaning, and without an end.
            sound = jnp.isfinite(optax.tree.norm(new))
            return jax.tree.map(lambda a, b: jnp.where(sound, a, b), new, old)

        memory, opt_state = jax.lax.cond(
            self.protection.active(epoch),
            remember_if_finite,
            lambda *unchanged: unchanged,
            shared.memory,
            shared.opt_state,
        )
        return shared._replace(memory=memory, opt_state=opt_state)

    def evaluate_again(self, state: State, data: Data, index: ArrayLike) -> State:
        """Takes err2 of children of the epoch, the first of them ``index``."""
        seen, count = state.epoch, self.at_once("evaluate")
        err2 = self._validate(state, seen.architectures, seen.err2, index, count, data)
        return state._replace(epoch=seen._replace(err2=err2))

    def learn(
        self, state: State, data: Data, epoch: ArrayLike, first: ArrayLike, steps: int
    ) -> State:
        """Lets the strategy learn for some of its steps in an epoch."""
        strategy, learned = Learner(self.task, self.strategy, self.devices).learn(
            state.strategy, state.shared.params, data, state.key, epoch, first, steps
        )
        share = np.float32(steps / self.strategy.steps)
        seen = state.epoch
        return state._replace(
            strategy=strategy,
            epoch=seen._replace(
                reward=seen.reward + share * learned.reward,
                entropy=seen.entropy + share * learned.entropy,
            ),
        )

    @compiled()
    def measure(self, state: State, epoch: jax.Array) -> Measured:
        """What an epoch was, after its last call."""
        seen = state.epoch
        return Measured(
            loss=forgetting(seen.err1.loss, seen.err2.loss),
            error=forgetting(seen.err1.error, seen.err2.error),
            err1=seen.err1.loss,
            err2=seen.err2.loss,
            child_error=jnp.mean(seen.err2.error),
            train_loss=jnp.mean(seen.train_loss),
            child_reward=jnp.mean(self.task.reward(seen.err2)),
            reward=self._if_learned(seen.reward),
            entropy=self._if_learned(seen.entropy),
            best=seen.architectures.choice[ranking(seen.err2)[0]],
            alpha=self.protection.active(epoch) * self.protection.alpha(epoch),
            rate=self.optimizer.rate(epoch) * state.rate_scale,
            skipped=state.skipped.of_epoch,
        )

    @compiled(donate_argnames="state")
    def propose(self, state: State) -> State:
        """Draws the candidates for the best, after the last epoch."""
        keys = jax.random.split(
            key_for(state.key, "derive"), self.strategy.candidates.proposed
        )
        propose = functools.partial(self.strategy.propose, state.strategy)
        return state._replace(
            selection=state.selection._replace(architectures=jax.vmap(propose)(keys))
        )

    def screen(self, state: State, data: Data, index: ArrayLike) -> State:
        """Judges candidates on a few validation batches, from ``index`` on."""
        selection = state.selection
        screened = self._validate(
            state,
            selection.architectures,
            selection.screened,
            index,
            self.at_once("screen"),
            data,
            self.strategy.candidates.screen_batches,
        )
        return state._replace(selection=selection._replace(screened=screened))

    @compiled(donate_argnames="state")
    def keep(self, state: State) -> State:
        """Keeps the best of the candidates, once all have been screened."""
        selection = state.selection
        kept = ranking(selection.screened)[: self.num_judged]
        return state._replace(selection=selection._replace(kept=kept))

    def judge(self, state: State, data: Data, index: ArrayLike) -> State:
        """Judges kept candidates on all validation data, from ``index`` on."""
        selection = state.selection
        kept = _from(selection.kept, index, self.at_once("judge"))
        found = Evaluator(self.task, self.devices).evaluate(
            state.shared.params, _at(selection.architectures, kept), data, "valid"
        )
        judged = _put(selection.judged, index, found)
        return state._replace(selection=selection._replace(judged=judged))

    def _validate(
        self, state, architectures, evaluations, index, count, data, batches=None
    ):
        """Evaluates some of the architectures, and puts it among the evaluations."""
        found = Evaluator(self.task, self.devices).validate(
            state.shared.params,
            _from(architectures, index, count),
            data,
            np.int32(batches or self.eval_batches),
        )
        return _put(evaluations, index, found)

    def _init_carries(self):
        """One, or one for each of the children that are trained together."""
        carry = self.task.init_carry()
        if self.children_per_step == 1:
            return carry
        return jax.tree.map(lambda x: jnp.stack([x] * self.children_per_step), carry)

    def _if_learned(self, mean):
        return mean if self.strategy.steps else jnp.full_like(mean, jnp.nan)

    def _transform(self, epoch: Any, scale: Any = 1.0):
        """The optimizer of an epoch, under the penalty."""
        epoch = jnp.asarray(epoch, jnp.int32)
        rate = self.optimizer.rate(epoch) * scale
        return self.protection.wrap(
            self.optimizer.transform(rate), rate, self.protection.alpha(epoch)
        )

    def _rows_of_all(self, shared: Shared, rows: Any) -> Shared:
        """The child's rows of the optimizer state and of the memory as well."""
        return Shared(
            params=rows,
            opt_state=optax.tree.map_params(
                self._transform(0),
                lambda _, index: index,
                shared.opt_state,
                rows,
                transform_non_params=lambda _: ALL,
            ),
            memory=self.protection.memory_rows(rows),
        )


def _no_evaluations(count: int) -> Evaluation:
    return Evaluation(jnp.zeros(count), jnp.zeros(count))


@jax.jit
def _at(tree: Any, index: ArrayLike) -> Any:
    return jax.tree.map(lambda x: x[index], tree)


@functools.partial(jax.jit, static_argnames="count")
def _from(tree: Any, first: ArrayLike, count: int) -> Any:
    """So many from there on; if there are not enough, the last ones."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, count), tree)


@jax.jit
def _put(tree: Any, first: ArrayLike, new: Any) -> Any:
    """Puts back what :func:`_from` took, or what was made of it."""

    def put(old, new):
        return jax.lax.dynamic_update_slice_in_dim(old, new, first, 0)

    return jax.tree.map(put, tree, new)
