"""Errors that are the user's to mend, shown without a traceback."""

import reprlib
from typing import Any


class UserError(ValueError):
    """A wrong flag, configuration, file or checkpoint.

    The message says what was found, what was expected and how to mend it.
    """


class ConfigError(UserError):
    """A configuration that cannot be run."""


def shorten(value: Any) -> str:
    """A value for a message, however large it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 60
    return short.repr(value)
