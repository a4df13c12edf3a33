"""The two-model experiment from a configuration."""

from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.jobs.build import build
from wpl_jax.jobs.config_fields import get_field, naming_option, require_names
from wpl_jax.jobs.job import Job, Mode
from wpl_jax.runs.machine import Machine
from wpl_jax.two_models import run as two_models_run
from wpl_jax.two_models.arms import Settings


def settings_of(config: ConfigDict) -> Settings:
    """The settings of the experiment; a ConfigError names one that is wrong."""
    require_names(config, "studies")
    get_field(config, "data.format")
    return build(Settings, config, "", also=("job", "data"))


def run(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Runs or resumes the experiment; see :func:`wpl_jax.two_models.run.run`.

    Args:
      config: As ``configs/two_models_mnist.py`` gives it.
      workdir: Folder of the run.
      machine: With one device.
    """
    settings = settings_of(config)
    options = get_field(config, "data").to_dict()
    with naming_option("data", options):
        two_models_run.run(settings, options, config.to_dict(), workdir, machine)


def report(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Draws the figures and writes the report of a finished run anew."""
    del machine
    two_models_run.report(settings_of(config), config.to_dict(), workdir)


JOB = Job({"run": Mode(run, ("log",)), "report": Mode(report)})
