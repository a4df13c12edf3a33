"""WPL and rehearsal: earlier children hold their weights and are trained again."""

import dataclasses

from wpl_jax.protections.quadratic import WeightPlasticity
from wpl_jax.protections.replay import Replay


@dataclasses.dataclass(frozen=True)
class WplReplay(WeightPlasticity):
    """WPL, with earlier children trained beside each child.

    The penalty holds all weights of the step, also those of the companions alone. As
    in :class:`WeightPlasticity`, a child moves the anchors of its own weights.

    Attributes:
      companions: As of :class:`wpl_jax.protections.replay.Replay`.
      share: As of it.
    """

    companions: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        _ = self._replay

    @property
    def _replay(self) -> Replay:
        return Replay(self.companions, self.share, self.start_epoch)

    def init(self, params, child):
        """The running average of Fishers, and no children."""
        return super().init(params, child), self._replay.init(params, child)

    def memory_rows(self, memory, rows):
        """The rows of the running average, and all children."""
        average, archive = memory
        return (
            super().memory_rows(average, rows),
            self._replay.memory_rows(archive, rows),
        )

    def begin_epoch(self, memory, opt_state, epoch):
        """Flushes Fishers; the children stay."""
        average, opt_state = super().begin_epoch(memory[0], opt_state, epoch)
        return (average, memory[1]), opt_state

    def rehearse(self, memory, architecture, key):
        """The newest children."""
        return self._replay.rehearse(memory[1], architecture, key)

    def remember(self, memory, opt_state, trained, found, used, rows, alpha):
        """Both remember the child."""
        (average, archive), child = memory, (trained, found, used, rows, alpha)
        average, opt_state = super().remember(average, opt_state, *child)
        archive, opt_state = self._replay.remember(archive, opt_state, *child)
        return (average, archive), opt_state
