"""Arguments of the loading functions, checked before anything is read."""

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.errors import shorten

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


def require_pair(given: Any, argument: str, examples: str) -> tuple[Any, Any]:
    """The two members of a split that is in memory.

    Args:
      given: As the caller gave it.
      argument: The argument's name, for the message.
      examples: What the two are, such as "(images, labels)".

    Raises:
      DataError: It is no pair.
    """
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise DataError(
            f"argument {argument}",
            shorten(given),
            f"a pair {examples}",
            f"pass {argument}={examples}",
        )
    return given[0], given[1]


def require_array(given: Any, where: str) -> np.ndarray:
    """What numpy makes of an array of any library, or of a list.

    Floats that numpy has no type of its own for, such as bfloat16, become float32.

    Args:
      given: As the caller gave it.
      where: What it is, for the message.

    Raises:
      DataError: numpy makes no array of it, or values of it are masked.
    """
    try:
        found = np.asarray(given)
    # Of libraries that hold arrays elsewhere, or whose types numpy does not have.
    except (RuntimeError, TypeError, ValueError) as error:
        raise DataError(
            where,
            f"a value of type {type(given).__name__} that numpy cannot read ({error})",
            "an array of numbers, in which all examples have one shape",
            "pass a NumPy array",
        ) from error
    if np.ma.is_masked(given):
        rows = np.ma.getmaskarray(given).reshape(len(found), -1).any(1)
        raise DataError(
            where,
            f"masked values in example {np.flatnonzero(rows)[0]}; {rows.sum():,} of "
            f"{len(found):,} examples have some",
            "values that are there",
            "leave out these examples, or fill in what is missing",
        )
    is_float = jax.dtypes.issubdtype(found.dtype, np.floating)
    if is_float and not np.issubdtype(found.dtype, np.floating):
        return found.astype(np.float32)
    return found


def require_names(given: Any) -> tuple[str, ...]:
    """Names of classes, in their order.

    Raises:
      DataError: They are no sequence, or a single text.
    """
    listed = isinstance(given, list | tuple) or (
        isinstance(given, np.ndarray) and given.ndim == 1
    )
    if not listed:
        raise DataError(
            "argument class_names",
            shorten(given),
            "a list with the name of each class",
            "pass class_names=['first', 'second', ...]",
        )
    return tuple(map(str, given))
