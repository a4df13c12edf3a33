"""Search spaces, a module each."""

from typing import Any

from ml_collections import ConfigDict

from wpl_jax.config_fields import require, require_choice
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
      ConfigError: If there is no such space, or a setting is not one of its own.
    """
    require_choice(config, "space.name", SPACES)
    settings = {k: v for k, v in config.space.items() if k != "name"}
    try:
        return SPACES[config.space.name](**settings, **sizes)
    except (TypeError, ValueError) as error:
        require(False, config, "space", f"settings of that space ({error})")
        raise
