"""Parts as values of JSON, and back."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any


def to_plain(part: Any) -> dict[str, Any]:
    """The fields of a dataclass, parts in it as dicts of theirs."""
    return dataclasses.asdict(part)


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
