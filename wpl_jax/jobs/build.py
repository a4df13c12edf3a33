"""From configurations to parts, and from parts to configurations.

Parts are dataclasses that check themselves and know no configuration. A part that is
chosen by name has its settings under that name, so that two parts never share a field:

    config.strategy.name = "enas"
    config.strategy.enas.steps = 2000
"""

import dataclasses
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

from ml_collections import ConfigDict, config_dict

from wpl_jax.common.registry import settings_name
from wpl_jax.common.settings import alternatives, is_given
from wpl_jax.errors import UserError, shorten
from wpl_jax.jobs.config_fields import (
    Field,
    FieldError,
    get_field,
    join,
    naming,
    require_only,
    require_settings,
    wrong,
)

_MISSING = dataclasses.MISSING


def build(
    cls: Any,
    config: ConfigDict,
    path: str,
    also: Collection[str] = (),
    **given: Any,
) -> Any:
    """Builds a part from its settings.

    Args:
      cls: Dataclass of the part.
      config: The configuration.
      path: Dotted name of the section that holds the part's settings.
      also: What else the section may hold.
      **given: Fields that no configuration sets, such as sizes that the data gives.

    Raises:
      ConfigError: If a setting is missing, unknown or wrong, with its dotted name.
      UserError: If one of the given fields is wrong.
    """
    fields = {name: f for name, f in part_fields(cls).items() if name not in given}
    chosen = {name: known for name, f in fields.items() if (known := known_parts(f))}
    sections = {settings_name(part) for known in chosen.values() for part in known}
    section = get_field(config, path) if path else config
    own_names = {*fields, *sections, *_chosen_now(section, chosen)}
    require_only(config, path, own_names | set(also))
    types_of = typing.get_type_hints(cls)
    values = dict(given)
    for name, field in fields.items():
        if name not in section and _default(field) is not _MISSING:
            continue
        below = join(path, name)
        value = get_field(config, below)
        part = _part_of(types_of[name])
        if name in chosen:
            values[name] = _build_chosen(chosen[name], config, below, path)
        elif part is not None and isinstance(value, ConfigDict):
            values[name] = build(part, config, below)
        elif (each := _part_of_mapping(types_of[name])) is not None:
            names = require_settings(config, below)
            values[name] = {n: build(each, config, f"{below}.{n}") for n in names}
        elif part is not None:
            raise wrong(below, value, f"the settings {sorted(part_fields(part))}")
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    with naming(path, given):
        return cls(**values)


def build_chosen(
    known: Mapping[str, Any],
    config: ConfigDict,
    path: str,
    also: Collection[str] = (),
    **given: Any,
) -> Any:
    """Builds the part that ``config.PATH.name`` names from ``config.PATH.NAME``.

    Args:
      known: Classes of parts by name.
      config: The configuration.
      path: Dotted name of the section with the name and the parts' settings.
      also: What else the section may hold.
      **given: As of :func:`build`.

    Raises:
      ConfigError: If there is no such part, or a setting of its is wrong.
    """
    find_class(known, config, f"{path}.name")
    check_sections(known, [config], path, also)
    return _build_chosen(known, config, f"{path}.name", path, **given)


def check_sections(
    known: Mapping[str, Any],
    configs: Sequence[ConfigDict],
    path: str,
    also: Collection[str] = (),
) -> None:
    """Checks that a section holds a name and settings of parts, and nothing else.

    Args:
      known: Classes of parts by name.
      configs: Variants of a configuration. With several, a section of a part that is
        none of the known ones must be chosen by one of them; of one variant alone it
        may be another's.
      path: Dotted name of the section.
      also: What else it may hold.

    Raises:
      ConfigError: Naming a field that it may not hold.
    """
    chosen = {section_of(config, path).rpartition(".")[2] for config in configs}
    sections = {settings_name(name) for name in known} | chosen
    section = require_settings(configs[0], path)
    of_others = {name for name in section if isinstance(section[name], ConfigDict)}
    may_be = of_others if len(configs) == 1 else set()
    require_only(configs[0], path, {"name", *sections, *may_be, *also})


def find_class(known: Mapping[str, Any], config: ConfigDict, field: str) -> Any:
    """The class that a field names.

    Raises:
      ConfigError: If there is none of that name, it cannot be imported, or it is no
        dataclass, as all parts are.
    """
    name = get_field(config, field)
    if not isinstance(name, str) or name not in known:
        raise wrong(field, name, f'one of {sorted(known)} or "package.module:Name"')
    try:
        found = known[name]
    except ImportError as error:
        raise FieldError(Field(field), f" is {name!r}: {error}.") from error
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise FieldError(
            Field(field),
            f" is {name!r}, which is {shorten(found)}, expected a class that is a "
            "dataclass. @wpl_jax.space makes one of a network that calls "
            "wpl_jax.choice, and wpl_jax.task one of arrays and a loss.",
        )
    return found


def section_of(config: ConfigDict, path: str) -> str:
    """The path of the settings of the part that ``config.PATH.name`` names."""
    return f"{path}.{settings_name(str(get_field(config, f'{path}.name')))}"


def settings(cls: Any, **changes: Any) -> ConfigDict:
    """The settings of a part for a configuration: its defaults, but for changes.

    Args:
      cls: Dataclass of the part.
      **changes: Of fields; those of parts in it as dicts.

    Raises:
      TypeError: If the part has no such field.
    """
    found, types_of = ConfigDict(), typing.get_type_hints(cls)
    fields = part_fields(cls)
    for name, field in fields.items():
        value = changes.pop(name, _default(field))
        known, part = known_parts(field), _part_of(types_of[name])
        if known:
            if value is _MISSING:
                continue
            if not isinstance(value, str):  # The default, a part.
                value = next(n for n in known if known[n] is type(value))
            found[name] = value
            for one in known:
                section = settings_name(one)
                found[section] = settings(known[one], **changes.pop(section, {}))
        elif part is not None and not isinstance(value, dict | ConfigDict):
            if value is not None and value is not _MISSING:
                found[name] = settings(part, **dataclasses.asdict(value))
        elif part is not None:
            found[name] = settings(part, **value)
        elif value is _MISSING:
            continue
        elif value is None:
            found[name] = config_dict.placeholder(_plain_type(types_of[name]))
        else:  # Flags take the type of what is there.
            is_float = _plain_type(types_of[name]) is float
            found[name] = float(value) if is_float else value
    if changes:
        raise TypeError(
            f"{cls.__name__} has no settings {sorted(changes)}, but {sorted(fields)}"
        )
    return found


def choice(known: Mapping[str, Any], name: str, **sections: Any) -> ConfigDict:
    """A section of a configuration that chooses a part by name.

    Args:
      known: Classes of parts by name.
      name: The part that is chosen.
      **sections: Of each part that the section is to have settings of, what differs
        from its defaults; the chosen one need not be among them.
    """
    found = ConfigDict({"name": name})
    for part, changes in ({settings_name(name): {}} | sections).items():
        cls = known[name if part == settings_name(name) else part]
        found[part] = settings(cls, **changes)
    return found


def _build_chosen(known, config, field, path, **given):
    cls = find_class(known, config, field)
    own = settings_name(get_field(config, field))
    needs = (n for n, f in part_fields(cls).items() if _default(f) is _MISSING)
    if own not in get_field(config, path) and set(needs) <= set(given):
        return cls(**given)
    return build(cls, config, f"{path}.{own}", **given)


def offered(cls: Any, **values: Any) -> dict[str, Any]:
    """Those of some values that a part has fields for (:func:`settings.given`).

    Args:
      cls: Dataclass of the part.
      **values: By the names of fields.
    """
    names = {field.name for field in dataclasses.fields(cls) if is_given(field)}
    return {name: value for name, value in values.items() if name in names}


def check_inherits(part: Any, base: type) -> None:
    """Checks that a part has the methods that its protocol has defaults for.

    Raises:
      UserError: If its class does not inherit from the protocol.
    """
    if base not in type(part).__mro__:
        raise UserError(
            f"{type(part).__name__} does not inherit from {base.__module__}."
            f"{base.__name__}, which has the methods that it may leave out."
        )


def part_fields(cls: Any) -> dict[str, Any]:
    """The fields of a part that a configuration may set, by name."""
    return {
        field.name: field
        for field in dataclasses.fields(cls)
        if field.init and not is_given(field)
    }


def known_parts(field: Any) -> Mapping[str, Any] | None:
    """The classes that a field chooses from by name; None if it does not."""
    return field.metadata.get("known")


def _chosen_now(section: ConfigDict, chosen: Mapping[str, Any]) -> Iterator[str]:
    """Sections of parts that are chosen by an import path."""
    for name in chosen:
        if isinstance(value := section.get(name), str):
            yield settings_name(value)


def _default(field: Any) -> Any:
    if field.default_factory is not _MISSING:
        return field.default_factory()
    return field.default


def _part_of(hint: Any) -> Any:
    """The dataclass that a field holds, None if it holds anything else."""
    for one in alternatives(hint):
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return one
    return None


def _part_of_mapping(hint: Any) -> Any:
    """The dataclass that a field holds several of, by names."""
    if typing.get_origin(hint) is not Mapping:
        return None
    return _part_of(typing.get_args(hint)[1])


def _plain_type(hint: Any) -> type:
    """The type of a field's values that are not None."""
    found = next(one for one in alternatives(hint) if one is not type(None))
    if typing.get_origin(found) is Literal:
        return type(typing.get_args(found)[0])
    return typing.get_origin(found) or found
