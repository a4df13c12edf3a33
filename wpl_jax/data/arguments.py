"""Arguments of the loading functions, checked before anything is read."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np

from wpl_jax.data.errors import DataError

_T = TypeVar("_T")


def choose(known: Mapping[str, _T], word: str, argument: str, about: str = "") -> _T:
    """The entry of a registry.

    Args:
      known: The registry.
      word: A key of it, as the caller gave it.
      argument: The argument's name, for the message.
      about: What it was given for, for the message.

    Returns:
      ``known[word]``.

    Raises:
      DataError: There is no such key.
    """
    if not isinstance(word, str) or word not in known:
        found = f"the unknown {argument} {word!r}" + (f" for {about}" if about else "")
        expected = f"one of {', '.join(sorted(known))}"
        remedy = _suggest(word, known)
        raise DataError(f"argument {argument}", found, expected, remedy, argument)
    return known[word]


def check_options(
    format: str,
    reader: Callable[..., Any],
    options: Iterable[str],
    known: Iterable[str] = (),
) -> None:
    """Every option is one of the reader's, or of those ``known`` beside them.

    Raises:
      DataError: One is not.
    """
    _, *own = inspect.signature(reader).parameters  # the first is the path
    known = [*known, *own]
    for option in options:
        if option not in known:
            expected = f"an option of {format}: {', '.join(known) or 'it has none'}"
            found = f"the unknown option {option!r}"
            raise DataError(
                f"format {format}", found, expected, _suggest(option, known)
            )


def _suggest(word: object, known: Iterable[str]) -> str:
    """What to do about an unknown word: the closest known one, or any."""
    known = list(known)
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    if close:
        return f"write {close[0]!r}"
    return "take one of those" if known else "leave it out"


def require_int(value: Any, argument: str, least: int, why: str = "") -> int:
    """A whole number that is large enough.

    Args:
      value: As the caller gave it.
      argument: The argument's name, for the message.
      least: The smallest value that will do.
      why: What the least is for, for the message.

    Returns:
      The value as an int.

    Raises:
      DataError: It is not an int, or smaller.
    """
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_int or value < least:
        expected = f"an int of at least {least}" + (f" ({why})" if why else "")
        remedy = f"set for instance {argument}={least}"
        raise DataError(f"argument {argument}", repr(value), expected, remedy, argument)
    return int(value)
