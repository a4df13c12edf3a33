"""Opens folders of checkpoints with Orbax, and keeps it from printing."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging


def open_manager(directory: Path, read_only: bool) -> ocp.CheckpointManager:
    """Orbax's manager of a folder of checkpoints, which deletes none by itself.

    Args:
      directory: The folder, which is there.
      read_only: Whether the folder stays as it is. Otherwise what was left of saves
        that were cut off is deleted.
    """
    options: dict[str, Any] = {"max_to_keep": None, "enable_async_checkpointing": False}
    if read_only:
        options |= {"create": False, "read_only": True, "save_interval_steps": 0}
    else:
        options |= {"cleanup_tmp_directories": True}
    if jax.process_count() > 1:
        # All state is on every process: the first one saves and reads, and waits for
        # no other.
        options["create"] = False
        options["multiprocessing_options"] = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="wpl_jax"
        )
    with quiet_threads():
        return ocp.CheckpointManager(
            directory.absolute(), options=ocp.CheckpointManagerOptions(**options)
        )


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """Keeps Orbax from printing what is raised here, or has no meaning.

    It logs errors that reach the caller as well. And where one array cannot be read
    or written, what the others still report goes to an event loop that is closed.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    _ignore_closed_loops()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _ignore_closed_loops() -> None:
    """Has nothing said of event loops that were closed, here and from now on.

    Threads may come to it later than the call that started them has returned.
    """
    hook = sys.unraisablehook
    if getattr(hook, "ignores_closed_loops", False):
        return

    def ignoring(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    setattr(ignoring, "ignores_closed_loops", True)  # noqa: B010
    sys.unraisablehook = ignoring
