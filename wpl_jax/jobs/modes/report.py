"""``--mode=report``: the report of finished searches, written anew."""

from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.jobs.build import build_chosen
from wpl_jax.jobs.search_config import Run, arm_names, expand, open_task
from wpl_jax.protections import PENALTIES
from wpl_jax.reports import search_report
from wpl_jax.reports.search_report import REPORT_FILE
from wpl_jax.reports.searched import Searched
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import open_run
from wpl_jax.supernet import Space


def report(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Draws the figures and writes the report of finished searches anew."""
    del machine
    with open_run(workdir, config.to_dict(), existing=True):
        if processes.is_primary():
            opened = open_task(expand(config)[0].config)
            write_report(config, workdir, opened.task.space, opened.about)


def write_report(config: ConfigDict, workdir: Path, space: Space, about: str) -> None:
    """Writes the report of all searches of a configuration, which have finished.

    Args:
      config: Of the run.
      workdir: Folder of the run.
      space: Of the searches.
      about: A line about the data.

    Raises:
      UserError: If a search has not finished, or a file is not what it writes.
    """
    if not processes.is_primary():
        return
    runs = expand(config)
    order = arm_names(config)
    searched = [read_search(each, workdir, space) for each in runs]
    searched.sort(key=lambda one: order.index(one.arm))
    starts = {
        build_chosen(PENALTIES, each.config, "penalty").start_epoch for each in runs
    }
    start = min((epoch for epoch in starts if epoch is not None), default=None)
    search_report.write(workdir, config.to_dict(), searched, space, about, start)
    print(f"Report: {workdir / REPORT_FILE}")


def read_search(each: Run, workdir: Path, space: Space) -> Searched:
    """Reads what a finished search has left; see :func:`search_report.read`."""
    epochs = each.config.search.epochs
    return search_report.read(each.folder(workdir), each.arm, each.seed, space, epochs)
