"""Saving and restoring, and stopping when asked to: all that knows of Orbax."""

import signal
import types
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging

from wpl_jax.errors import UserError


class Checkpoints:
    """The checkpoints of one run: trees of arrays under a step that only grows.

    A save that a crash interrupts leaves the earlier checkpoints as they were. A
    checkpoint that cannot be read is passed over, and reported.
    """

    def __init__(self, directory: Path, keep: int = 2):
        """Opens the folder ``directory``, which keeps the newest ``keep``."""
        self._directory = directory
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            ),
        )

    def restore(self, like: Any) -> tuple[int, Any] | None:
        """Reads the newest checkpoint that can be read.

        Args:
          like: A tree of arrays or ``jax.ShapeDtypeStruct``, the expected state.

        Returns:
          Its step and state, or None where there is no checkpoint.

        Raises:
          UserError: If there are checkpoints and none can be read.
        """
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                state = self._manager.restore(
                    step, args=ocp.args.StandardRestore(target)
                )
            except Exception as error:  # Orbax and tensorstore raise many kinds.
                logging.warning(
                    "Checkpoint %d in %s cannot be read (%s: %s); trying the one "
                    "before it.",
                    step,
                    self._directory,
                    type(error).__name__,
                    str(error).splitlines()[0] if str(error) else "no message",
                )
                continue
            for newer in (s for s in steps if s > step):
                self._manager.delete(newer)
            return step, state
        if steps:
            raise UserError(
                f"None of the checkpoints {steps} in {self._directory} can be read. "
                "Restore the folder from a copy, or delete it to start anew."
            )
        return None

    def save(self, step: int, state: Any) -> None:
        """Writes the state, whole when this returns.

        Args:
          step: Above all earlier steps.
          state: A tree of arrays.

        Raises:
          UserError: If it could not be written (a full disk, say). Earlier
            checkpoints are untouched.
        """
        try:
            saved = self._manager.save(step, args=ocp.args.StandardSave(state))
        except Exception as error:
            raise UserError(
                f"Checkpoint {step} could not be written to {self._directory} "
                f"({type(error).__name__}: {error}). The one before it is intact. Make "
                "room, then run the same command again: it continues from there."
            ) from error
        if not saved:
            raise ValueError(
                f"Orbax did not save step {step}: its newest is "
                f"{self._manager.latest_step()}, and steps must grow."
            )

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()


class StopRequest:
    """Turns SIGTERM and SIGINT into a request to stop at the next safe point.

    A context; while it lasts, ``signum`` is None or the signal that came. A second
    signal of the kind acts as usual, so that an impatient user gets through.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGTERM, signal.SIGINT):
            self._earlier[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._earlier.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, frame: types.FrameType | None) -> None:
        del frame
        self.signum = signum
        signal.signal(signum, self._earlier[signum])

    def exit_code(self) -> int:
        """The code a shell reports for the signal: 143 for SIGTERM."""
        if self.signum is None:
            raise ValueError("exit_code is defined after a signal has come.")
        return 128 + self.signum
