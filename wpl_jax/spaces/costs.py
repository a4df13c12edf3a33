"""Costs of children by name, the measured latency among them."""

import dataclasses
from collections.abc import Hashable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.parts import sum_of_uses
from wpl_jax.supernet import Architecture, Space

LATENCY = "latency_ms"
# Costs by name, in the words of reports.
UNITS = {
    "parameters": "parameters",
    "multiply_adds": "multiply-adds",
    LATENCY: "ms of latency",
}
_AT_ONCE = 256  # architectures whose costs are computed at a time


class Latency(NamedTuple):
    """Milliseconds of the parts of a network, measured on a device."""

    call: float  # of a call that computes nothing
    parts: tuple[float, ...]  # of one use of each part


@dataclasses.dataclass(frozen=True)
class Costs:
    """A function of an architecture that returns its costs by name.

    Attributes:
      space: Of the architectures.
      latency: Of its parts; None if it has not been measured.
    """

    space: Space
    latency: Latency | None = None

    def __call__(self, architecture: Architecture) -> dict[str, jax.Array]:
        """The costs of :meth:`wpl_jax.supernet.Space.costs`, and ``"latency_ms"``.

        Args:
          architecture: A child, or a mixture, whose costs are expected ones.
        """
        found = self.space.costs(architecture)
        if self.latency is not None:
            uses = self.space.uses(architecture)
            found[LATENCY] = self.latency.call + sum_of_uses(uses, self.latency.parts)
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the costs, sorted."""
        choice: Any = jax.ShapeDtypeStruct((len(self.space.decisions),), jnp.int32)
        return tuple(jax.eval_shape(self, Architecture(choice)))

    def of_choices(self, choices: Any) -> dict[str, np.ndarray]:
        """The costs of several children, ``float64[n]`` by name; computed on the host.

        Args:
          choices: ``int[n, num_decisions]``.
        """
        found = _of_choices(cast(Hashable, self), jnp.asarray(choices, jnp.int32))
        return {name: np.asarray(values, float) for name, values in found.items()}


@jax.jit(static_argnums=0)
def _of_choices(costs, choices):
    def one(choice):
        return costs(Architecture(choice))

    return jax.lax.map(one, choices, batch_size=_AT_ONCE)
