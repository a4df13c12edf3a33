"""Search spaces, a module each."""

import inspect
from typing import Any

from ml_collections import ConfigDict

from wpl_jax.common.config_fields import get_field, require_choice, require_only
from wpl_jax.errors import ConfigError
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import Space

SPACES: dict[str, Any] = {
    MicroCell.name: MicroCell,
    RecurrentCell.name: RecurrentCell,
}


def make_space(config: ConfigDict, **sizes: Any) -> Space:
    """The space that ``config.space`` names, with the sizes that the data gives it.

    Raises:
      ConfigError: Naming the setting that is wrong, is missing or is not one of the
        space's.
    """
    require_choice(config, "space.name", SPACES)
    make = SPACES[config.space.name]
    own = {
        name: parameter
        for name, parameter in inspect.signature(make).parameters.items()
        if name not in sizes
    }
    require_only(config, "space", {"name", *own})
    for name, parameter in own.items():
        if parameter.default is parameter.empty:
            get_field(config, f"space.{name}")
    settings = {k: v for k, v in config.space.items() if k != "name"}
    try:
        return make(**settings, **sizes)
    except ValueError as error:
        # A space's messages begin with the name of the setting.
        said, name = str(error).rstrip("."), str(error).partition(" ")[0]
        raise ConfigError(
            f"config.space.{said}. Mend the config file, or pass "
            f"--config.space.{name}=VALUE."
            if name in settings
            else f"config.space does not fit: {said}. Mend the config file."
        ) from error
