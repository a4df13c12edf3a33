"""Saving and restoring, and stopping when asked to: all that knows of Orbax."""

import os
import signal
import tempfile
import types
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from wpl_jax import processes
from wpl_jax.errors import UserError
from wpl_jax.trees import is_key, without_keys

_OVERHEAD = 1 << 16  # Bytes of a checkpoint besides its arrays: some 20,000 are seen.


class Checkpoints:
    """The checkpoints of one run: trees of arrays under a step that only grows.

    A save that a crash interrupts leaves the earlier checkpoints as they were. A
    checkpoint that cannot be read is passed over, and reported.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 2,
        landmark: Callable[[int], bool] = lambda step: False,
    ):
        """Opens a folder of checkpoints.

        Args:
          directory: The folder, made if it does not exist.
          keep: How many are kept, the newest.
          landmark: Of which steps the newest is kept as well, to go back to.
        """
        self._directory, self._keep, self._landmark = directory, keep, landmark
        # All state is on every process: the first one saves, and waits for nobody.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="wpl_jax"
        )
        several = {"multiprocessing_options": alone, "create": False}
        if jax.process_count() > 1:
            directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=None,  # See `_delete_old`.
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
                **(several if jax.process_count() > 1 else {}),
            ),
        )

    def restore(self, like: Any, landmark: bool = False) -> tuple[int, Any] | None:
        """Reads the newest checkpoint that can be read, and deletes newer ones.

        Args:
          like: A tree of ``jax.ShapeDtypeStruct``, or of arrays that are not keys: the
            expected state.
          landmark: Whether only landmarks count.

        Returns:
          Its step and state, of numpy arrays and keys, or None where there is no
          checkpoint.

        Raises:
          UserError: If there are checkpoints and none can be read.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        every = sorted(self._manager.all_steps(), reverse=True)
        steps = [s for s in every if self._landmark(s)] if landmark else every
        reason = ""
        for step in steps:
            try:
                state = self._read(step, target)
            except Exception as error:  # Orbax and tensorstore raise many kinds.
                reason = f"{type(error).__name__}: {error}"
                logging.warning(
                    "Checkpoint %d in %s cannot be read (%s); trying the one before.",
                    step,
                    self._directory,
                    reason.splitlines()[0],
                )
                continue
            for newer in (s for s in every if s > step):
                self._manager.delete(newer)
            return step, state
        if steps:
            raise UserError(
                f"None of the checkpoints {steps} in {self._directory} can be read "
                f"({reason}). Restore the folder from a copy, or delete it to start "
                "anew."
            )
        return None

    def _read(self, step: int, target: Any) -> Any:
        # The form first: Orbax fits arrays to shapes that they do not have.
        args = ocp.args.Composite(check=ocp.args.JsonRestore())
        check = self._manager.restore(step, args=args)["check"]
        expected = _form(target)
        for name in sorted(check["form"].keys() | expected.keys()):
            there, wanted = check["form"].get(name), expected.get(name)
            if there != wanted:
                raise ValueError(
                    f"another structure: '{name}' is {there} there, expected {wanted}"
                )
        stored = jax.tree.map(_room_for, target)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(stored))
        stored = self._manager.restore(step, args=args)["state"]
        if _crc32(stored) != check["crc32"]:
            raise ValueError("its arrays do not have the checksum they were saved with")
        return jax.tree.map(_as, stored, target)

    def save(self, step: int, state: Any) -> None:
        """Writes the state, whole when this returns.

        Args:
          step: Above all earlier steps.
          state: A tree of arrays.

        Raises:
          UserError: If it could not be written (a full disk, say). Earlier
            checkpoints are untouched.
        """
        for path, leaf in jax.tree_util.tree_leaves_with_path(state):
            if not isinstance(leaf, np.ndarray | jax.Array):
                raise TypeError(
                    f"state{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, "
                    "expected an array: Orbax would save it and could not restore it."
                )
        verbosity = logging.get_verbosity()
        # What fails is raised, and said below; Orbax's threads would log it as well.
        logging.set_verbosity(logging.FATAL)
        try:
            # Numpy's arrays, which Orbax takes from one process of several.
            stored = jax.tree.map(np.asarray, without_keys(state))
            check = {"crc32": _crc32(stored), "form": _form(state)}
            self._find_room(stored)
            saved = self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(stored), check=ocp.args.JsonSave(check)
                ),
            )
        except Exception as error:
            raise UserError(
                f"Checkpoint {step} could not be written to {self._directory} "
                f"({type(error).__name__}: {error}). The one before it is intact. Make "
                "room, then run the same command again: it continues from there."
            ) from error
        finally:
            logging.set_verbosity(verbosity)
        if not saved:
            raise ValueError(
                f"Orbax did not save step {step}: its newest is "
                f"{self._manager.latest_step()}, and steps must grow."
            )
        self._delete_old()

    def _delete_old(self) -> None:
        steps = sorted(self._manager.all_steps(), reverse=True)
        landmarks = [step for step in steps if self._landmark(step)]
        for step in set(steps) - set(steps[: self._keep]) - set(landmarks[:1]):
            self._manager.delete(step)

    def _find_room(self, state: Any) -> None:
        """Raises an OSError if the disk has no room for the arrays.

        Orbax writes them all at once; where one fails, the others fail later, in
        threads that print tracebacks when all has been said.
        """
        if hasattr(os, "posix_fallocate"):  # Not on macOS.
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            with tempfile.TemporaryFile(dir=self._directory) as file:
                os.posix_fallocate(file.fileno(), 0, size + _OVERHEAD)

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()


def _room_for(leaf: Any) -> np.ndarray:
    if is_key(leaf):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    return np.zeros(leaf.shape, leaf.dtype)


def _as(stored: Any, target: Any) -> Any:
    """A key again where one was."""
    return jax.random.wrap_key_data(stored) if is_key(target) else stored


def _crc32(stored: Any) -> int:
    """A checksum of all arrays; what is stored is not protected against bit rot."""
    total = 0
    for leaf in jax.tree.leaves(stored):
        total = zlib.crc32(leaf.tobytes(), total)
    return total


def _form(tree: Any) -> dict[str, str]:
    """The dtype and shape of each array, by its path."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{leaf.dtype} of shape {list(leaf.shape)}"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


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

    def asked(self) -> bool:
        """Whether a signal has come, here or to another process of the run."""
        return processes.any_process(self.signum is not None)

    def exit_code(self) -> int:
        """The code a shell reports for the signal; another process's is SIGTERM."""
        return 128 + (signal.SIGTERM if self.signum is None else self.signum)
