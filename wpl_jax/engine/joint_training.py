"""Training on the whole of the shared parameters: several children at once, replay.

Shared weights are updated by the mean of several children's gradients (Pham et al.,
2018, equation 2, with more than one sampled model). With replay, the losses of earlier
children (companions) are added to that of a child. The gradient of a parameter is
averaged over the children that use it.

A step works on all shared parameters, and costs more than a step on the rows of one
child. It is faster only where each device trains a child of its own. It is necessary
where the architecture changes from step to step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.slope import Slope
from wpl_jax.engine.trainer import (
    Companions,
    Estimate,
    Progress,
    Stretch,
    Trainer,
    first_of,
    key_of_strategy,
    mean_of_finite,
)
from wpl_jax.engine.training import (
    Batch,
    Step,
    TrainState,
    finite_norms,
    gradient_of_batch,
    stepped_by,
)
from wpl_jax.strategies import Strategy
from wpl_jax.supernet import ALL, Architecture, add_rows, gather, mask
from wpl_jax.tasks.task import Data, Task


class Child(NamedTuple):
    """A child in a step; several have arrays with a leading axis."""

    architecture: Architecture
    step: jax.Array  # int32[]; number of its training batch
    key: jax.Array


class Item(NamedTuple):
    """A child or a companion in a step; several have arrays with a leading axis."""

    architecture: Architecture
    step: jax.Array  # int32[]; number of its training batch, or of itself for a Fisher
    key: jax.Array
    carry: Any = ()
    weight: jax.Array | float = 1.0  # float32[]; of its loss
    counts: jax.Array | float = 1.0  # float32[]; 1 for a child, 0 for a companion


def mean_over_children(
    shared: Any,
    rows_of: Callable[[Architecture], Any],
    each: Callable[[Any, Any], tuple[Any, jax.Array, Any]],
    items: Item,
    devices: Devices,
) -> tuple[Any, Any, Any]:
    """The mean of a value, such as a gradient, over the children that use a parameter.

    Args:
      shared: The shared parameters.
      rows_of: The rows that an architecture uses.
      each: A function of a child's parameters and its item. It returns the value, a
        tree like these parameters, whether the value is finite, and other results.
      items: The children and their companions, along a leading axis of all arrays.
      devices: Devices that divide the items.

    Returns:
      A tree like ``shared``: the weighted sum of the finite values, divided by the
      number of children that use a parameter, 0 for unused parameters. A tree of
      ``bool`` that broadcasts to it, True for used parameters. The other results,
      stacked.
    """

    def add(totals, item):
        rows = rows_of(item.architecture)
        found, sound, beside = each(gather(shared, rows), item)
        found = jax.tree.map(
            lambda x: jnp.where(sound, (item.weight * x).astype(x.dtype), 0), found
        )
        # An item without weight is an empty place of replay's archive.
        there = sound & (item.weight != 0)
        used = jax.tree.map(lambda m: m * there, mask(shared, rows))
        count = jax.tree.map(lambda m: m * item.counts, used)
        total = add_rows(totals[0], rows, found)
        return (total, *jax.tree.map(jnp.add, totals[1:], (count, used))), beside

    first = rows_of(first_of(items.architecture))
    unused = mask(shared, first)
    nothing = jax.tree.map(jnp.zeros_like, (shared, unused, unused))
    (total, count, used), beside = devices.children.accumulate(add, nothing, items)
    mean = jax.tree.map(lambda t, n: t / jnp.maximum(n, 1), total, count)
    return mean, jax.tree.map(lambda n: n > 0, used), beside


def batches_of_several(
    task: Task, data: Data, done: jax.Array, children: int
) -> tuple[jax.Array, int]:
    """The numbers of batches that children take when they are trained together.

    Where each batch continues the one before, as in a text, the text is divided into
    one part for each place. A child continues where the last child in its place ended.

    Args:
      task: The task of the search.
      data: Of the task.
      done: Batches that each place has had, ``int32[]``.
      children: Number of children that are trained together.

    Returns:
      The number of each child's first batch, ``int32[children]``, and the distance from
      one of its batches to the next.
    """
    places = jnp.arange(children)
    if not jax.tree.leaves(task.init_carry()):
        return done * children + places, children
    return places * (task.num_batches(data, "train") // children) + done, 1


@dataclasses.dataclass(frozen=True)
class Together(Trainer):
    """Trains children on all shared parameters.

    Attributes:
      task: The task whose loss is minimised.
      strategy: May learn before each batch, if there is one child.
      batches: Batches of each child in a call.
      devices: Devices that divide the children, or else the batch of each.
      children: Number of children that are trained together.
    """

    task: Task
    strategy: Strategy
    batches: int
    devices: Devices
    children: int

    def init_carry(self) -> Any:
        """The carry of each child before the first batch."""
        carry = self.task.init_carry()
        return jax.tree.map(lambda x: jnp.stack([x] * self.children), carry)

    def rows(self, architectures: Architecture) -> Any:
        """All of the shared parameters."""
        rows = self.task.space.rows(first_of(architectures))
        return jax.tree.map(lambda _: ALL, rows)

    def train(
        self,
        transform: optax.GradientTransformationExtraArgs,
        progress: Progress,
        stretch: Stretch,
        data: Data,
    ) -> tuple[Progress, jax.Array]:
        """Takes steps, each on one batch of every child; see :meth:`Trainer.train`.

        The numbers of the first batches are those of a search that trains one child at
        a time.
        """
        done = stretch.first[0] // self.children
        first, stride = batches_of_several(self.task, data, done, self.children)

        def step(progress, i):
            children = Child(
                progress.architectures,
                first + i * stride,
                jax.vmap(jax.random.fold_in, (0, None))(stretch.keys, i),
            )
            return self._step(transform, progress, children, stretch.companions, data)

        axis = self.devices.batch
        progress = progress.with_carry(_of_each_child(axis.shard))
        progress, loss = jax.lax.scan(step, progress, jnp.arange(self.batches))
        progress = progress.with_carry(_of_each_child(axis.all_gather))
        return progress, mean_of_finite(loss)

    def _step(self, transform, progress, children, companions, data):
        """A step on one batch of each child; the strategy may learn before it."""
        _, strategy, train_state, skipped = progress
        if self.children == 1:
            strategy, children = self._let_learn(
                strategy, children, transform, train_state, data
            )
        train_state, told = joint_step(
            self.task,
            transform,
            train_state,
            children,
            companions,
            data,
            self.devices,
            norms=self.strategy.uses_norms,
        )
        if self.strategy.uses_norms:
            strategy = self.strategy.after_step(
                strategy, children.architecture, told.norms
            )
        skipped = skipped.after(told.sound)
        progress = Progress(children.architecture, strategy, train_state, skipped)
        return progress, told.loss

    def _let_learn(self, strategy, children, transform, train_state, data):
        """Lets the strategy learn before a batch of the one child."""
        child, carry = first_of((children, train_state.carry))

        def child_of(architecture):
            return gather(train_state.params, self.task.space.rows(architecture))

        slope = Slope(
            self.task,
            child_of,
            Batch(data, child.step, child.key, self.devices.batch),
            carry,
            stepped_by(transform, train_state.opt_state),
        )
        strategy, architecture = self.strategy.step(
            strategy, child.architecture, slope, key_of_strategy(child.key)
        )
        architectures = jax.tree.map(lambda x: x[None], architecture)
        return strategy, children._replace(architecture=architectures)

    def estimate(
        self, params: Any, architectures: Architecture, each: Estimate, keys: jax.Array
    ) -> tuple[Any, Any]:
        """The mean over the children that use a parameter; see `Trainer.estimate`."""

        def one(child, item):
            found = each(
                child, item.architecture, item.step, item.key, self.devices.batch
            )
            return found, jnp.isfinite(optax.tree.norm(found)), ()

        ones = jnp.ones(self.children)
        places = jnp.arange(self.children)
        items = Item(architectures, places, keys, (), ones, ones)
        found, used, _ = mean_over_children(
            params, self.task.space.rows, one, items, self.devices
        )
        return found, used


def _of_each_child(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Applies a function to each child's part of a carry, which may have no arrays."""
    return lambda carry: jax.tree.map(jax.vmap(change), carry)


def joint_step(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    train_state: TrainState,
    children: Child,
    companions: Companions | None,
    data: Data,
    devices: Devices,
    norms: bool = False,
) -> tuple[TrainState, Step]:
    """A step of several children, each on its own batch, which its companions share.

    Parameters that none of them uses do not change, and neither does their optimizer
    state. Children whose loss or gradient is not finite are left out.

    Args:
      task: The task whose loss is minimised.
      transform: The optimizer.
      train_state: The shared parameters, their optimizer state, and a carry for each
        child.
      children: The children.
      companions: Of each child; None if there are none.
      data: Of the task.
      devices: Devices that divide the children, or else the batch of each.
      norms: Whether the norms of each child's gradient are computed.

    Returns:
      The train state after the step, and each child's loss and whether it was finite.
    """
    shared, opt_state, carries = train_state

    def gradient_of(params, item):
        batch = Batch(data, item.step, item.key, devices.batch)
        gradient, carry, loss, sound = gradient_of_batch(
            task, params, item.architecture, batch, item.carry
        )
        told = Step(loss, sound)
        if norms:
            of_choices = finite_norms(task, item.architecture, gradient, sound)
            told = told._replace(norms=of_choices)
        return gradient, sound, (carry, told)

    items, each = _items(children, companions, carries)
    gradient, used, beside = mean_over_children(
        shared, task.space.rows, gradient_of, items, devices
    )
    new_carries, told = jax.tree.map(lambda x: x[::each], beside)
    # The mask keeps the penalty on unused parameters out of the gradient's norm.
    updates, new_state = optax.with_extra_args_support(transform).update(
        gradient, opt_state, shared, mask=used
    )
    sound = jnp.isfinite(optax.tree.norm(updates)) & jnp.any(told.sound)
    used = jax.tree.map(lambda there: there & sound, used)
    used_state = optax.tree.map_params(
        transform,
        lambda _, there: there,
        opt_state,
        used,
        transform_non_params=lambda _: sound,
    )
    shared, opt_state = jax.tree.map(
        jnp.where,
        (used, used_state),
        (optax.apply_updates(shared, updates), new_state),
        (shared, opt_state),
    )
    told = told._replace(sound=told.sound & sound)

    def where_sound(new, old):
        return jnp.where(told.sound.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    carries = jax.tree.map(where_sound, new_carries, carries)
    return TrainState(shared, opt_state, carries), told


def _items(
    children: Child, companions: Companions | None, carries: Any
) -> tuple[Item, int]:
    """Items of the children, each before its companions, and the items for a child."""
    count = len(children.step)
    if companions is None:
        ones = jnp.ones(count)
        return Item(*children, carry=carries, weight=ones, counts=ones), 1
    each = companions.weights.shape[1]

    def with_companions(own, others):
        own = jnp.expand_dims(own, 1)
        return jnp.concatenate([own, others], 1).reshape(-1, *own.shape[2:])

    architectures = jax.tree.map(
        with_companions, children.architecture, companions.architectures
    )
    places = jnp.repeat(jnp.arange(count), each)
    step, key, carry = jax.tree.map(
        lambda x: x[places], (children.step, children.key, carries)
    )
    counts = jnp.tile(jnp.arange(each) == 0, count).astype(jnp.float32)
    weights = companions.weights.reshape(-1)
    return Item(architectures, step, key, carry, weights, counts), each
