"""Parts as values of JSON, and back."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from wpl_jax.errors import UserError, shorten


def to_plain(part: Any) -> dict[str, Any]:
    """The fields of a dataclass as values of JSON, parts in it as dicts of theirs.

    A field that holds anything else, such as a function, is left out if it has its
    default, which the class knows.

    Args:
      part: The dataclass.

    Raises:
      UserError: If such a field has another value.
    """
    found: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        try:
            found[field.name] = _plain(value)
        except TypeError as error:
            if value is not field.default:
                raise UserError(
                    f"{type(part).__name__} has {field.name}={shorten(value)}, which "
                    "no file can hold, expected a number, a text, True, False, None, "
                    "or tuples of them. Pass a name of it, and look up what it stands "
                    "for in the network; or make it the default."
                ) from error
    return found


def _plain(value: Any) -> Any:
    """A value of JSON; a TypeError if it is none."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_plain(value)
    if isinstance(value, np.generic):  # As sizes are that numpy has computed.
        value = value.item()
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{value!r} is no value of JSON")


def text_of(part: Any) -> str:
    """What tells a part from others, the same in each process.

    It is ``repr`` without the addresses of functions and other objects in memory.
    """
    return re.sub(r" at 0x[0-9a-f]+", "", repr(part))


def from_plain(cls: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass whose fields :func:`to_plain` returned, perhaps through JSON.

    Args:
      cls: The dataclass.
      values: Its fields by name; JSON has lists where it has tuples.

    Raises:
      TypeError: If it has other fields.
      ValueError: If it does not accept their values.
    """
    hints = typing.get_type_hints(cls)
    return cls(**{name: _as(hints.get(name), v) for name, v in values.items()})


def _as(hint: Any, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_as(None, each) for each in value)
    if isinstance(value, Mapping):
        is_union = isinstance(hint, types.UnionType)
        for one in typing.get_args(hint) if is_union else (hint,):
            if isinstance(one, type) and dataclasses.is_dataclass(one):
                return from_plain(one, value)
    return value
