"""Steps of several children at once: shared weights move by the mean of them.

Pham et al. (2018), equation 2, with more than one sampled model. Between the children
a parameter is averaged over those that use it. It works on the whole of the shared
parameters, where a step of one child costs what the child costs: worth it where each
device trains a child of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.training import (
    Skipped,
    Step,
    TrainState,
    gradient_of_batch,
    mean_of_finite,
)
from wpl_jax.supernet import Architecture, add_rows, gather, mask
from wpl_jax.tasks.task import Data, Task


class Child(NamedTuple):
    """One of the children that are trained together; of several, arrays of all."""

    architecture: Architecture
    step: jax.Array  # int32[]; number of its training batch, for a Fisher its own
    key: jax.Array
    carry: Any = ()  # of its own; joint_step takes that of the train state


def mean_over_children(
    shared: Any,
    rows_of: Callable[[Architecture], Any],
    each: Callable[[Any, Any], tuple[Any, jax.Array, Any]],
    children: Any,
    devices: Devices,
) -> tuple[Any, Any, Any]:
    """The mean of something that each child has for its own parameters.

    Args:
      shared: The shared parameters.
      rows_of: Which rows an architecture uses.
      each: Of a child's parameters and the child: a tree like the former, whether it
        is sound, and anything beside it.
      children: With their ``architecture``, along a leading axis of all arrays.
      devices: Among which they are divided.

    Returns:
      A tree like ``shared`` with the mean over those sound children that use a
      parameter, 0 where there is none; a tree of which are used, ``bool``, that
      broadcasts to it; and what there was beside, stacked.
    """

    def add(total, child):
        rows = rows_of(child.architecture)
        found, sound, beside = each(gather(shared, rows), child)
        found = jax.tree.map(lambda x: jnp.where(sound, x, 0), found)
        used = jax.tree.map(lambda m: m * sound, mask(shared, rows))
        total = add_rows(total[0], rows, found), jax.tree.map(jnp.add, total[1], used)
        return total, beside

    first = rows_of(jax.tree.map(lambda x: x[0], children.architecture))
    nothing = jax.tree.map(jnp.zeros_like, (shared, mask(shared, first)))
    (total, count), beside = devices.children.accumulate(add, nothing, children)
    mean = jax.tree.map(lambda t, n: t / jnp.maximum(n, 1), total, count)
    return mean, jax.tree.map(lambda n: n > 0, count), beside


def batches_of_several(
    task: Task, data: Data, done: jax.Array, children_per_step: int
) -> tuple[jax.Array, int]:
    """The numbers of batches that children take when they are trained together.

    Where batches follow each other, as those of a text do, each child goes on where
    the one in its place before has stopped, in its own stretch of them.

    Args:
      task: Whose batches they are.
      data: Of the task.
      done: How many each place has had, ``int32[]``.
      children_per_step: How many children there are.

    Returns:
      The first of each, ``int32[children_per_step]``, and how far it is to the next.
    """
    places = jnp.arange(children_per_step)
    if not jax.tree.leaves(task.init_carry()):
        return done * children_per_step + places, children_per_step
    return places * (task.num_batches(data, "train") // children_per_step) + done, 1


def train_together(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    train_state: TrainState,
    skipped: Skipped,
    children: Child,
    data: Data,
    batches: int,
    stride: int,
    devices: Devices,
) -> tuple[TrainState, Skipped, jax.Array]:
    """Steps of several children, on one batch of each after the other.

    Args:
      task: Whose loss is minimised.
      transform: The optimizer.
      train_state: The shared parameters, their optimizer state and a stream a child.
      skipped: Steps before these.
      children: Each with its first batch, and the key of all of its steps.
      data: Of the task.
      batches: How many each takes.
      stride: How far it is from a batch of a child to its next.
      devices: Among which the children are divided.

    Returns:
      The train state and the skipped steps after it, and the mean nats of each child's
      batches on which they were finite.
    """

    def step(carry, i):
        train_state, skipped = carry
        now = children._replace(
            step=children.step + i * stride,
            key=jax.vmap(jax.random.fold_in, (0, None))(children.key, i),
        )
        train_state, (loss, sound) = joint_step(
            task, transform, train_state, now, data, devices
        )
        return (train_state, skipped.after(sound)), loss

    (train_state, skipped), loss = jax.lax.scan(
        step, (train_state, skipped), jnp.arange(batches)
    )
    return train_state, skipped, mean_of_finite(loss)


def joint_step(
    task: Task,
    transform: optax.GradientTransformationExtraArgs,
    train_state: TrainState,
    children: Child,
    data: Data,
    devices: Devices,
) -> tuple[TrainState, Step]:
    """A step of several children at once, each on a batch of its own.

    What none of them uses stays as it is, with all that the optimizer remembers of
    it. A child whose loss or gradient is not finite is left out.

    Args:
      task: Whose loss is minimised.
      transform: The optimizer.
      train_state: The shared parameters, their optimizer state and a stream a child.
      children: Those that take the step.
      data: Of the task.
      devices: Among which the children are divided.

    Returns:
      The train state after the step, and what is told of each child's.
    """
    shared, opt_state, streams = train_state

    def gradient_of(params, child):
        gradient, carry, loss, sound = gradient_of_batch(
            task,
            params,
            child.architecture,
            data,
            child.carry,
            child.step,
            child.key,
        )
        return gradient, sound, (carry, Step(loss, sound))

    gradient, used, (new_streams, told) = mean_over_children(
        shared,
        task.space.rows,
        gradient_of,
        children._replace(carry=streams),
        devices,
    )
    # Masked: the penalty's pull on what is not used would count as a gradient's norm.
    updates, new_state = optax.with_extra_args_support(transform).update(
        gradient, opt_state, shared, mask=used
    )
    sound = jnp.isfinite(optax.tree.norm(updates))
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

    streams = jax.tree.map(where_sound, new_streams, streams)
    return TrainState(shared, opt_state, streams), told
