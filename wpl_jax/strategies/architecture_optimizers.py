"""Distributions over the choices of each decision, and how gradients train them.

Logits of a softmax are trained by Adam in DARTS (Liu, Simonyan, Yang, ICLR 2019) and
GDAS (Dong and Yang, CVPR 2019), concentrations of Dirichlet distributions in DrNAS
(Chen et al., ICLR 2021). GAEA (Li, Khodak, Balcan, Talwalkar, ICLR 2021) trains the
distributions themselves by exponentiated gradients.
:mod:`wpl_jax.strategies.differentiable` has the strategy.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.registry import Registry
from wpl_jax.common.settings import check_number
from wpl_jax.strategies.exponentiated_gradient import exponentiated_gradient

NEVER = -1e9  # logit of an entry that is no choice
_LEAST_LOG = math.log(1e-6)  # of a concentration


class ArchitectureOptimizer(Protocol):
    """How architecture weights are parametrized and trained.

    Each of a space's groups (:attr:`wpl_jax.supernet.Space.groups`) has a distribution
    over its choices. Groups with fewer choices than others are padded.
    """

    def init(self, key: jax.Array, there: jax.Array) -> jax.Array:
        """The parameters before the first step.

        Args:
          key: PRNG key.
          there: ``bool[groups, choices]``; False where a group is padded.

        Returns:
          ``float32[groups, choices]``.
        """

    def probabilities(self, theta: jax.Array, there: jax.Array) -> jax.Array:
        """The distribution of each group, ``float32[groups, choices]``."""

    def weights(self, theta: jax.Array, there: jax.Array, key: jax.Array) -> jax.Array:
        """Weights of a mixture in one forward pass; by default the distribution.

        Args:
          theta: The parameters.
          there: False where a group is padded.
          key: PRNG key of the pass.

        Returns:
          ``float32[groups, choices]``.
        """
        del key
        return self.probabilities(theta, there)

    def transform(self) -> optax.GradientTransformation:
        """The optimizer of the parameters."""


@dataclasses.dataclass(frozen=True)
class AdamOnLogits(ArchitectureOptimizer):
    """Adam on logits, whose softmax are the weights (DARTS, GDAS).

    Attributes:
      learning_rate: Of Adam.
      b1: Decay of the first moment.
      b2: Decay of the second moment.
      weight_decay: Factor of the logits, which is added to the gradient.
      scale: Standard deviation of the initial logits.
    """

    learning_rate: float = 3e-4
    b1: float = 0.5
    b2: float = 0.999
    weight_decay: float = 1e-3
    scale: float = 1e-3

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_number(self, "learning_rate", above=0)
        for name in ("b1", "b2"):
            check_number(self, name, least=0, below=1)
        for name in ("weight_decay", "scale"):
            check_number(self, name, least=0)

    def init(self, key, there):
        """Normal logits with standard deviation ``scale``."""
        return self.scale * jax.random.normal(key, there.shape)

    def probabilities(self, theta, there):
        """The softmax of the logits."""
        return jax.nn.softmax(jnp.where(there, theta, NEVER))

    def transform(self):
        """Adam with the weight decay in the gradient, as in the authors' code."""
        return optax.chain(
            optax.add_decayed_weights(self.weight_decay),
            optax.adam(self.learning_rate, b1=self.b1, b2=self.b2),
        )


@dataclasses.dataclass(frozen=True)
class AdamOnConcentrations(AdamOnLogits):
    """Adam on the concentrations of Dirichlet distributions (DrNAS).

    Each forward pass draws the weights of a mixture. The concentrations are
    ``elu(theta) + 1``, at least 1e-6, and ``weight_decay`` pulls them to 1, the uniform
    distribution.

    Attributes:
      learning_rate: Of Adam; the default is the authors'.
    """

    learning_rate: float = 6e-4

    def probabilities(self, theta, there):
        """The means of the distributions."""
        concentration = jnp.where(there, _concentration(theta), 0)
        return concentration / jnp.sum(concentration, -1, keepdims=True)

    def weights(self, theta, there, key):
        """A draw that is differentiable in the concentrations."""
        gamma = jax.random.loggamma(key, _concentration(theta))
        return jax.nn.softmax(jnp.where(there, gamma, NEVER))


def _concentration(theta: jax.Array) -> jax.Array:
    """``elu(theta) + 1``, which rounds to 0 where it is written like that.

    A distribution with a concentration of 0 has neither a mean nor a gradient.
    """
    below = jnp.exp(jnp.clip(theta, _LEAST_LOG, 0))
    return jnp.where(theta > 0, theta + 1, below)


@dataclasses.dataclass(frozen=True)
class ExponentiatedGradient(ArchitectureOptimizer):
    """Exponentiated gradient on the weights themselves (GAEA).

    Attributes:
      learning_rate: See :func:`wpl_jax.exponentiated_gradient`.
      floor: Smaller weights are raised to it, as in the authors' code.
    """

    learning_rate: float = 0.1
    floor: float = 1e-5

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_number(self, "learning_rate", above=0)
        check_number(self, "floor", least=0, most=0.1)

    def init(self, key, there):
        """The uniform distribution of each group."""
        del key
        return there / jnp.sum(there, -1, keepdims=True, dtype=jnp.float32)

    def probabilities(self, theta, there):
        """The parameters, which are the distributions."""
        del there
        return theta

    def transform(self):
        """Exponentiated gradient with the settings."""
        return exponentiated_gradient(self.learning_rate, self.floor)


# Dataclasses with the methods of :class:`ArchitectureOptimizer`, by name.
ARCHITECTURE_OPTIMIZERS = Registry(
    "wpl_jax.architecture_optimizers",
    {
        "adam": AdamOnLogits,
        "dirichlet": AdamOnConcentrations,
        "exponentiated_gradient": ExponentiatedGradient,
    },
)
