"""The jobs that a configuration can name; a new one is one line here."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.devices import choice
from wpl_jax.errors import ConfigError, UserError, on_command_line, shorten
from wpl_jax.jobs import command_line, two_models, unread
from wpl_jax.jobs import search as search_run
from wpl_jax.jobs.config_fields import check_values
from wpl_jax.runs.machine import Machine

# Of each job, its modes: functions of the configuration, the folder and the machine.
JOBS = {
    "search": search_run.MODES,
    "two_models": two_models.MODES,
}


# Of jobs that do not read all settings: functions of the configuration and the mode,
# which return what each arm does not read.
UNREAD = {"search": unread.by_arm}


# Flags of some modes: of each, the jobs that read it, and in which of their modes.
FLAGS: dict[str, dict[str, tuple[str, ...]]] = {
    "share": {"search": ("run", "derive", "rank", "ensemble")},
    "join": {"search": ("report",)},
    "budget": {"search": ("time",)},
    "input": {"search": ("predict",)},
    "output": {"search": ("export", "predict")},
    "format": {"search": ("export",)},
    "log": {"search": ("run", "retrain", "rank"), "two_models": ("run",)},
}
# Modes of a search's job that read what a run has left, and no configuration.
WITHOUT_CONFIG = ("export", "predict")


def check_overrides(config: ConfigDict, fields: Iterable[str], mode: str) -> None:
    """Checks that the job reads each field that the command line sets.

    Raises:
      ConfigError: If it does not read one of them.
    """
    fields, job = list(fields), config.get("job")
    if fields and isinstance(job, str) and job in UNREAD:
        command_line.check_overrides(config, fields, UNREAD[job](config, mode))


@on_command_line()
def run(
    config: ConfigDict | None, workdir: Path, mode: str, machine: Machine = Machine()
) -> None:
    """Runs one mode of a configuration's job.

    Args:
      config: With the job's name in ``config.job``; may be None for a mode of
        :data:`WITHOUT_CONFIG`.
      workdir: Folder of the run.
      mode: One of the job's modes, "run" for the whole of it.
      machine: How the job uses this machine.

    Raises:
      UserError: If the job or mode is unknown, or its input is wrong.
    """
    if config is None and mode not in WITHOUT_CONFIG:
        raise ConfigError(f"--mode={mode} needs a configuration, with --config=FILE.")
    job = "search" if config is None else config.get("job")
    modes = JOBS.get(job) if isinstance(job, str) else None
    if modes is None:
        raise ConfigError(
            f"config.job is {shorten(job)}, expected one of {sorted(JOBS)}."
        )
    if mode not in modes:
        close = difflib.get_close_matches(mode, modes, n=1)
        raise UserError(
            f"--mode={mode} is not a mode of the job {job}, which has "
            f"{sorted(modes)}.{f' Did you mean {close[0]}?' if close else ''}"
        )
    _check_flags(job, mode, machine)
    if config is not None:
        check_values(config)
    # Before the data is read, which may take minutes.
    choice.check_count(machine.devices)
    try:
        workdir.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"--workdir={shorten(str(workdir))} cannot be a folder: {reason}. Give "
            "another path."
        ) from error
    modes[mode](config, workdir, machine)


def _check_flags(job: str, mode: str, machine: Machine) -> None:
    """Checks that the mode reads the flags that only some modes read."""
    given = {
        "share": not machine.share.is_whole,
        "join": bool(machine.joined),
        "budget": machine.budget is not None,
        "input": machine.input is not None,
        "output": machine.output is not None,
        "format": bool(machine.formats),
        "log": bool(machine.loggers),
    }
    for flag, modes_of_jobs in FLAGS.items():
        if given[flag] and mode not in modes_of_jobs.get(job, ()):
            known = [
                f"--mode={name} of the job {one}"
                for one, names in modes_of_jobs.items()
                for name in names
            ]
            raise UserError(
                f"--{flag} changes nothing in --mode={mode} of the job {job}: leave it "
                f"out. It is for {', '.join(known)}."
            )
