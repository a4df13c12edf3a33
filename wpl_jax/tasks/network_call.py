"""How a task calls the network of a space.

The space's ``apply(child, architecture, inputs)`` returns an array or
:class:`wpl_jax.spaces.images.Outputs`. It is given what it has an argument for:

- ``noise``, a :class:`wpl_jax.spaces.images.Noise`, or ``key``: the randomness of a
  training step; None in evaluation.
- ``batch_stats``: batch statistics to normalize with, as an earlier call returned them;
  None for those of the batch.
- ``axis``: the devices that share the batch.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces.images import Noise, Outputs
from wpl_jax.supernet import Architecture, Space


def standardized(inputs: jax.Array, mean: Any, deviation: Any) -> jax.Array:
    """Inputs by mean and deviation of each feature or channel, the last axis.

    Args:
      inputs: ``[batch, ..., features]``.
      mean: Over the training examples, ``float32[features]``.
      deviation: Standard deviation, the same.

    Returns:
      ``float32[batch, ..., features]``.
    """
    return (inputs.astype(jnp.float32) - mean) / deviation


def call(
    space: Space,
    child: Any,
    architecture: Architecture,
    inputs: jax.Array,
    *,
    noise: Noise | None = None,
    batch_stats: Any = None,
    axis: Axis = NO_AXIS,
) -> Outputs:
    """Runs a child on a batch.

    Args:
      space: The space.
      child: Parameters of the child.
      architecture: The child, or a mixture.
      inputs: The batch.
      noise: Of a training step; None in evaluation.
      batch_stats: Batch statistics to normalize with; None for those of the batch.
      axis: Devices that share the batch.

    Returns:
      What it returns; without batch statistics if it returned an array.
    """
    given = {
        "noise": noise,
        "key": None if noise is None else noise.key,
        "batch_stats": batch_stats,
        "axis": axis,
    }
    own = {name: given[name] for name in _arguments(type(space))}
    found = space.apply(child, architecture, inputs, **own)
    if isinstance(found, Outputs):
        return found
    return Outputs(found, None, ())


@functools.cache
def _arguments(cls: type) -> tuple[str, ...]:
    """Which of the arguments a space's ``apply`` has."""
    names = inspect.signature(cls.apply).parameters  # type: ignore[attr-defined]
    known = ("noise", "key", "batch_stats", "axis")
    return tuple(name for name in known if name in names)
