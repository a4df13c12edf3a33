"""``--mode=report``: the report of finished searches, written anew."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.jobs.arms import of_each_arm
from wpl_jax.jobs.build import build_chosen
from wpl_jax.jobs.search_config import OpenedTask, Run, arm_names, expand, open_task
from wpl_jax.protections import PENALTIES
from wpl_jax.reports.searched import REPORT_FILE, Searched
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import open_run
from wpl_jax.supernet import Space
from wpl_jax.tasks import DataCache


def report(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Draws the figures and writes the report of finished searches anew."""
    del machine
    with open_run(workdir, config.to_dict(), existing=True):
        if processes.is_primary():
            opened = open_all(expand(config))
            spaces = {arm: task.task.space for arm, task in opened.items()}
            about = next(iter(opened.values())).about
            write_report(config, workdir, spaces, about)


def open_all(runs: list[Run]) -> dict[str, OpenedTask]:
    """The opened task of each arm; arms share the data."""
    cache = DataCache()
    return of_each_arm(runs, lambda arm, config: open_task(config, cache))


def write_report(
    config: ConfigDict, workdir: Path, spaces: Mapping[str, Space], about: str
) -> None:
    """Writes the report of all searches of a configuration, which have finished.

    Args:
      config: Of the run.
      workdir: Folder of the run.
      spaces: Of each arm, what it searched.
      about: A line about the data.

    Raises:
      UserError: If a search has not finished, or a file is not what it writes.
    """
    # Here: Matplotlib takes a third of a command's time to start.
    from wpl_jax.reports import search_report

    if not processes.is_primary():
        return
    runs = expand(config)
    order = arm_names(config)
    searched = [read_search(each, workdir, spaces[each.arm]) for each in runs]
    searched.sort(key=lambda one: order.index(one.arm))
    starts = {
        build_chosen(PENALTIES, each.config, "penalty").start_epoch for each in runs
    }
    start = min((epoch for epoch in starts if epoch is not None), default=None)
    search_report.write(workdir, config.to_dict(), searched, about, start)
    print(f"Report: {workdir / REPORT_FILE}")


def read_search(each: Run, workdir: Path, space: Space) -> Searched:
    """Reads what a finished search has left.

    Raises:
      UserError: As :func:`wpl_jax.reports.search_report.read` does.
    """
    from wpl_jax.reports import search_report

    epochs = each.config.search.epochs
    return search_report.read(each.folder(workdir), each.arm, each.seed, space, epochs)
