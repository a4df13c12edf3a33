"""Checks of a part's settings: each says what it found and what was expected.

A part is a frozen dataclass that checks its own fields when it is made:

    def __post_init__(self) -> None:
        check_int(self, "steps", 1)
        check_number(self, "learning_rate", above=0)

It knows no configuration. What builds it from one adds where the field was set. The
same checks serve other objects with attributes, such as fields of a configuration.
"""

import contextlib
import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from wpl_jax.errors import shorten

MOST_INT = 2**31 - 1  # of a count, which JAX holds as int32
MOST_NODES = 100  # of a cell: tracing takes time in proportion to their square
MOST_OF_A_CALL = 1_000_000  # steps of a call, whose end a signal waits for
MOST_SEED = 2**32 - 1  # of a seed: keys are made of 32 bits
LARGEST = float(np.finfo(np.float32).max)  # of a number, which JAX holds as float32
SMALLEST = float(np.finfo(np.float32).tiny)  # above 0; below it digits are lost
_MOST_SHOWN = 300  # characters of a value in a message


class SettingError(ValueError):
    """A setting that a part does not take.

    Attributes:
      name: The part's field.
      value: What it is.
      expected: What it should be, in words.
    """

    def __init__(self, name: str, value: Any, expected: str):
        """Takes the three."""
        super().__init__(f"{name} is {shown(value)}, expected {expected}.")
        self.name, self.value, self.expected = name, value, expected


@contextlib.contextmanager
def of_part(path: str) -> Iterator[None]:
    """Names the settings of a part by the path of the part in another one.

    Raises:
      SettingError: In place of one about the part's field.
    """
    try:
        yield
    except SettingError as error:
        name = f"{path}.{error.name}"
        raise SettingError(name, error.value, error.expected) from error


def require(part: Any, name: str, valid: bool, expected: str) -> None:
    """Raises a SettingError about a field unless it is valid."""
    if not valid:
        raise SettingError(name, getattr(part, name), expected)


def check_int(
    part: Any,
    name: str,
    least: int,
    why: str = "",
    optional: bool = False,
    most: int = MOST_INT,
) -> None:
    """Checks a whole number within bounds, or None where ``optional``.

    Raises:
      SettingError: If the field is anything else.
    """
    value = getattr(part, name)
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    valid = (whole and least <= value <= most) or (optional and value is None)
    because = f" ({why})" if why else ""
    limit = f" and at most {most}" if whole and value > most else ""
    expected = f"a whole number of at least {least}{because}{limit}"
    require(part, name, valid, f"{expected}{_or_none(optional)}")


def check_number(part: Any, name: str, optional: bool = False, **bounds: float) -> None:
    """Checks a number within bounds, or None where ``optional``.

    Args:
      part: The part.
      name: Of its field.
      optional: Whether None will do.
      **bounds: Of ``least``, ``most``, ``above`` and ``below``.

    Raises:
      SettingError: If the field is anything else.
    """
    value = getattr(part, name)
    valid = _is_within(value, **bounds) or (optional and value is None)
    expected = f"a number {_in_words(bounds)}{_or_none(optional)}"
    require(part, name, valid, f"{expected}{_if_not_held([value])}")


def check_numbers(part: Any, name: str, **bounds: float) -> None:
    """Checks a sequence of numbers within bounds.

    Raises:
      SettingError: If the field is anything else.
    """
    values = getattr(part, name)
    several = isinstance(values, list | tuple)
    valid = several and all(_is_within(value, **bounds) for value in values)
    unheld = _if_not_held(values if several else [])
    require(part, name, valid, f"numbers {_in_words(bounds)}{unheld}")


def check_choice(part: Any, name: str, known: Collection[Any]) -> None:
    """Checks one of the known values, of the same type.

    Raises:
      SettingError: If the field is another value.
    """
    value = getattr(part, name)
    valid = any(type(value) is type(one) and value == one for one in known)
    require(part, name, valid, f"one of {sorted(known)}")


def check_choices(part: Any, name: str, known: Collection[Any]) -> None:
    """Checks a sequence of known values, at least one.

    Raises:
      SettingError: If the field is anything else.
    """
    values = getattr(part, name)
    valid = (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(value in known for value in values)
    )
    require(part, name, valid, f"some of {sorted(known)}")


def check_bool(part: Any, *names: str) -> None:
    """Checks that fields are True or False.

    Raises:
      SettingError: If a field is anything else, 0 and 1 included.
    """
    for name in names:
        check_choice(part, name, (False, True))


def check_part(part: Any, name: str, kind: type) -> None:
    """Checks that a field holds a part of a kind, whose class inherits from the kind.

    Raises:
      SettingError: If the field is anything else, the class itself included.
    """
    valid = kind in type(getattr(part, name)).__mro__
    expected = f"an instance of a class that inherits from {kind.__module__}"
    require(part, name, valid, f"{expected}.{kind.__name__}")


def shown(value: Any) -> str:
    """A value for a message."""
    whole = repr(value)
    return whole if len(whole) <= _MOST_SHOWN else shorten(value)


def chosen(known: Mapping[str, Any], default: Any = dataclasses.MISSING) -> Any:
    """A field whose part is chosen by name.

    In a configuration the field holds the name, and the part's settings lie beside it
    under that name: ``schedule = "cosine"`` and ``cosine.period = 10``.

    Args:
      known: Classes of parts by name.
      default: The part without a choice.
    """
    return dataclasses.field(default=default, metadata={"known": known})


def given(default: Any) -> Any:
    """A field that no configuration sets: who builds the part gives it a value.

    Args:
      default: The value without one.
    """
    return dataclasses.field(default=default, metadata={"given": True})


def is_given(field: dataclasses.Field) -> bool:
    """Whether a field is one of :func:`given`."""
    return bool(field.metadata.get("given"))


def _is_within(
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> bool:
    if not _is_real(value) or not _is_held(value):
        return False
    return bool(least <= value <= most and above < value < below)


def _is_real(value: Any) -> bool:
    number = int | float | np.integer | np.floating
    return isinstance(value, number) and not isinstance(value, bool)


def _is_held(value: float) -> bool:
    """Whether float32 holds a number, which else becomes 0 or infinity in a program."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _if_not_held(values: Iterable[Any]) -> str:
    """A part of a message where float32 does not hold one of the values."""
    if all(not _is_real(value) or _is_held(value) for value in values):
        return ""
    return ", which float32 can hold (1.2e-38 to 3.4e38)"


def _in_words(bounds: dict[str, float]) -> str:
    words = {"least": "at least", "most": "at most", "above": "above", "below": "below"}
    return " and ".join(f"{words[name]} {bound:g}" for name, bound in bounds.items())


def _or_none(optional: bool) -> str:
    return ", or None" if optional else ""
