"""Checks of a configuration's fields: each says what it found and what was expected."""

import math
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from wpl_jax.errors import ConfigError


def require(valid: bool, config: ConfigDict, field: str, expected: str) -> None:
    """Raises a ConfigError about a field, by its dotted name, unless it is valid."""
    if valid:
        return
    value = get_field(config, field)
    flag = f"--config.{field}=VALUE"
    if isinstance(value, ConfigDict):
        value, flag = value.to_dict(), f"--config.{field}.NAME=VALUE"
    raise ConfigError(
        f"config.{field} is {value!r}, expected {expected}. Mend the config file, or "
        f"pass {flag}."
    )


def require_int(
    config: ConfigDict, field: str, least: int, why: str = "", optional: bool = False
) -> None:
    """Requires a whole number of at least ``least``, or None where ``optional``."""
    value = get_field(config, field)
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
    because = f" ({why})" if why else ""
    expected = f"a whole number of at least {least}{because}{_or_none(optional)}"
    require(valid or (optional and value is None), config, field, expected)


def require_number(
    config: ConfigDict, field: str, optional: bool = False, **bounds: float
) -> None:
    """Requires a number within bounds, or None where ``optional``.

    Args:
      config: The configuration.
      field: Dotted name.
      optional: Whether None will do.
      **bounds: Of ``least``, ``most``, ``above`` and ``below``.
    """
    value = get_field(config, field)
    valid = _is_within(value, **bounds) or (optional and value is None)
    expected = f"a number {_told(bounds)}{_or_none(optional)}"
    require(valid, config, field, expected)


def require_numbers(config: ConfigDict, field: str, **bounds: float) -> None:
    """Requires a sequence of numbers within bounds."""
    values = get_field(config, field)
    valid = isinstance(values, list | tuple) and all(
        _is_within(value, **bounds) for value in values
    )
    require(valid, config, field, f"numbers {_told(bounds)}")


def require_only(config: ConfigDict, path: str, known: Collection[str]) -> None:
    """Requires that the settings under a path are known ones."""
    settings = get_field(config, path)
    require(
        isinstance(settings, ConfigDict), config, path, f"the settings {set(known)}"
    )
    for name in settings:
        if name not in known:
            raise ConfigError(
                f"config.{path}.{name} is not a setting. Known are {sorted(known)}."
            )


def _is_within(
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and least <= value <= most and above < value < below


def _told(bounds: dict[str, float]) -> str:
    words = {"least": "at least", "most": "at most", "above": "above", "below": "below"}
    return " and ".join(f"{words[name]} {bound:g}" for name, bound in bounds.items())


def _or_none(optional: bool) -> str:
    return ", or None" if optional else ""


def require_choice(config: ConfigDict, field: str, known: Collection[Any]) -> None:
    """Requires one of the known values."""
    value = get_field(config, field)
    valid = any(type(value) is type(one) and value == one for one in known)
    require(valid, config, field, f"one of {sorted(known)}")


def require_choices(config: ConfigDict, field: str, known: Collection[Any]) -> None:
    """Requires a sequence of known values, at least one."""
    values = get_field(config, field)
    valid = (
        isinstance(values, list | tuple)
        and len(values) > 0
        and all(value in known for value in values)
    )
    require(valid, config, field, f"some of {sorted(known)}")


def with_changes(config: ConfigDict, changes: Any, said: str) -> ConfigDict:
    """A copy with changes, which may only be of fields that there are.

    Raises:
      ConfigError: With ``said``, and the field that there is not.
    """
    changed = config.copy_and_resolve_references()
    try:
        with changed.lock().ignore_type():
            changed.update(changes)
    except (AttributeError, KeyError) as error:
        raise ConfigError(f"{said}: {error}") from error
    return changed


def get_field(config: ConfigDict, field: str) -> Any:
    """The value under a dotted name; a ConfigError where there is none."""
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, ConfigDict) or name not in value:
            raise ConfigError(
                f"config.{field} is missing. Start from a file in configs/, which has "
                "every field."
            )
        value = value[name]
    return value
