"""Paths as users write them: in a flag, a configuration or a call."""

import os
from pathlib import Path
from typing import Any

from wpl_jax.errors import UserError, shorten


def as_path(given: Any, name: str, expected: str = "a path") -> Path:
    """A path, in which ``~`` stands for a home folder.

    A shell replaces it at the beginning of a word, but not in ``--workdir=~/runs``.

    Args:
      given: Text, or a path of any library.
      name: Of the flag, field or argument, for the message.
      expected: What it should be, for the message.

    Raises:
      UserError: If it is anything else, or empty, or of an unknown home folder.

    Examples:
      >>> as_path("~/runs", "workdir") == Path.home() / "runs"
      True
    """
    if not isinstance(given, str | os.PathLike) or not os.fspath(given):
        raise UserError(f"{name} is {shorten(given)}, expected {expected}.")
    try:
        return Path(os.fsdecode(given)).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"{name} is {shorten(given)}, in a home folder that this system does not "
            "know. Write the whole path instead of ~."
        ) from error


def optional_path(given: Any, name: str, expected: str = "a path") -> Path | None:
    """The same, or None for None.

    Raises:
      UserError: As :func:`as_path`.
    """
    return None if given is None else as_path(given, name, f"{expected}, or None")
