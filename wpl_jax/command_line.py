"""Fields of a configuration on the command line: parsers, and who reads them."""

from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from wpl_jax.errors import ConfigError


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


def register_parsers() -> None:
    """Lets fields that are numbers be set to None; a field's check says if it may."""
    config_flags.register_flag_parser_for_type(int, _Optional(flags.IntegerParser()))
    config_flags.register_flag_parser_for_type(float, _Optional(flags.FloatParser()))


def config_file(argv: Sequence[str]) -> str:
    """The configuration file that arguments name, also where it cannot be read."""
    file = "the configuration file"
    for i, argument in enumerate(argv):
        name, _, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name == "config":
            file = value or " ".join(argv[i + 1 : i + 2])
    return file


def check_overrides(config: ConfigDict, fields: Iterable[str]) -> None:
    """Checks that some run reads each field that the command line sets.

    Args:
      config: The configuration, perhaps with arms.
      fields: Dotted names of what the command line sets.

    Raises:
      ConfigError: If every arm has a value of its own for one of them.
    """
    arms = config.get("arms")
    if not isinstance(arms, ConfigDict) or not len(arms):
        return
    for field in fields:
        wanted = _leaves(config, field)
        setting = [arm for arm in arms if wanted <= _leaves(arms[arm])]
        if wanted and len(setting) == len(arms):
            flags_of_arms = " ".join(f"--config.arms.{arm}.{field}=" for arm in setting)
            raise ConfigError(
                f"--config.{field} changes nothing: every arm sets config.{field} "
                f"itself ({', '.join(setting)}). Set it in an arm "
                f"({flags_of_arms}), or mend config.arms in the config file."
            )


def _leaves(config: Any, field: str = "") -> set[str]:
    """Dotted names of the settings in a configuration, of those below a field."""
    value = config
    for name in field.split(".") if field else ():
        if not isinstance(value, ConfigDict) or name not in value:
            return set()
        value = value[name]
    if not isinstance(value, ConfigDict):
        return {field} if field else set()
    below = (f"{field}.{name}" if field else name for name in value)
    return {leaf for name in below for leaf in _leaves(config, name)}
