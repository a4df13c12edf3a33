"""Rehearsal: the loss of a child includes that of earlier children on its batches.

The loss of Zhang et al., "Overcoming Multi-Model Forgetting in One-Shot NAS with
Diversity Maximization" (CVPR 2020), with the newest children as the archive.
"""

import dataclasses

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import check_int, check_number
from wpl_jax.protections.protection import Protection
from wpl_jax.supernet import Architecture

MOST_COMPANIONS = 64  # each costs as much as a child


@dataclasses.dataclass(frozen=True)
class Replay(Protection):
    """Rehearses the newest of the earlier children.

    The loss is ``(1 - share) loss(child) + share / companions * sum(loss(companion))``
    once as many children have been trained, and that of the child alone before.

    Attributes:
      companions: How many are rehearsed; each costs as much as the child.
      share: Of the companions in the loss.
      start_epoch: First epoch whose children are remembered.
    """

    companions: int = 1
    share: float = 0.5
    start_epoch: int | None = 0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "companions", 1, "all in one step", most=MOST_COMPANIONS)
        check_number(self, "share", least=0, most=1)
        check_int(self, "start_epoch", 0)

    def active(self, epoch):
        """Whether children are archived: from ``start_epoch`` on."""
        return epoch >= self.start_epoch

    def init(self, params, child):
        """No children yet: their architectures, and how many there have been."""
        del params
        archive = jax.tree.map(
            lambda x: jnp.zeros((self.companions, *x.shape), x.dtype), child
        )
        return archive, jnp.int32(0)

    def rehearse(self, memory, architecture, key):
        """The archive, with weights of 0 as long as it is not full."""
        del architecture, key
        archive, count = memory
        full = jnp.full(self.companions, count >= self.companions)
        return archive, weights_of_losses(self.share, full)

    def remember(self, memory, opt_state, trained, found, used, rows, alpha):
        """The newest children take the place of the oldest."""
        del found, used, rows, alpha
        archive, count = memory
        new: Architecture = jax.tree.map(
            lambda old, x: jnp.concatenate([old, x])[-self.companions :],
            archive,
            trained.architecture,
        )
        number = len(trained.number)
        return (new, count + number), opt_state


def weights_of_losses(share: float, there: jax.Array) -> jax.Array:
    """The weights of the losses of a child and its companions.

    Args:
      share: Of all companions.
      there: Which companions there are, ``bool[companions]``.

    Returns:
      ``float32[1 + companions]``, the child's first: ``1 - share``, and the share in
      equal parts for the companions that there are; 1 without any.
    """
    number = jnp.sum(there)
    own = jnp.where(number > 0, 1 - share, 1.0)
    others = jnp.where(there, share / jnp.maximum(number, 1), 0)
    return jnp.concatenate([own[None], others])
