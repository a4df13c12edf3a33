"""``--mode=report``: the report of finished searches, written anew."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from wpl_jax.devices import processes
from wpl_jax.errors import UserError
from wpl_jax.evaluation import rank_files
from wpl_jax.evaluation.retrained import RETRAINED_FILE, read_retrained
from wpl_jax.jobs import baselines, ranking
from wpl_jax.jobs.arms import of_each_arm
from wpl_jax.jobs.build import build_chosen
from wpl_jax.jobs.expand import Run, arm_names, expand
from wpl_jax.jobs.open_task import OpenedTask, open_task
from wpl_jax.jobs.results import is_finished
from wpl_jax.protections import PENALTIES
from wpl_jax.reports.searched import REPORT_FILE, RESULTS_FILE, Searched
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.run_directory import check_same_run, in_turn, open_run
from wpl_jax.strategies import STRATEGIES
from wpl_jax.supernet import Space
from wpl_jax.tasks import DataCache

_MOST_NAMED = 5  # searches in a line that is printed


def report(config: ConfigDict, workdir: Path, machine: Machine = Machine()) -> None:
    """Draws the figures and writes the report of finished searches anew.

    The searches are those of ``workdir`` and of ``machine.joined``. The report is
    written to ``workdir``.
    """
    with open_run(workdir, config.to_dict(), existing=not machine.joined):
        if processes.is_primary():
            by_path = {f.resolve(): f for f in (*machine.joined, workdir)}
            del by_path[workdir.resolve()]  # The first, under whatever name.
            folders = [workdir, *by_path.values()]
            check_same_run(folders)
            anew = len(folders) > 1
            write_report(config, folders, DataCache(), machine.config_flags, anew)


def open_all(runs: list[Run], cache: DataCache) -> dict[str, OpenedTask]:
    """The opened task of each arm; arms share the data."""
    return of_each_arm(runs, lambda arm, config: open_task(config, cache))


def check_finished(runs: list[Run], workdir: Path, cache: DataCache) -> None:
    """Checks that searches have finished, and that their files are not damaged.

    Args:
      runs: The searches.
      workdir: Of the run.
      cache: Of data.

    Raises:
      UserError: As :func:`read_search` does.
    """
    if processes.is_primary():
        opened = open_all(runs, cache)
        for each in runs:
            read_search(each, workdir, opened[each.arm].task.space)


class Done(NamedTuple):
    """What the searches of a share are when a mode has ended.

    Attributes:
      name: In a sentence.
      holds: Whether a search is, in the folder of a run.
      ranked: Whether architectures have been ranked, so that the report compares them.
    """

    name: str
    holds: Callable[[Run, Path], bool]
    ranked: bool = False


FINISHED = Done("finished", is_finished)


def finish(
    config: ConfigDict,
    workdir: Path,
    cache: DataCache,
    machine: Machine,
    done: Done = FINISHED,
) -> None:
    """Writes the report at the end of the last share of a folder.

    Of other shares it prints which searches are left.

    Args:
      config: Of the run.
      workdir: Folder of the run, which is open.
      cache: Of data.
      machine: With the share that has ended.
      done: What its searches are now.
    """
    if not processes.is_primary():
        return
    runs = expand(config)
    with in_turn(workdir):
        left = [each.title for each in runs if not done.holds(each, workdir)]
        if not left:
            flags = machine.config_flags
            return write_report(config, [workdir], cache, flags, done.ranked)
    print(
        f"Share {machine.share} is finished. {len(left)} of {len(runs)} searches are "
        f"not {done.name} in {workdir}: {_some(left)}. The share "
        "that finishes last writes the report. If the others have folders of their "
        "own, --mode=report --join=FOLDER writes it.",
        flush=True,
    )


def _some(names: Sequence[str]) -> str:
    """The first names, and how many others there are."""
    others = len(names) - _MOST_NAMED
    more = f"; and {others} more" if others > 0 else ""
    return f"{'; '.join(names[:_MOST_NAMED])}{more}"


def write_report(
    config: ConfigDict,
    folders: Sequence[Path],
    cache: DataCache,
    flags: Sequence[str] = (),
    rank_anew: bool = False,
) -> None:
    """Writes the report of all searches of a configuration, which have finished.

    Args:
      config: Of the run.
      folders: That hold the searches; the report is written to the first.
      cache: Of data.
      flags: Of the command line, that choose the configuration and its fields.
      rank_anew: Whether rankings are compared again, if they have been before.

    Raises:
      UserError: If a search has not finished, or a file is not what it writes.
    """
    # Here: Matplotlib takes a third of a command's time to start.
    from wpl_jax.reports import search_report

    runs, order, workdir = expand(config), arm_names(config), folders[0]
    opened = open_all(runs, cache)
    runs.sort(key=lambda each: order.index(each.arm))
    places = _places(runs, folders)
    searched = [
        read_search(each, place, opened[each.arm].task.space)
        for each, place in zip(runs, places, strict=True)
    ]
    if rank_anew or not (workdir / rank_files.RANKS_FILE).exists():
        of_searches = [
            each.folder(place) for each, place in zip(runs, places, strict=True)
        ]
        _join_rankings(config, searched, of_searches, folders)
    starts = {
        build_chosen(PENALTIES, each.config, "penalty").start_epoch for each in runs
    }
    start = min((epoch for epoch in starts if epoch is not None), default=None)
    about = opened[runs[0].arm].about
    strategies = of_each_arm(
        runs,
        lambda arm, config: build_chosen(
            STRATEGIES, config, "strategy", space=opened[arm].task.space
        ),
    )
    search_report.write(
        workdir, config.to_dict(), searched, about, start, strategies, flags
    )
    print(f"Report: {workdir / REPORT_FILE}")


def _places(runs: list[Run], folders: Sequence[Path]) -> list[Path]:
    """Of each search, the one of several folders in which it has finished."""
    places: list[Path] = []
    missing = []
    for each in runs:
        found = [f for f in folders if (each.folder(f) / RESULTS_FILE).exists()]
        if len(found) > 1:
            raise UserError(
                f"{each.title} has finished in {found[0]} and in {found[1]}. Leave "
                f"one of the folders out, or delete {each.folder(found[1])}."
            )
        if not found:
            missing.append(each.title)
        places += found or folders[:1]
    if missing and len(folders) > 1:
        raise UserError(
            f"{len(missing)} of {len(runs)} searches have not finished in any of "
            f"{', '.join(map(str, folders))}: {_some(missing)}. Run their shares "
            "without --mode, or join their folders with --join=FOLDER."
        )
    return places


def _join_rankings(
    config: ConfigDict,
    searched: Sequence[Searched],
    of_searches: Sequence[Path],
    folders: Sequence[Path],
) -> None:
    """Compares the rankings of all searches, if all have been ranked."""
    left = [
        one.folder
        for one, folder in zip(searched, of_searches, strict=True)
        if not rank_files.is_ranked(folder)
    ]
    if not left:
        ranking.join(config, searched, of_searches, folders)
    elif len(left) < len(searched):
        print(
            f"The report has no rankings, as {len(left)} of {len(searched)} searches "
            f"are not ranked: {_some(left)}. --mode=rank ranks them.",
            flush=True,
        )


def read_search(each: Run, workdir: Path, space: Space) -> Searched:
    """Reads what a finished search has left.

    Raises:
      UserError: As :func:`wpl_jax.reports.search_report.read` does.
    """
    from wpl_jax.reports import search_report

    epochs, folder = each.config.search.epochs, each.folder(workdir)
    found = search_report.read(folder, each.arm, each.seed, space, epochs)
    trained = {
        name: read_retrained(path)
        for name, below in baselines.folders(each, workdir).items()
        if (path := below / RETRAINED_FILE).exists()
    }
    return found._replace(baselines=trained)
