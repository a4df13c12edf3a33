"""Checks of a part's settings: each says what it found and what was expected.

A part is a frozen dataclass that checks its own fields when it is made:

    def __post_init__(self) -> None:
        check_parts(self)
        check_int(self, "steps", 1)
        check_number(self, "learning_rate", above=0)

It knows no configuration. What builds it from one adds where the field was set. The
same checks serve other objects with attributes, such as fields of a configuration.
"""

import contextlib
import dataclasses
import inspect
import math
import types
import typing
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

    def __init__(self, name: str, value: Any, expected: str, of: str = ""):
        """Takes the three, and the part's class if the message is to name it."""
        whole = f"{of}.{name}" if of else name
        super().__init__(f"{whole} is {shown(value)}, expected {expected}.")
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


def check_parts(part: Any, but: Collection[str] = ()) -> None:
    """Checks that the fields that hold parts hold instances of their type hints.

    These are the fields whose hints are dataclasses or protocols. A class that does not
    inherit from the protocol, which has the methods that it may leave out, has to have
    all of its methods and attributes.

    Args:
      part: A dataclass.
      but: Names of fields that are checked otherwise.

    Raises:
      SettingError: Naming the class and the field that holds anything else, such as
        the name of a part or its class.
    """
    hints = _hints(type(part))
    for field in dataclasses.fields(part):
        every = alternatives(hints[field.name])
        kinds = [hint for hint in every if hint is not type(None)]
        if field.name in but or not kinds or not all(map(_is_kind, kinds)):
            continue
        value, optional = getattr(part, field.name), len(kinds) < len(every)
        valid = any(_fits(value, kind) for kind in kinds)
        if not valid and not (optional and value is None):
            names = " or ".join(f"{kind.__module__}.{kind.__name__}" for kind in kinds)
            expected = f"an instance of a class that inherits from {names}"
            whole = f"{expected}{_or_none(optional)}"
            raise SettingError(field.name, value, whole, type(part).__name__)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type hint the hint itself."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        return typing.get_args(hint)
    return (hint,)


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


def _hints(cls: type) -> dict[str, Any]:
    """Type hints by the names of fields."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, AttributeError):  # Names of a function, or for type checkers.
        return {field.name: field.type for field in dataclasses.fields(cls)}


def _is_kind(hint: Any) -> bool:
    """Whether a type hint is a class of parts."""
    if not isinstance(hint, type):
        return False
    return dataclasses.is_dataclass(hint) or _is_protocol(hint)


def _fits(value: Any, kind: type) -> bool:
    if kind in type(value).__mro__:
        return True
    if isinstance(value, type) or not _is_protocol(kind):
        return False
    bases = [base for base in kind.__mro__ if _is_protocol(base)]
    names = {n for base in bases for n in (*vars(base), *inspect.get_annotations(base))}
    return {name for name in names if not name.startswith("_")} <= set(dir(value))


def _is_protocol(kind: type) -> bool:
    return typing.Protocol in kind.__bases__


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
