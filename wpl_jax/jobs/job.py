"""What a job and its modes declare, for the registry."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

# Of a configuration and a mode: of each arm, what it does not read, and why; under the
# name "", of what has no arms.
UnreadOf = Callable[[ConfigDict, str], Mapping[str, dict[str, str]]]


class Mode(NamedTuple):
    """One of the things that a job can do.

    Attributes:
      run: Function of the configuration, the folder of the run and the
        :class:`~wpl_jax.runs.machine.Machine`.
      flags: Those of :data:`wpl_jax.runs.machine.FLAGS` that it reads.
      needs_config: Whether it reads a configuration; without one it gets None.
      unread: Settings that it does not read; None for those that the job does not.
    """

    run: Callable[..., None]
    flags: tuple[str, ...] = ()
    needs_config: bool = True
    unread: UnreadOf | None = None


class Job(NamedTuple):
    """What ``config.job`` names.

    Attributes:
      modes: By their names; "run" does the whole of it.
      unread: Settings that its modes do not read; None if they read all.
    """

    modes: Mapping[str, Mode]
    unread: UnreadOf | None = None
