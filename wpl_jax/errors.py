"""Errors that are the user's to mend, shown without a traceback.

Advice names an option as the user gives it: ``--workdir`` on a command line, and
``workdir`` in Python (:func:`option`, :func:`for_caller`).
"""

import contextlib
import contextvars
import reprlib
from collections.abc import Iterator
from typing import Any

_has_flags = contextvars.ContextVar("_has_flags", default=False)


class UserError(ValueError):
    """A wrong flag, configuration, file or checkpoint.

    The message says what was found, what was expected and how to mend it.
    """


class ConfigError(UserError):
    """A configuration that cannot be run."""


@contextlib.contextmanager
def on_command_line() -> Iterator[None]:
    """A context in which the user has typed a command, and errors name its flags.

    Outside of it, the user has called a function of this library.

    Examples:
      >>> option("workdir")
      'workdir'
      >>> with on_command_line():
      ...     option("workdir")
      '--workdir'
    """
    token = _has_flags.set(True)
    try:
        yield
    finally:
        _has_flags.reset(token)


def for_caller(command: str, python: str) -> str:
    """One of two texts, for a message.

    Args:
      command: For the user of a command, with flags and fields of a configuration.
      python: For the user of the library in Python, with arguments.
    """
    return command if _has_flags.get() else python


def option(name: str) -> str:
    """The name of a flag, or of the argument of the same name."""
    return for_caller(f"--{name}", name)


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
