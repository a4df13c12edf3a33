"""A momentum for each cluster of children (MS).

Momentum separation of a paper of CVPR 2025, which also has a complexity-aware learning
rate (:mod:`wpl_jax.engine.complexity`). The operation on one chosen edge divides the
children into clusters. A step of a child in cluster ``i`` updates the momentum of its
cluster, and moves the weights by it:

    m_i <- beta m_i + g,   w <- w - rate m_i.

So the momentum that a child starts with is that of earlier children which resemble it.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.settings import SettingError, check_number, require
from wpl_jax.engine.optimizers import Sgd


@dataclasses.dataclass(frozen=True)
class SeparateMomentum(Sgd):
    """Stochastic gradient descent with a momentum for each cluster.

    Each is a copy of the shared parameters. A training from scratch, which has a single
    child, has one momentum.

    Attributes:
      momentum: The factor ``beta``.
      decision: Name of the decision whose choices are the clusters; None for the first.
    """

    momentum: float = 0.9
    decision: str | None = None

    of_children = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_number(self, "momentum", least=0, below=1)
        valid = self.decision is None or isinstance(self.decision, str)
        require(self, "decision", valid, "the name of a decision, or None")

    def check_children(self, space, number):
        """Checks that the space has the decision, and children are trained alone."""
        names = [decision.name for decision in space.decisions]
        known = self.decision is None or self.decision in names
        require(self, "decision", known, f"one of {names}, or None")
        if number > 1:
            expected = "1, as several children may be of several clusters of momenta"
            raise SettingError("children_per_step", number, expected)

    def transform_of(self, rate, children):
        """The optimizer of one child."""
        names = [decision.name for decision in children.space.decisions]
        place = 0 if self.decision is None else names.index(self.decision)
        trace = trace_of_cluster(
            self.momentum,
            self.nesterov,
            len(children.space.decisions[place].choices),
            children.architectures.choice[0, place],
        )
        return self._chain(rate, trace)


class SeparateMomentumState(NamedTuple):
    """Momenta of all clusters."""

    traces: tuple[optax.Updates, ...]  # trees like the parameters


def trace_of_cluster(
    decay: float, nesterov: bool, clusters: int, cluster: jax.Array | int
) -> optax.GradientTransformation:
    """``optax.trace`` with a trace for each cluster, of which a step uses one.

    Args:
      decay: The factor ``beta``.
      nesterov: Whether the momentum is Nesterov's.
      clusters: Number of clusters.
      cluster: Number of the step's cluster, which may be traced, ``int32[]``.
    """

    def init(params):
        zeros = optax.tree.zeros_like(params)
        return SeparateMomentumState((zeros,) * clusters)

    def update(updates, state, params=None):
        del params
        is_own = [cluster == i for i in range(clusters)]

        def accumulate(g, *traces):
            own = sum(
                jnp.where(is_this, t, 0)
                for is_this, t in zip(is_own, traces, strict=True)
            )
            return g + decay * own

        own = jax.tree.map(accumulate, updates, *state.traces)
        traces = tuple(
            jax.tree.map(lambda new, old, here=here: jnp.where(here, new, old), own, t)
            for here, t in zip(is_own, state.traces, strict=True)
        )
        if nesterov:
            own = jax.tree.map(lambda g, m: g + decay * m, updates, own)
        return own, SeparateMomentumState(traces)

    return optax.GradientTransformation(init, update)
