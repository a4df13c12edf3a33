"""Saving checkpoints, and deleting those that are no longer needed."""

import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from wpl_jax.common.trees import without_keys
from wpl_jax.errors import UserError, is_text, option
from wpl_jax.runs.checkpoint_reader import CheckpointReader, Usable, crc32, filled, form
from wpl_jax.runs.orbax_manager import quiet_threads
from wpl_jax.runs.run_files import make_folder

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


class Checkpoints(CheckpointReader):
    """The checkpoints of one run: trees of arrays under a step that only grows.

    A save that a crash interrupts leaves the earlier checkpoints as they were.
    Restoring deletes nothing. Checkpoints that it passed over are deleted once a save
    has succeeded: the run has gone on without them.
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
        super().__init__(make_folder(directory), read_only=False)
        self._keep, self._landmark = keep, landmark
        self._passed_over: set[int] = set()

    def restore(
        self, like: Any, usable: Usable = lambda step, beside: ""
    ) -> tuple[int, Any] | None:
        """Reads the newest checkpoint that is not damaged; see the base class.

        The next save may have any step after this one, also that of a checkpoint that
        was passed over.
        """
        found = super().restore(like, usable)
        if found is not None:
            self._passed_over = {step for step in self._steps() if step > found[0]}
        return found

    def go_back(
        self, like: Any, usable: Usable = lambda step, beside: ""
    ) -> tuple[int, Any] | None:
        """Reads the newest landmark that is not damaged, and deletes what came after.

        Args:
          like: As of :meth:`restore`.
          usable: As of :meth:`restore`.

        Returns:
          Its step and state, or None where there is no landmark.

        Raises:
          UserError: If all landmarks are damaged, or one could not be read this time.
            Nothing is deleted then.
        """
        steps = self._steps()
        found = self._restore(list(filter(self._landmark, steps)), like, usable)
        if found is not None:
            self._delete(step for step in steps if step > found[0])
        return found

    def verify(self, step: int, like: Any) -> None:
        """Checks that a checkpoint that was just saved can be read.

        Args:
          step: Its step.
          like: As of :meth:`restore`.

        Raises:
          UserError: If it cannot.
        """
        try:
            with quiet_threads():
                self._read(step, like)
        except Exception as error:
            raise UserError(
                f"What is saved in {self._directory} cannot be read again "
                f"({self._damage(step, error)}). Give another {option('workdir')}, on "
                "another disk or with a simpler name."
            ) from error

    def save(self, step: int, state: Any, beside: int | None = None) -> None:
        """Writes the state, whole when this returns.

        Args:
          step: Above all earlier steps, apart from those that were passed over.
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
        earlier = [each for each in self._steps() if each not in self._passed_over]
        if earlier and step <= earlier[0]:
            raise ValueError(
                f"Cannot save step {step}: its newest is {earlier[0]}, and steps must "
                "grow."
            )
        try:
            # Numpy's arrays, which Orbax takes from one process of several.
            stored = jax.tree.map(filled, without_keys(state))
            check = {"crc32": crc32(stored), "form": form(state), "beside": beside}
            self._find_room(stored)
            self._delete({step} & self._passed_over)  # Orbax replaces none.
            with quiet_threads():
                self._manager.save(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardSave(stored),
                        check=ocp.args.JsonSave(check),
                    ),
                    force=True,  # Also below the steps that were passed over.
                )
        except Exception as error:
            goes_on = "it starts anew"
            if earlier:
                goes_on = f"it continues from checkpoint {earlier[0]}, which is intact"
            raise UserError(
                f"Checkpoint {step} could not be written to {self._directory} "
                f"({type(error).__name__}: {error}). Make room, then run the same "
                f"command again: {goes_on}."
            ) from error
        self._delete(self._passed_over)
        self._delete_old()

    def _delete_old(self) -> None:
        steps = self._steps()
        landmarks = [step for step in steps if self._landmark(step)]
        self._delete(set(steps) - set(steps[: self._keep]) - set(landmarks[:1]))

    def _delete(self, steps: Iterable[int]) -> None:
        for step in list(steps):
            self._manager.delete(step)
            self._passed_over.discard(step)

    def _find_room(self, state: Any) -> None:
        """Raises an OSError if the disk has no room for the arrays.

        Orbax writes them all at once; where one fails, the others fail later, in
        threads that print tracebacks when all has been said.
        """
        if hasattr(os, "posix_fallocate"):  # Not on macOS.
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            with tempfile.TemporaryFile(dir=self._directory) as file:
                os.posix_fallocate(file.fileno(), 0, size + _OVERHEAD)
