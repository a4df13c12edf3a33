"""A learning rate that falls more slowly for children with more parameters (CaLR).

The complexity-aware learning rate of Jeon et al. (CVPR 2025), who also separate momenta
(:mod:`wpl_jax.engine.separate_momentum`). In epoch ``t`` of ``T`` the rate of a child
``a`` is

    rate_0 (1 - t / T)^gamma(a),   gamma(a) = omega log(C(a) / C) + tau,

where ``C(a)`` is the child's number of parameters. The paper has ``log C(a)``. Here
``C`` is the number of all shared parameters, so that ``omega`` and ``tau`` fit networks
of all sizes. The paper's ``tau`` is the one here minus ``omega log C``.
"""

import dataclasses

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import check_int, check_number
from wpl_jax.engine.optimizers import Children, Schedule


@dataclasses.dataclass(frozen=True)
class Complexity(Schedule):
    """Falls to 0 as a polynomial.

    Attributes:
      epochs: Number of epochs ``T`` in which it falls to 0.
      omega: Change of the exponent by the logarithm of the share of the parameters that
        a child uses, at most 0.
      tau: Exponent of a network with all parameters, and of a training from scratch.
    """

    epochs: int = 12
    omega: float = -0.5
    tau: float = 1.0

    of_children = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "epochs", 1)
        check_number(self, "omega", most=0)
        check_number(self, "tau", least=0)

    def rate(self, highest, epoch):
        """The rate of a network with all parameters."""
        return self._rate(highest, epoch, jnp.float32(self.tau))

    def rate_of(self, highest: float, epoch: jax.Array, children: Children):
        """The mean of the children's rates."""
        share = jnp.maximum(children.share_of_parameters(), 1e-9)
        exponents = self.omega * jnp.log(share) + self.tau
        return jnp.mean(self._rate(highest, epoch, exponents))

    def _rate(self, highest, epoch, exponent):
        left = jnp.maximum(1 - jnp.asarray(epoch, jnp.float32) / self.epochs, 0)
        return jnp.float32(highest) * left**exponent
