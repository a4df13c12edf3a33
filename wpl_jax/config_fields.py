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


def require_int(config: ConfigDict, field: str, least: int, why: str = "") -> None:
    """Requires a whole number of at least ``least``."""
    value = get_field(config, field)
    valid = isinstance(value, int) and not isinstance(value, bool) and value >= least
    because = f" ({why})" if why else ""
    require(valid, config, field, f"a whole number of at least {least}{because}")


def require_number(
    config: ConfigDict,
    field: str,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Requires a finite number within bounds, or a tuple of them."""
    value = get_field(config, field)
    values = value if isinstance(value, list | tuple) else (value,)
    valid = all(
        isinstance(x, int | float) and least <= x <= most and above < x < below
        for x in values
    )
    bounds = {"at least": least, "at most": most, "above": above, "below": below}
    told = " and ".join(
        f"{words} {bound:g}" for words, bound in bounds.items() if math.isfinite(bound)
    )
    kind = "numbers" if isinstance(value, list | tuple) else "a number"
    require(valid, config, field, f"{kind} {told}")


def require_choice(config: ConfigDict, field: str, known: Collection[Any]) -> None:
    """Requires one of the known values."""
    value = get_field(config, field)
    valid = not isinstance(value, list | tuple) and value in known
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
