"""The jobs that a configuration can name; a new one is one line here."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.devices import choice
from wpl_jax.errors import ConfigError, UserError, on_command_line, shorten
from wpl_jax.jobs import command_line, search, two_models
from wpl_jax.jobs.config_fields import check_values
from wpl_jax.jobs.job import Job
from wpl_jax.runs.machine import Machine

JOBS: dict[str, Job] = {
    "search": search.JOB,
    "two_models": two_models.JOB,
}


def without_config() -> dict[str, str]:
    """The modes that need no configuration, each with its job."""
    return {
        name: job
        for job, known in JOBS.items()
        for name, mode in known.modes.items()
        if not mode.needs_config
    }


def check_overrides(config: ConfigDict, fields: Iterable[str], mode: str) -> None:
    """Checks that the job reads each field that the command line sets.

    Raises:
      ConfigError: If it does not read one of them.
    """
    fields, job = list(fields), config.get("job")
    if not fields or not isinstance(job, str) or job not in JOBS:
        return  # `run` names a wrong job.
    of_mode = JOBS[job].modes.get(mode)
    unread = (of_mode and of_mode.unread) or JOBS[job].unread
    if unread:
        command_line.check_overrides(config, fields, unread(config, mode))


@on_command_line()
def run(
    config: ConfigDict | None, workdir: Path, mode: str, machine: Machine = Machine()
) -> None:
    """Runs one mode of a configuration's job.

    Args:
      config: With the job's name in ``config.job``; may be None for a mode of
        :func:`without_config`.
      workdir: Folder of the run.
      mode: One of the job's modes, "run" for the whole of it.
      machine: How the job uses this machine.

    Raises:
      UserError: If the job or mode is unknown, or its input is wrong.
    """
    if config is not None:
        job = _name(config)
    elif mode in without_config():
        job = without_config()[mode]
    else:
        raise ConfigError(f"--mode={mode} needs a configuration, with --config=FILE.")
    modes = JOBS[job].modes
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
    modes[mode].run(config, workdir, machine)


def _name(config: ConfigDict) -> str:
    """The name of its job; a ConfigError if there is none of that name."""
    job = config.get("job")
    if not isinstance(job, str) or job not in JOBS:
        raise ConfigError(
            f"config.job is {shorten(job)}, expected one of {sorted(JOBS)}."
        )
    return job


def _check_flags(job: str, mode: str, machine: Machine) -> None:
    """Checks that the mode reads the flags that only some modes read."""
    for flag in machine.given_flags():
        if flag in JOBS[job].modes[mode].flags:
            continue
        known = [
            f"--mode={name} of the job {one}"
            for one, of_job in JOBS.items()
            for name, found in of_job.modes.items()
            if flag in found.flags
        ]
        raise UserError(
            f"--{flag} changes nothing in --mode={mode} of the job {job}: leave it "
            f"out. It is for {', '.join(known)}."
        )
