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
    return printable(short.repr(value))


def in_bytes(count: int) -> str:
    """A number of bytes for a message, in units of powers of 1,024."""
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 2**power:
            return f"{count / 2**power:,.1f} {unit}"
    return f"{count} bytes"


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; a path may hold other bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    r"""Text in one line that a terminal or a file in UTF-8 can show.

    Names of files may hold anything: line ends, codes that a terminal obeys, bytes that
    are not UTF-8. Whitespace becomes a space, and what is left of them escapes.

    Args:
      text: Text with names in it.

    Returns:
      The text, unchanged if all of it can be printed.

    Examples:
      >>> print(printable("runs/a\x1b[2J\nb"))
      runs/a\x1b[2J b
    """
    return "".join(
        c
        if c.isprintable()
        else (" " if c.isspace() else c.encode("unicode_escape").decode())
        for c in text
    )
