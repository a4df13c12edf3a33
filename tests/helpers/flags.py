"""Flags, parsed as the command does."""

from absl import flags
from ml_collections import config_flags

from wpl_jax.jobs import command_line


def parse(file, *overrides):
    """The configuration that flags give, and the names of what they set."""
    argv = ["launch.py", f"--config={file}", *(f"--config.{one}" for one in overrides)]
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", flag_values=values, sys_argv=argv
    )
    command_line.register_parsers(values["config"], argv)
    # What the flag defines while it is parsed is known in a second pass.
    values(argv)
    return holder.value, list(config_flags.get_override_values(values["config"]))
