"""Fields of a configuration on the command line: parsers, and who reads them."""

import ast
import difflib
import os
import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

import wpl_jax
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.jobs.config_fields import leaves
from wpl_jax.jobs.unread import Unread, why
from wpl_jax.runs.run_directory import CONFIG_FILE
from wpl_jax.runs.run_files import TEXT, read_json


class ConfigFileError(Exception):
    """A configuration file whose own code fails; no ValueError, which absl rewrites."""


class _Optional(flags.ArgumentParser):
    """A parser of numbers that also takes ``None``."""

    def __init__(self, parser: flags.ArgumentParser):
        """Takes the parser of the numbers."""
        super().__init__()
        self._parser = parser
        self.syntactic_help = parser.syntactic_help

    def parse(self, argument: Any) -> Any:
        """None, or a number."""
        return None if argument == "None" else self._parser.parse(argument)

    def flag_type(self) -> str:
        """The type's name in the help."""
        return f"{self._parser.flag_type()} or None"


class _Literal(flags.ArgumentParser):
    """A parser of Python's literals; what is none is a text."""

    def parse(self, argument: Any) -> Any:
        """The value."""
        try:
            return ast.literal_eval(argument)
        except (SyntaxError, ValueError):
            return argument

    def flag_type(self) -> str:
        """The type's name in the help."""
        return "literal"


class _OpenSections(flags.ArgumentParser):
    """A parser of configuration files that lets flags add to some sections.

    One kind are options of data formats. Which there are, and of which types, only the
    reader of a format knows; it refuses others. The others are changes of arms: each
    field that the configuration has.
    """

    def __init__(self, parser: flags.ArgumentParser, argv: Sequence[str]):
        """Takes the parser of the files, and the flags."""
        super().__init__()
        self._parser = parser
        self._options = [found.groups() for found in map(_OPTION.match, argv) if found]
        self._changes = [found.groups() for found in map(_CHANGE.match, argv) if found]

    def parse(self, argument: Any) -> Any:
        """The configuration, with those options and changes as fields."""
        if str(argument).endswith(".json"):
            config = _of_run(Path(argument))
        else:
            try:
                config = self._parser.parse(argument)
            except Exception as error:
                raise ConfigFileError(_of_file(argument, error)) from error
        for section, name in self._options:
            options = _below(config, section)
            if options is None or (name in options and options.get_type(name) is str):
                continue
            with options.unlocked(), options.ignore_type():
                value = options.get(name)
                options[name] = config_dict.FieldReference(value, field_type=object)
        for arm, field in self._changes:
            _add_change(config, arm, field)
        return config


def _of_run(path: Path) -> ConfigDict:
    """The configuration that a run has written to its folder."""
    remedy = "Give the config.json of a run, or a Python file, as --config."
    try:
        found = read_json(path, {"job": TEXT}, remedy)
    except UserError as error:
        raise ConfigFileError(str(error)) from error
    return ConfigDict({name: _with_tuples(value) for name, value in found.items()})


def _with_tuples(value: Any) -> Any:
    """A value of a JSON file with tuples, which flags can set, in place of lists."""
    if isinstance(value, dict):
        return {name: _with_tuples(each) for name, each in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _of_file(argument: Any, error: BaseException) -> str:
    """What fails in a configuration file, and where, in one line."""
    # ml_collections puts the traceback into the text of another error.
    if "Error whilst parsing config file" in str(error) and error.__context__:
        error = error.__context__
    if isinstance(error, SyntaxError | ImportError):
        return f"{argument}: {error}"
    last = traceback.extract_tb(error.__traceback__)[-1]
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{argument}: {kind}{error} ({last.filename}, line {last.lineno})"


_OPTION = re.compile(r"--?config\.((?:\w+\.)*data)\.(\w+)(?:=|$)")
_CHANGE = re.compile(r"--?config\.arms\.([\w-]+)\.(\w+(?:\.\w+)*)(?:=|$)")


def _add_change(config: Any, arm: str, field: str) -> None:
    """Gives an arm a field of the configuration, with its value there."""
    section, _, name = f".{field}".rpartition(".")
    changes, common = _below(config, f"arms.{arm}"), _below(config, section[1:])
    both = isinstance(changes, ConfigDict) and isinstance(common, ConfigDict)
    if not both or name not in common or name in (_below(changes, section[1:]) or {}):
        return
    change = {name: common[name]}
    for outer in reversed(section.split(".")[1:]):
        change = {outer: change}
    with changes.unlocked():
        changes.update(change)


_BUILT_IN = Path(wpl_jax.__file__).parent / "configs"


def register_parsers(config_flag: flags.Flag, argv: Sequence[str]) -> None:
    """Lets the command line set all that a configuration can hold.

    Fields that are numbers can be set to None, and those that are None to any literal;
    a field's check says if they may.
    Sections named ``data`` take options that the file does not have. Arms take changes
    of all fields that the configuration has.

    Args:
      config_flag: The flag of the configuration file.
      argv: The arguments.
    """
    config_flags.register_flag_parser_for_type(int, _Optional(flags.IntegerParser()))
    config_flags.register_flag_parser_for_type(float, _Optional(flags.FloatParser()))
    config_flags.register_flag_parser_for_type(type(None), _Literal())
    config_flag.parser = _OpenSections(config_flag.parser, argv)


def with_built_in(argv: Sequence[str]) -> list[str]:
    """Arguments with the file of a built-in configuration in place of its name.

    In the path of another one, ``~`` is the home folder.
    """
    found = list(argv)
    for i, argument in enumerate(found):
        if argument in ("--config", "-config") and i + 1 < len(found):
            found[i + 1] = _built_in(found[i + 1])
        flag, _, value = argument.partition("=")
        if flag in ("--config", "-config") and value:
            found[i] = f"{flag}={_built_in(value)}"
    return found


def with_config_of_run(argv: Sequence[str]) -> list[str]:
    """Arguments with the configuration of the run in the workdir, if none is given.

    A run that Python has started has none: its parts are objects.

    Args:
      argv: With the name of the program.
    """
    found = list(argv)
    if _value_of("config", argv) is None and (folder := _value_of("workdir", argv)):
        path = Path(os.path.expanduser(folder)) / CONFIG_FILE
        try:
            of_python = "job" not in read_json(path, {}, "")
        except UserError:  # What is damaged says so when it is read.
            of_python = not path.exists()
        if not of_python:
            found.insert(1, f"--config={path}")  # before its fields
    return found


def advice(argv: Sequence[str]) -> str:
    """The built-in configuration that a name which is no file is like; "" for none."""
    name = config_file(argv).partition(":")[0]
    known = [path.stem for path in _BUILT_IN.glob("[a-z]*.py")]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f". Did you mean the built-in configuration {close[0]}?" if close else ""


def _built_in(value: str) -> str:
    """The file of a built-in configuration; what follows a colon is its argument."""
    value = os.path.expanduser(value)
    name, colon, argument = value.partition(":")
    path = _BUILT_IN / f"{name}.py"
    is_name = re.fullmatch(r"[a-z]\w*", name) is not None
    return f"{path}{colon}{argument}" if is_name and path.is_file() else value


def config_file(argv: Sequence[str]) -> str:
    """The configuration file that arguments name, also where it cannot be read."""
    return _value_of("config", argv) or "the configuration file"


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    """What arguments give a flag, the last time; None if they do not."""
    found = None
    for i, argument in enumerate(argv):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == flag:
            found = value or " ".join(argv[i + 1 : i + 2])
    return found


def check_overrides(
    config: ConfigDict, fields: Iterable[str], by_arm: Mapping[str, Unread]
) -> None:
    """Checks that some run reads each field that the command line sets.

    Args:
      config: The configuration.
      fields: Dotted names of what the command line sets.
      by_arm: Of each arm, what it does not read, and why; under the name "", of what
        has no arms.

    Raises:
      ConfigError: If no arm reads one of them.
    """
    for field in fields if by_arm else ():
        found = _below(config, field)
        set_now = list(leaves(ConfigDict() if found is None else found, field))
        reasons = {
            arm: [why(unread, leaf) for leaf in set_now]
            for arm, unread in by_arm.items()
        }
        if not set_now or not all(map(all, reasons.values())):
            continue
        if all(_sets(config, arm, set_now) for arm in by_arm):
            arms_flags = " ".join(f"--config.arms.{arm}.{field}=" for arm in by_arm)
            raise ConfigError(
                f"--config.{field} changes nothing: every arm sets config.{field} "
                f"itself ({', '.join(by_arm)}). Set it in an arm ({arms_flags}), or "
                "mend config.arms in the config file."
            )
        told: dict[str, str] = {}
        for arm, all_reasons in reasons.items():
            told.setdefault(str(all_reasons[0]), arm)
        several = len(told) > 1
        because = "; ".join(
            f"in the arm {arm}, {one}" if several else one for one, arm in told.items()
        )
        raise ConfigError(
            f"--config.{field} changes nothing: {because}. Leave the flag out, or "
            "change what keeps it from being read."
        )


def _sets(config: ConfigDict, arm: str, fields: Iterable[str]) -> bool:
    """Whether an arm has values of its own for all of some fields."""
    return bool(arm) and set(fields) <= set(leaves(config.arms[arm]))


def _below(config: Any, field: str) -> Any:
    """What a configuration has under a dotted name, None for nothing."""
    for name in filter(None, field.split(".")):
        if not isinstance(config, ConfigDict) or name not in config:
            return None
        config = config[name]
    return config


def config_flags_of(argv: Sequence[str]) -> tuple[str, ...]:
    """The flags that choose a configuration and its fields, as they were given.

    Args:
      argv: Without the name of the program.

    Examples:
      >>> config_flags_of(["--config", "a.py", "--workdir=b", "--config.seed=3"])
      ('--config=a.py', '--config.seed=3')
    """
    found: list[str] = []
    words = iter(argv)
    for word in words:
        name, equals, _ = word.partition("=")
        if not re.fullmatch(r"--?config(\..+)?", name):
            continue
        found.append(word if equals else f"{word}={next(words, '')}")
    return tuple(found)
