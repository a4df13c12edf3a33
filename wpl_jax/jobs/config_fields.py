"""Checks of a configuration's fields: each says what it found and what was expected."""

import contextlib
import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from wpl_jax.common.settings import MOST_SEED, SettingError, check_int, shown
from wpl_jax.data import DataError
from wpl_jax.errors import ConfigError, UserError, is_text, shorten

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of the configuration that an error is about.

    Attributes:
      name: Dotted name.
    """

    name: str

    def __str__(self) -> str:
        """As a message names it."""
        return f"config.{self.name}"


class FieldError(ConfigError):
    """An error about fields of the configuration, which it carries.

    Attributes:
      parts: Of the message: texts, and the fields that stand between them.

    Examples:
      >>> print(FieldError(Field("search.epochs"), " is missing."))
      config.search.epochs is missing.
    """

    def __init__(self, *parts: str | Field):
        """Takes the parts; the message is made of them when it is shown."""
        super().__init__(*parts)
        self.parts = parts

    def __str__(self) -> str:
        """The message."""
        return "".join(map(str, self.parts))


def wrong(field: str, value: Any, expected: str) -> FieldError:
    """The error of a field with a value that is not expected.

    Args:
      field: Dotted name.
      value: What it is: a plain value, a section, or the part that it describes.
      expected: What it should be, in words.
    """
    below = ""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        below = ".NAME"
    return FieldError(
        Field(field),
        f" is {shown(value)}, expected {expected}. Mend the config file, or pass --",
        Field(field),
        f"{below}=VALUE.",
    )


@contextlib.contextmanager
def naming(
    path: str,
    given: Collection[str] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Names a part's setting by where the configuration has it.

    Args:
      path: Dotted name of the section that holds the part's settings.
      given: Fields that no configuration sets.
      elsewhere: Of fields that another section holds, the dotted name of that.

    Raises:
      ConfigError: In place of a SettingError.
      UserError: In place of one about a given field.
    """
    try:
        yield
    except SettingError as error:
        if error.name in given:
            raise UserError(str(error)) from error
        field = join((elsewhere or {}).get(error.name, path), error.name)
        raise wrong(field, error.value, error.expected) from error


@contextlib.contextmanager
def naming_option(path: str, options: Collection[str]) -> Iterator[None]:
    """Adds to an error of the data the flag of the option that it is about.

    Args:
      path: Dotted name of the section that holds the options.
      options: Their names.

    Raises:
      DataError: In place of one about an option.
    """
    try:
        yield
    except DataError as error:
        if error.option is None or error.option not in options:
            raise
        remedy = f"{error.remedy} (--config.{join(path, error.option)}=VALUE)"
        raise DataError(
            error.where, error.found, error.expected, remedy, error.option
        ) from error


class _Fields:
    """Fields of a configuration as attributes, also by dotted names."""

    def __init__(self, config: ConfigDict):
        self._config = config

    def __getattr__(self, name: str) -> Any:
        return get_field(self._config, name)


@contextlib.contextmanager
def fields_of(config: ConfigDict) -> Iterator[_Fields]:
    """The fields of a configuration, for checks of :mod:`wpl_jax.common.settings`.

    Raises:
      ConfigError: Naming the field that is missing or wrong.

    Examples:
      >>> from wpl_jax.common.settings import check_int
      >>> with fields_of(ConfigDict({"search": {"epochs": 3}})) as fields:
      ...     check_int(fields, "search.epochs", least=1)
    """
    with naming(""):
        yield _Fields(config)


def check_seed(config: ConfigDict) -> None:
    """Checks ``config.seed``; a ConfigError says what is wrong."""
    with fields_of(config) as fields:
        check_int(fields, "seed", 0, most=MOST_SEED)


def require_only(config: ConfigDict, path: str, known: Collection[str]) -> None:
    """Requires that the settings under a path are known ones."""
    expected = f"the settings {sorted(known)}"
    settings = require_settings(config, path, expected) if path else config
    for name in settings:
        if name not in known:
            raise FieldError(
                Field(join(path, name)),
                f" is not a setting. Known are {sorted(known)}.",
            )


def require_settings(
    config: ConfigDict, field: str, expected: str = "settings", least: int = 0
) -> ConfigDict:
    """The settings under a field, of which no flag can be a whole section.

    Raises:
      ConfigError: If it is something else, or they are fewer than ``least``.
    """
    found = get_field(config, field)
    if not isinstance(found, ConfigDict) or len(found) < least:
        raise FieldError(
            Field(field),
            f" is {shorten(found)}, expected {expected}. Mend the config file.",
        )
    return found


def check_values(config: ConfigDict, field: str = "") -> None:
    """Checks that all values are of kinds that a file of JSON can hold.

    Args:
      config: The configuration, or the part of it that has the name ``field``.
      field: Dotted name.

    Raises:
      ConfigError: Naming the first field with another value.
    """
    for name in config:
        if not isinstance(name, str) or not is_text(name):
            where = f"config.{field}" if field else "config"
            raise ConfigError(f"{where} has the name {name!a}, expected a text.")
        below = join(field, name)
        try:
            value = config[name]
        except config_dict.RequiredValueError as error:
            raise FieldError(
                Field(below), " has no value. Pass --", Field(below), "=VALUE."
            ) from error
        if isinstance(value, ConfigDict):
            check_values(value, below)
        elif not _is_plain(value):
            raise FieldError(
                Field(below),
                f" is {shorten(value)}, expected a finite number, a text, True, False, "
                "None, or a list or tuple of those. Write a path as str(path), a set "
                "as a tuple, and numbers of arrays as int or float.",
            )


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if isinstance(value, str):
        return type(value) is str  # A path may hold bytes that are not UTF-8.
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (bool, int)


def require_names(config: ConfigDict, field: str) -> None:
    """Requires settings whose names can be those of folders, figures and pages."""
    expected = "names with settings, at least one"
    for name in require_settings(config, field, expected, least=1):
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise FieldError(
                Field(field),
                f" has the name {shorten(name)}, expected at most 64 letters, digits, "
                "_ and -: it is that of a folder. Rename it in the config file.",
            )


def with_changes(
    config: ConfigDict, changes: Any, where: str, within: str = "the configuration"
) -> ConfigDict:
    """A copy with changes, which may only be of fields that there are.

    Args:
      config: The configuration.
      changes: New values, in sections as the configuration has them.
      where: What makes the changes, for messages.
      within: What is changed, for messages.

    Raises:
      ConfigError: If there is no such field, or a section would become a value.
    """
    changed = config.copy_and_resolve_references()
    _check_known(changed, changes, where, within)
    with changed.lock().ignore_type():
        changed.update(changes)
    return changed


def _check_known(
    config: ConfigDict, changes: Any, where: str, within: str, path: str = ""
) -> None:
    for name, value in changes.items():
        below = join(path, str(name))
        if name not in config:
            close = difflib.get_close_matches(str(name), map(str, config), n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigError(
                f"{where} changes a setting that {within} does not have: {below}.{hint}"
            )
        if isinstance(config[name], ConfigDict):
            if not isinstance(value, ConfigDict | dict):
                raise ConfigError(
                    f"{where} sets {below} to {shorten(value)}, expected settings of "
                    f"{sorted(config[name])}."
                )
            _check_known(config[name], value, where, within, below)


@contextlib.contextmanager
def changes_of(prefix: str, changes: Any) -> Iterator[None]:
    """Names fields in errors by where they are set.

    Args:
      prefix: Of the configuration's part that has changes to other parts.
      changes: What is there.

    Raises:
      FieldError: In place of one about FIELD, where FIELD is one of the changes: about
        PREFIX.FIELD.
    """
    try:
        yield
    except FieldError as error:
        fields = {Field(name): Field(f"{prefix}.{name}") for name in leaves(changes)}
        parts = (
            fields.get(part, part) if isinstance(part, Field) else part
            for part in error.parts
        )
        raise FieldError(*parts) from error


def leaves(config: Any, field: str = "") -> Iterator[str]:
    """Dotted names of the settings in a configuration, of those below a field."""
    if not isinstance(config, ConfigDict | dict):
        if field:
            yield field
        return
    for name in config:
        yield from leaves(config[name], join(field, str(name)))


def join(path: str, name: str) -> str:
    """The dotted name of a field below a path, which may be empty."""
    return f"{path}.{name}" if path else name


def get_field(config: ConfigDict, field: str) -> Any:
    """The value under a dotted name; a ConfigError where there is none."""
    value: Any = config
    for name in field.split("."):
        if not isinstance(value, ConfigDict) or name not in value:
            raise FieldError(
                Field(field),
                " is missing. Start from a file in configs/, which has every field.",
            )
        value = value[name]
    return value
