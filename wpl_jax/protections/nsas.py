"""Rehearsal of a diverse archive of earlier architectures (NSAS).

Zhang et al., "Overcoming Multi-Model Forgetting in One-Shot NAS with Diversity
Maximization" (CVPR 2020). The loss of a child ``a`` includes the losses of the ``M``
architectures ``c`` of an archive, on the same batch:

    L = (1 - share) CE(a) + share / M * sum_c CE(c)

The novelty of an architecture is its mean distance to its nearest neighbours in the
archive. After each child, the most novel of the last children takes the place of the
archived architecture that is most similar to the child. The distance of two
architectures is the number of decisions in which they differ.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.settings import check_choice, check_int, check_number
from wpl_jax.protections.protection import Protection
from wpl_jax.protections.replay import MOST_COMPANIONS, weights_of_losses
from wpl_jax.supernet import Architecture

_MOST_RECENT = 10_000  # whose distances to the archive are computed for each child


class Memory(NamedTuple):
    """The archive, and the last children, from which it is chosen."""

    archive: Architecture  # arrays [archive, ...]
    recent: Architecture  # arrays [recent, ...], the newest last
    seen: jax.Array  # int32[]; children so far; the first ones fill the archive


@dataclasses.dataclass(frozen=True)
class Nsas(Protection):
    """Rehearses an archive that is kept diverse.

    Attributes:
      archive: Architectures in the archive; each costs as much as the child.
      share: Of the archive in the loss, ``epsilon`` in the paper.
      neighbours: Nearest neighbours in the novelty.
      recent: Last children that may enter the archive.
      gradient: ``"paper"`` for the loss above. ``"code"`` for that of the authors' code
        for CIFAR-10, in which the losses of the archive have no gradient. What is left
        is the loss of the child, multiplied by ``1 - share``, so no archive is kept.
      start_epoch: First epoch whose children are archived.
    """

    archive: int = 8
    share: float = 0.5
    neighbours: int = 10
    recent: int = 50
    gradient: Literal["paper", "code"] = "paper"
    start_epoch: int | None = 0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "archive", 1, "all in one step", most=MOST_COMPANIONS)
        check_number(self, "share", least=0, most=1)
        check_int(self, "neighbours", 1)
        check_int(self, "recent", 1, "at each child", most=_MOST_RECENT)
        check_choice(self, "gradient", ("code", "paper"))
        check_int(self, "start_epoch", 0)

    @staticmethod
    def unread(settings: Mapping[str, Any]) -> dict[str, str]:
        """Settings that are not read, and why."""
        if settings.get("gradient") != "code":
            return {}
        names = ("archive", "neighbours", "recent", "start_epoch")
        return dict.fromkeys(names, "gradient is 'code'")

    @property
    def companions(self) -> int:  # type: ignore[override]
        """Number of architectures that are rehearsed."""
        return self.archive if self.gradient == "paper" else 0

    def active(self, epoch):
        """Whether children are archived: from ``start_epoch`` on."""
        return (epoch >= self.start_epoch) & (self.companions > 0)

    def wrap(self, optimizer, rate, alpha):
        """The optimizer; for ``"code"`` that of the child's loss times 1 - share."""
        if self.gradient == "paper":
            return optimizer
        return optax.chain(optax.scale(1 - self.share), optimizer)

    def init(self, params, child):
        """An empty archive."""
        del params
        if self.gradient == "code":
            return ()

        def places(number):
            return jax.tree.map(lambda x: jnp.zeros((number, *x.shape), x.dtype), child)

        return Memory(places(self.archive), places(self.recent), jnp.int32(0))

    def rehearse(self, memory, architecture, key):
        """The archive; its empty places have a weight of 0."""
        del architecture, key
        there = jnp.arange(self.archive) < memory.seen
        return memory.archive, weights_of_losses(self.share, there)

    def remember(self, memory, opt_state, trained, found, used, rows, alpha):
        """Updates the archive after each of the children, one after the other."""
        del found, used, rows, alpha
        if self.gradient == "paper":
            memory, _ = jax.lax.scan(self._after, memory, trained.architecture)
        return memory, opt_state

    def _after(self, memory: Memory, child: Architecture) -> tuple[Memory, None]:
        """The memory after a child."""
        archive, recent, seen = memory
        recent = jax.tree.map(
            lambda old, new: jnp.concatenate([old[1:], new[None]]), recent, child
        )
        places = jnp.arange(self.archive)
        members = places < seen
        similar = jnp.argmin(
            jnp.where(members, distance(child.choice, archive.choice), jnp.inf)
        )
        place = jnp.where(seen < self.archive, seen, similar)
        # The architecture in the place is the first candidate, so it stays in a tie.
        candidates = jax.tree.map(
            lambda old, new: jnp.concatenate([old[place][None], new]), archive, recent
        )
        is_recent = jnp.arange(self.recent) >= self.recent - 1 - seen
        exists = jnp.concatenate([members[place][None], is_recent])
        others = members & (places != place)
        found = novelty(candidates.choice, archive.choice, others, self.neighbours)
        best = jnp.argmax(jnp.where(exists, found, -1))
        archive = jax.tree.map(
            lambda old, new: old.at[place].set(new[best]), archive, candidates
        )
        return Memory(archive, recent, seen + 1), None


def distance(choice: jax.Array, other: jax.Array) -> jax.Array:
    """The number of decisions in which architectures differ, ``int32[...]``.

    Args:
      choice: ``int32[..., decisions]``.
      other: The same, of a shape that broadcasts with it.
    """
    return jnp.sum(choice != other, -1)


def novelty(
    choices: jax.Array, archive: jax.Array, members: jax.Array, neighbours: int
) -> jax.Array:
    """The mean distance of architectures to their nearest neighbours in an archive.

    Args:
      choices: The architectures, ``int32[n, decisions]``.
      archive: ``int32[m, decisions]``.
      members: Which of the archive count, ``bool[m]``.
      neighbours: Number of nearest neighbours; if fewer count, all of them.

    Returns:
      ``float32[n]``; 0 if none of the archive counts.
    """
    distances = distance(choices[:, None], archive[None])
    distances = jnp.where(members, distances, jnp.inf)
    nearest = jnp.sort(distances, 1)[:, :neighbours]
    there = jnp.isfinite(nearest)
    total = jnp.sum(jnp.where(there, nearest, 0), 1)
    return total / jnp.maximum(jnp.sum(there, 1), 1)
