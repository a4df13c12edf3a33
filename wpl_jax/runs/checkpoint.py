"""Saving and restoring: all that knows of Orbax."""

import contextlib
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from wpl_jax.common.checks import leaves_by_path
from wpl_jax.common.trees import is_key, with_keys, without_keys
from wpl_jax.errors import UserError, is_text, option
from wpl_jax.runs.run_files import make_folder

_LONGEST = 300  # letters of what Orbax says, which may quote whole specifications
_OVERHEAD = 1 << 16  # Bytes of a checkpoint besides its arrays: some 20,000 are seen.


def check_path(path: Path) -> None:
    """Checks that checkpoints below a folder could be read again.

    Tensorstore takes a backslash for a slash when it reads, and wants UTF-8; Orbax
    takes ``gs:/``, wherever it stands, for Google's storage, and folders such as
    ``/s3`` for those of others.

    Args:
      path: The folder, absolute.

    Raises:
      UserError: If they could not.
    """
    name = str(path)
    if "\\" in name:
        found = "a backslash"
    elif "gs:/" in f"{name}/":
        found = "a folder whose name ends in gs:"
    elif str(epath.Path(name)) != name:
        found = f"a first folder that stands for {epath.Path(name)}"
    elif not is_text(name):
        found = "bytes that are not UTF-8"
    else:
        return
    raise UserError(
        f"The folder {name!a} has {found} in its path: checkpoints that are "
        f"written there cannot be read again. Give another {option('workdir')}, or a "
        "symbolic link to that one."
    )


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

        Raises:
          UserError: If it cannot be made, or what is saved there could not be read.
        """
        check_path(directory.absolute())
        make_folder(directory)
        self._directory, self._keep, self._landmark = directory, keep, landmark
        # All state is on every process: the first one saves, and waits for nobody.
        alone = ocp.options.MultiprocessingOptions(
            primary_host=0, active_processes={0}, barrier_sync_key_prefix="wpl_jax"
        )
        several = {"multiprocessing_options": alone, "create": False}
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None,  # See `_delete_old`.
            cleanup_tmp_directories=True,
            enable_async_checkpointing=False,
            **(several if jax.process_count() > 1 else {}),
        )
        with _quiet_threads():
            self._manager = ocp.CheckpointManager(directory.absolute(), options=options)

    def restore(
        self,
        like: Any,
        landmark: bool = False,
        usable: Callable[[int, int | None], str] = lambda step, beside: "",
    ) -> tuple[int, Any] | None:
        """Reads the newest checkpoint that can be read, and deletes newer ones.

        Args:
          like: A tree of ``jax.ShapeDtypeStruct``, or of arrays that are not keys: the
            expected state.
          landmark: Whether only landmarks count.
          usable: Of a step, and of the checksum that was saved with it (None without
            one), why the checkpoint cannot be used; "" if it can.

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
                with _quiet_threads():
                    reason = usable(step, self._check(step).get("beside"))
                    if not reason:
                        state = self._read(step, target)
            except UserError:
                raise
            except Exception as error:  # Orbax and tensorstore raise many kinds.
                reason = f"{type(error).__name__}: {error}"
            if reason:
                reason = reason.splitlines()[0]
                if len(reason) > _LONGEST:
                    reason = f"{reason[:_LONGEST]} ..."
                logging.warning(
                    "Checkpoint %d in %s cannot be read (%s); trying the one before.",
                    step,
                    self._directory,
                    reason,
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

    def beside(self) -> int | None:
        """The checksum saved with the newest checkpoint that has a readable one."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            # Orbax raises many kinds; a run that is finished needs no checkpoint.
            with contextlib.suppress(Exception), _quiet_threads():
                return self._check(step).get("beside")
        return None

    def verify(self, step: int, like: Any) -> None:
        """Checks that a checkpoint that was just saved can be read.

        Args:
          step: Its step.
          like: As of :meth:`restore`.

        Raises:
          UserError: If it cannot.
        """
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        try:
            with _quiet_threads():
                self._read(step, target)
        except Exception as error:
            raise UserError(
                f"What is saved in {self._directory} cannot be read again "
                f"({type(error).__name__}: {str(error)[:_LONGEST]}). Give another "
                f"{option('workdir')}, on another disk or with a simpler name."
            ) from error

    def _read(self, step: int, target: Any) -> Any:
        # The form first: Orbax fits arrays to shapes that they do not have.
        check = self._check(step)
        expected = _form(target)
        for name in sorted(check["form"].keys() | expected.keys()):
            there, wanted = check["form"].get(name), expected.get(name)
            if there != wanted:
                raise ValueError(
                    f"another structure: '{name}' is {there} there, expected {wanted}"
                )
        stored = jax.tree.map(_room_for, without_keys(target))
        args = ocp.args.Composite(state=ocp.args.StandardRestore(stored))
        stored = self._manager.restore(step, args=args)["state"]
        if _crc32(stored) != check["crc32"]:
            raise ValueError("its arrays do not have the checksum they were saved with")
        return with_keys(jax.tree.map(_as, stored, target), target)

    def _check(self, step: int) -> dict[str, Any]:
        """What was saved to check a state by."""
        args = ocp.args.Composite(check=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["check"]

    def save(self, step: int, state: Any, beside: int | None = None) -> None:
        """Writes the state, whole when this returns.

        Args:
          step: Above all earlier steps.
          state: A tree of arrays.
          beside: A checksum of what else going on from this state needs.

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
        try:
            # Numpy's arrays, which Orbax takes from one process of several.
            stored = jax.tree.map(_not_empty, without_keys(state))
            check = {"crc32": _crc32(stored), "form": _form(state), "beside": beside}
            self._find_room(stored)
            with _quiet_threads():
                saved = self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(stored),
                        check=ocp.args.JsonSave(check),
                    ),
                )
        except Exception as error:
            earlier = sorted(s for s in self._manager.all_steps() if s < step)
            goes_on = "it starts anew"
            if earlier:
                goes_on = f"it continues from checkpoint {earlier[-1]}, which is intact"
            raise UserError(
                f"Checkpoint {step} could not be written to {self._directory} "
                f"({type(error).__name__}: {error}). Make room, then run the same "
                f"command again: {goes_on}."
            ) from error
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


def read_arrays(directory: Path) -> tuple[int, dict[str, np.ndarray]]:
    """All arrays of the newest checkpoint that can be read; nothing is written.

    Args:
      directory: The folder of the checkpoints.

    Returns:
      The step of the checkpoint, and its arrays by their paths.

    Raises:
      UserError: If there is none, or none can be read.
    """
    if not directory.is_dir():
        raise UserError(
            f"There are no checkpoints in {directory.parent}. Give the folder of a "
            "search, such as FOLDER/searches/NAME, or of a training from scratch."
        )
    options = ocp.CheckpointManagerOptions(
        create=False,
        read_only=True,
        save_interval_steps=0,
        enable_async_checkpointing=False,
    )
    reason = "there is none"
    with (
        _quiet_threads(),
        contextlib.closing(
            ocp.CheckpointManager(directory.absolute(), options=options)
        ) as manager,
    ):
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                of_check = ocp.args.Composite(check=ocp.args.JsonRestore())
                check = manager.restore(step, args=of_check)["check"]
                of_state = ocp.args.Composite(state=ocp.args.StandardRestore())
                state = manager.restore(step, args=of_state)["state"]
                found = dict(leaves_by_path(state))
                if found.keys() != check["form"].keys():
                    raise ValueError("another structure than was saved")
                in_order = [np.asarray(found[name]) for name in check["form"]]
                if _crc32(in_order) != check["crc32"]:
                    raise ValueError("its arrays do not have their checksum")
            except Exception as error:  # Orbax and tensorstore raise many kinds.
                reason = f"{type(error).__name__}: {str(error)[:_LONGEST]}"
                continue
            return step, {name: np.asarray(array) for name, array in found.items()}
    raise UserError(
        f"No checkpoint in {directory} can be read ({reason}). Give the folder of "
        "another search or training."
    )


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
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


def _room_for(leaf: Any) -> np.ndarray:
    return _not_empty(np.zeros(leaf.shape, leaf.dtype))


def _not_empty(leaf: Any) -> np.ndarray:
    """An array that Orbax can save: one number in place of none.

    A space without decisions has an architecture without choices.
    """
    leaf = np.asarray(leaf)
    return leaf if leaf.size else np.zeros(1, leaf.dtype)


def _as(stored: Any, target: Any) -> Any:
    """No number again where there was none."""
    if is_key(target) or target.size:
        return stored
    return np.zeros(target.shape, target.dtype)


def _crc32(stored: Any) -> int:
    """A checksum of all arrays; what is stored is not protected against bit rot."""
    total = 0
    for leaf in jax.tree.leaves(stored):
        total = zlib.crc32(leaf.tobytes(), total)
    return total


def _form(tree: Any) -> dict[str, str]:
    """The dtype and shape of each array, by its path."""
    return {
        where: f"{leaf.dtype} of shape {list(leaf.shape)}"
        for where, leaf in leaves_by_path(tree)
    }
