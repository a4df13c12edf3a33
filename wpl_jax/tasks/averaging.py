"""How an ensemble averages the predictions of its members."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp


class Averaging(NamedTuple):
    """A mean as a sum that is divided.

    Attributes:
      start: The sum of no predictions.
      add: The sum of a sum and a prediction.
      divide: The mean, from a sum and the number of predictions.
    """

    start: float
    add: Callable[[Any, Any], Any]
    divide: Callable[[Any, Any], Any]


# Of log-probabilities: the logarithm of the mean probability.
OF_PROBABILITIES = Averaging(
    -jnp.inf, jnp.logaddexp, lambda total, count: total - jnp.log(count)
)
OF_OUTPUTS = Averaging(0.0, jnp.add, lambda total, count: total / count)


def averaging_of(task: Any) -> Averaging:
    """That of a task; by default, predictions are log-probabilities."""
    return getattr(task, "averaging", OF_PROBABILITIES)
