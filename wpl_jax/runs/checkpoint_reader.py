"""Reading checkpoints: nothing is written, and nothing is deleted."""

import contextlib
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

from wpl_jax.common.checks import leaves_by_path
from wpl_jax.common.trees import with_keys, without_keys
from wpl_jax.errors import UserError
from wpl_jax.runs.damage import is_passing, unreadable_below
from wpl_jax.runs.orbax_manager import open_manager, quiet_threads
from wpl_jax.runs.run_files import not_read, reason

_LONGEST = 300  # letters of Orbax's messages, which may quote whole specifications

Found = TypeVar("Found")
Usable = Callable[[int, int | None], str]


class CheckpointReader:
    """The checkpoints of one run: trees of arrays, each under its step.

    A checkpoint that is damaged is passed over, with a warning. One that could not be
    read for another reason, such as too many open files, is a :class:`UserError`: it
    may be intact, and the one before it is not what the run has come to.
    """

    def __init__(self, directory: Path, *, read_only: bool = True):
        """Opens a folder of checkpoints.

        Args:
          directory: The folder, which is there.
          read_only: Whether it stays as it is.

        Raises:
          UserError: If it cannot be opened.
        """
        self._directory = directory
        try:
            self._manager = open_manager(directory, read_only)
        except OSError as error:
            raise not_read(directory, reason(error)) from error

    def restore(
        self, like: Any, usable: Usable = lambda step, beside: ""
    ) -> tuple[int, Any] | None:
        """Reads the newest checkpoint that is not damaged.

        Args:
          like: A tree of ``jax.ShapeDtypeStruct``, or of arrays that are not keys: the
            expected state.
          usable: Of a step, and of the checksum that was saved with it (None without
            one), why the checkpoint cannot be used; "" if it can.

        Returns:
          Its step and state, of numpy arrays and keys, or None where there is no
          checkpoint.

        Raises:
          UserError: If all checkpoints are damaged, or one could not be read this time.
        """
        return self._restore(self._steps(), like, usable)

    def arrays(self) -> tuple[int, dict[str, np.ndarray]] | None:
        """All arrays of the newest checkpoint that is not damaged.

        Returns:
          The step of the checkpoint, and its arrays by their paths; None where there
          is no checkpoint.

        Raises:
          UserError: As :meth:`restore`.
        """
        remedy = "Give the folder of another search or training."
        return self._first(self._steps(), self._arrays, remedy)

    def beside(self) -> int | None:
        """The checksum saved with the newest checkpoint that has a readable one."""
        for step in self._steps():
            # Orbax raises many kinds; a run that is finished needs no checkpoint.
            with contextlib.suppress(Exception), quiet_threads():
                return self._check(step).get("beside")
        return None

    def close(self) -> None:
        """Releases the folder."""
        self._manager.close()

    def _steps(self) -> list[int]:
        """Those of all checkpoints, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def _restore(
        self, steps: Sequence[int], like: Any, usable: Usable
    ) -> tuple[int, Any] | None:
        def read(step):
            if why := usable(step, self._check(step).get("beside")):
                raise _DamagedError(why)
            return self._read(step, like)

        remedy = "Restore the folder from a copy, or delete it to start anew."
        return self._first(steps, read, remedy)

    def _first(
        self, steps: Sequence[int], read: Callable[[int], Found], remedy: str
    ) -> tuple[int, Found] | None:
        """The first checkpoint that is not damaged, and what was read of it."""
        why = ""
        for step in steps:
            try:
                with quiet_threads():
                    return step, read(step)
            except UserError:
                raise
            except Exception as error:  # Orbax and tensorstore raise many kinds.
                why = self._damage(step, error)
            logging.warning(
                "Checkpoint %d in %s cannot be read (%s); trying the one before.",
                *(step, self._directory, why),
            )
        if steps:
            raise UserError(
                f"None of the checkpoints {list(steps)} in {self._directory} can be "
                f"read ({why}). {remedy}"
            )
        return None

    def _damage(self, step: int, error: Exception) -> str:
        """The damage that an error tells of.

        Raises:
          UserError: If it tells of none: the checkpoint could not be read this time.
        """
        if isinstance(error, _DamagedError):
            return _shorten(str(error))
        folder = self._directory / str(step)
        passing = error if is_passing(error) else unreadable_below(folder)
        if passing is None:
            return _shorten(f"{type(error).__name__}: {error}")
        what = _shorten(f"{type(passing).__name__}: {passing}")
        instead = f" To go on from an earlier checkpoint, move {folder} away."
        raise not_read(folder, what, instead) from error

    def _read(self, step: int, like: Any) -> Any:
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), like)
        # The form first: Orbax fits arrays to shapes that they do not have.
        check = self._check(step)
        expected = form(target)
        for name in sorted(check["form"].keys() | expected.keys()):
            there, wanted = check["form"].get(name), expected.get(name)
            if there != wanted:
                raise _DamagedError(
                    f"another structure: '{name}' is {there} there, expected {wanted}"
                )
        data = without_keys(target)
        stored = jax.tree.map(_room_for, data)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(stored))
        stored = self._manager.restore(step, args=args)["state"]
        _compare(crc32(stored), check["crc32"])
        return with_keys(jax.tree.map(_without_filling, stored, data), target)

    def _arrays(self, step: int) -> dict[str, np.ndarray]:
        check = self._check(step)
        args = ocp.args.Composite(state=ocp.args.StandardRestore())
        found = dict(leaves_by_path(self._manager.restore(step, args=args)["state"]))
        if found.keys() != check["form"].keys():
            raise _DamagedError("another structure than was saved")
        in_order = [np.asarray(found[name]) for name in check["form"]]
        _compare(crc32(in_order), check["crc32"])
        return {name: np.asarray(array) for name, array in found.items()}

    def _check(self, step: int) -> dict[str, Any]:
        """What was saved to check a state by."""
        args = ocp.args.Composite(check=ocp.args.JsonRestore())
        return self._manager.restore(step, args=args)["check"]


def read_arrays(directory: Path) -> tuple[int, dict[str, np.ndarray]]:
    """All arrays of the newest checkpoint that is not damaged; nothing is written.

    Args:
      directory: The folder of the checkpoints.

    Returns:
      The step of the checkpoint, and its arrays by their paths.

    Raises:
      UserError: If there is none, all are damaged, or one could not be read this time.
    """
    found = None
    if directory.is_dir():
        with contextlib.closing(CheckpointReader(directory)) as reader:
            found = reader.arrays()
    if found is None:
        raise UserError(
            f"There are no checkpoints in {directory.parent}. Give the folder of a "
            "search, such as FOLDER/searches/NAME, or of a training from scratch."
        )
    return found


class _DamagedError(ValueError):
    """A checkpoint was read, and is not what was saved or not what is expected."""


def _shorten(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def _compare(found: int, saved: int) -> None:
    if found != saved:
        raise _DamagedError("its arrays do not have the checksum they were saved with")


# What a checkpoint holds.


def crc32(stored: Any) -> int:
    """A checksum of all arrays; what is stored is not protected against bit rot."""
    total = 0
    for leaf in jax.tree.leaves(stored):
        total = zlib.crc32(leaf.tobytes(), total)
    return total


def form(tree: Any) -> dict[str, str]:
    """The dtype and shape of each array, by its path."""
    return {
        where: f"{leaf.dtype} of shape {list(leaf.shape)}"
        for where, leaf in leaves_by_path(tree)
    }


def filled(leaf: Any) -> np.ndarray:
    """An array that Orbax can save: one number in place of none.

    A space without decisions has an architecture without choices.
    """
    leaf = np.asarray(leaf)
    return leaf if leaf.size else np.zeros(1, leaf.dtype)


def _room_for(leaf: Any) -> np.ndarray:
    return filled(np.zeros(leaf.shape, leaf.dtype))


def _without_filling(stored: Any, target: Any) -> Any:
    """The inverse of :func:`filled`."""
    return stored if target.size else np.zeros(target.shape, target.dtype)
