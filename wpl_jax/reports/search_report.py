"""The report of searches: how much was forgotten, under which penalty."""

import itertools
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from wpl_jax.errors import UserError
from wpl_jax.evaluation import ranking_metrics
from wpl_jax.evaluation.rank_disorder import correlation, read_ranks
from wpl_jax.evaluation.retrain import REMEDY as REMEDY_FROM_SCRATCH
from wpl_jax.evaluation.retrain import RETRAINED_FILE, read_retrained
from wpl_jax.reports.drawing import animate, draw, height, to_dot
from wpl_jax.reports.page import COLORS, Page, band, new_figure
from wpl_jax.runs.monitor import METRICS_FILE, whole_records
from wpl_jax.runs.resumable import changed_records
from wpl_jax.runs.run_files import (
    NUMBER,
    NUMBER_OR_NULL,
    TEXT,
    Kind,
    below,
    check_fields,
    damaged,
    list_of,
    read_json,
    write_atomically,
)
from wpl_jax.supernet import Decision, Graph, Space, num_choices
from wpl_jax.tasks.guessing import Model, check_guess, lowest, read_guess, remark

REPORT_FILE = "report.html"
RESULTS_FILE = "results.json"

# Of a column of the metrics: its title in figures and tables.
PANELS = {
    "forgetting/error_mean": "(a) mean difference",
    "forgetting/error_best_mean": "(b) mean difference of the best 5",
    "forgetting/error_max": "(c) largest difference",
    "children/reward": "(d) mean reward",
}


# Of a column of the table: the column of the metrics, and its digits.
COLUMNS = {
    "mean difference": ("forgetting/error_mean", 2),
    "best 5": ("forgetting/error_best_mean", 2),
    "largest": ("forgetting/error_max", 1),
    "mean difference, nats": ("forgetting/loss_mean", 4),
    "best 5, nats": ("forgetting/loss_best_mean", 4),
    "largest, nats": ("forgetting/loss_max", 3),
    "rank correlation": ("forgetting/loss_kendall", 3),
}


# Where a search has learned nothing.
REMEDY = "Lower the learning rate (config.optimizer), or raise config.search.epochs."
RANKED = "the best random architecture with the shared weights"

LINEAR = 10  # Axes of differences that go beyond are logarithmic there.


class Searched(NamedTuple):
    """One finished search."""

    arm: str
    seed: int
    metrics: list[dict[str, Any]]  # a line an epoch
    results: dict[str, Any]
    retrained: dict[str, Any] | None  # what training from scratch gave

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return f"{self.arm}-seed{self.seed}"

    def curve(self, name: str) -> np.ndarray:
        """A column of the metrics, nan where it was not finite."""
        return np.array([row[name] for row in self.metrics], float)


def read(
    folder: Path, arm: str, seed: int, decisions: Sequence[Decision], epochs: int
) -> Searched:
    """Reads what a search left in its folder.

    Args:
      folder: Of the search.
      arm: Its arm.
      seed: Its seed.
      decisions: Of its space.
      epochs: How many it had.

    Raises:
      UserError: If it has not finished, or a file is not what a search writes.
    """
    path = folder / RESULTS_FILE
    if not path.exists():
        raise UserError(
            f"There is no {path}: the search has not finished. Run it without --mode "
            "first; it continues where it stopped."
        )
    fields = {
        "architecture": below(num_choices(decisions)),
        "error_name": TEXT,
        "valid_loss": NUMBER,
        "valid_error": NUMBER,
    }
    remedy = "Delete it and run again: it is made anew from the checkpoint."
    results = read_json(path, fields, remedy)
    check_guess(results, path, remedy)
    metrics = _read_metrics(folder, decisions, epochs)
    scratch = folder / "retrain" / RETRAINED_FILE
    retrained = read_retrained(scratch) if scratch.exists() else None
    return Searched(arm, seed, metrics, results, retrained)


def _read_metrics(
    folder: Path, decisions: Sequence[Decision], epochs: int
) -> list[dict[str, Any]]:
    """The records of a finished search, one an epoch."""
    path = folder / METRICS_FILE
    remedy = f"Restore it from a copy, or delete {folder} and run again."
    if not path.exists():
        damaged(path, "there is none", remedy)
    lines = whole_records(path)
    if len(lines) != epochs or b"".join(lines) != path.read_bytes():
        what = f"of its records the first {len(lines)} are whole, expected {epochs}"
        damaged(path, f"{what}, one an epoch, and nothing else", remedy)
    if changed := changed_records(folder, lines):
        damaged(path, changed, remedy)
    fields: dict[str, Kind] = dict.fromkeys(
        ["children/error", *PANELS, *(name for name, _ in COLUMNS.values())],
        NUMBER_OR_NULL,
    )
    fields["children/best"] = below(num_choices(decisions))
    records = []
    for number, line in enumerate(lines, 1):
        found, where = json.loads(line), f"line {number}: "
        fields["children/err1"] = list_of(NUMBER_OR_NULL)
        check_fields(found, fields, path, remedy, where)
        again = {"children/err2": list_of(NUMBER_OR_NULL, len(found["children/err1"]))}
        check_fields(found, again, path, remedy, where)
        records.append(found)
    return records


def write(
    workdir: Path,
    config: dict[str, Any],
    searches: Sequence[Searched],
    space: Space,
    about: str,
    start_epoch: int | None,
) -> None:
    """Writes ``report.html`` and ``figures/``.

    Args:
      workdir: Where to.
      config: Of the run.
      searches: The arms in order, each with its seeds; the first is the main one.
      space: What was searched, for the pictures.
      about: A line about the data.
      start_epoch: First epoch whose children leave a Fisher; None if none do.
    """
    arms: dict[str, list[Searched]] = {}
    for one in searches:
        arms.setdefault(one.arm, []).append(one)
    page = Page("A search with shared weights", workdir)
    _no_better_than_guessing(page, workdir, searches)
    _introduction(page, config, searches, about, start_epoch)
    _forgetting(page, start_epoch, arms)
    _curves(page, start_epoch, arms)
    _ranks(page, arms)
    _retrained(page, arms)
    _ranking(page, workdir, arms)
    _cells(page, workdir, arms, space)
    page.heading("Configuration")
    page.code(json.dumps(config, indent=1, sort_keys=True))
    page.write(workdir / REPORT_FILE)


def _no_better_than_guessing(
    page: Page, workdir: Path, searches: Sequence[Searched]
) -> None:
    """Names the searches, and trainings from scratch, that have learned nothing."""
    found, scratch = [], []
    ranks = read_ranks(workdir, [one.folder for one in searches])
    for one in searches:
        name, guess = f"{one.arm}, seed {one.seed}", read_guess(one.results)
        best = one.results["valid_error"]
        found.append(Model(f"{name}, the best architecture", best, guess))
        children = one.curve("children/error")[-1]
        if guess and guess.explains_all(children, one.metrics[-1]["children/err2"]):
            which = f"{name}, all children of the last epoch"
            found.append(Model(which, children, guess))
        if ranks:
            best = lowest(ranks["shared"][one.folder])
            found.append(Model(f"{name}, {RANKED}", best, guess))
        if one.retrained:
            error, guess = one.retrained["valid_error"], read_guess(one.retrained)
            scratch.append(Model(f"{name}, trained from scratch", error, guess))
    if ranks:
        name = f"the best random architecture, {ranks['truth']}"
        guess = read_guess(searches[0].results)
        scratch.append(Model(name, lowest(ranks["true_errors"]), guess))
    error_name = searches[0].results["error_name"]
    page.warning(remark(found, error_name, REMEDY))
    page.warning(remark(scratch, error_name, REMEDY_FROM_SCRATCH))


def _introduction(
    page: Page,
    config: dict,
    searches: Sequence[Searched],
    about: str,
    start_epoch: int | None,
) -> None:
    settings = config["search"]
    page.text(
        "One set of shared weights trains many candidate architectures, the children. "
        "That is cheap, and has a price: training one child changes weights that "
        "others use, and they forget. A search that ranks children by what the shared "
        "weights make of them then ranks them wrongly.",
        f"Each epoch trains {settings['children']} children, one after the other, on "
        f"{settings['batches']} batches each. err1 is a child's error right after its "
        "own training, err2 the same at the end of the epoch, after the others have "
        "been trained. The difference err2 - err1 is what was forgotten; below 0, the "
        "other children's training has helped.",
        "The Weight Plasticity Loss (WPL; Benyahia et al., ICML 2019) pulls each "
        "shared weight back to where the children before left it, in proportion to "
        f"its Fisher information. {_when(start_epoch)}L2 is the same pull for all "
        "weights; EWC (Elastic Weight Consolidation) adds up a pull for each earlier "
        "child.",
        f"Data: {about}. Errors: {searches[0].results['error_name']} "
        f"on {settings['eval_batches']} validation batches, without dropout. "
        f"{len({one.seed for one in searches})} seed(s).",
    )


def _when(start_epoch: int | None) -> str:
    return "" if start_epoch is None else f"It is on from epoch {start_epoch + 1}. "


def _after(start_epoch: int | None, curve: np.ndarray) -> np.ndarray:
    """The epochs in which penalties are on; all where there is no penalty."""
    first = 0 if start_epoch is None else min(start_epoch + 1, len(curve) - 1)
    return curve[first:]


def _forgetting(
    page: Page, start_epoch: int | None, arms: dict[str, list[Searched]]
) -> None:
    page.heading("How much was forgotten")
    error = next(iter(arms.values()))[0].results["error_name"]
    rows = []
    for arm, seeds in arms.items():
        cells = [
            _spread([_mean(_after(start_epoch, s.curve(name))) for s in seeds], digits)
            for name, digits in COLUMNS.values()
        ]
        rewards = [s.curve("children/reward")[-1] for s in seeds]
        errors = [s.results["valid_error"] for s in seeds]
        rows.append((arm, *cells, _spread(rewards, 3), _spread(errors, 1)))
    page.table(
        ("penalty", *COLUMNS, "mean reward, last epoch", f"{error} of the best"), rows
    )
    page.text(
        f"Differences are err2 - err1, of the {error} where nothing else is said, in "
        "means over the epochs after the first with the penalty, ± the standard error "
        "over seeds. Rank correlation: Kendall's tau between err1 and err2, 1 where "
        "the children keep their order. The best: what is selected at the end, by its "
        f"{error} with the shared weights on the whole validation set."
    )


def _curves(
    page: Page, start_epoch: int | None, arms: dict[str, list[Searched]]
) -> None:
    page.heading("Forgetting over the epochs")
    error = next(iter(arms.values()))[0].results["error_name"]
    figure = new_figure(10, 7)
    for ax, (name, title) in zip(
        figure.subplots(2, 2).flat, PANELS.items(), strict=True
    ):
        for (arm, seeds), color in _colored(arms):
            curves = np.array([s.curve(name) for s in seeds])
            epochs = np.arange(1, curves.shape[1] + 1)
            band(ax, epochs, curves, color, arm)
        if start_epoch is not None:
            ax.axvline(start_epoch + 1, color="0.6", ls=":", lw=1)
        ax.set(title=title, xlabel="epoch")
        if name.startswith("error"):
            ax.axhline(0, color="0.6", lw=0.8)
            if max(map(abs, ax.get_ylim())) > LINEAR:
                # Children that explode in one epoch would hide all the others.
                ax.set_yscale("symlog", linthresh=LINEAR)
    figure.axes[0].legend(fontsize="small")
    page.figure(
        figure,
        "forgetting",
        f"As figure 3 of the paper: err2 - err1, {error}, over the children of each "
        "epoch, and the mean reward of the epoch's children at its end. Dotted: the "
        "first epoch in which children leave a Fisher. Mean over seeds, with a band of "
        f"one standard deviation. The axes of (a) to (c) are linear up to {LINEAR}, "
        "and logarithmic beyond.",
    )


def _ranks(page: Page, arms: dict[str, list[Searched]]) -> None:
    page.heading("Whether the children keep their order")
    figure = new_figure(4 * len(arms), 4)
    grid = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)
    for ax, ((arm, seeds), color) in zip(grid[0], _colored(arms), strict=True):
        last = seeds[0].metrics[-1]
        err1, err2 = (
            np.array(last[name], float) for name in ("children/err1", "children/err2")
        )
        ax.plot(err1, err2, "o", color=color)
        there = [x for x in (*err1, *err2) if np.isfinite(x)]
        if there:
            ends = (min(there), max(there))
            ax.plot(ends, ends, color="0.6", lw=0.8)
        # A child whose states explode would leave no room for the others.
        ax.set(title=arm, xlabel="err1, nats", xscale="log", yscale="log")
        for axis in (ax.xaxis, ax.yaxis):  # Its range is a part of a decade, or many.
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
    grid[0][0].set_ylabel("err2, nats")
    page.figure(
        figure,
        "ranks",
        "The children of the last epoch, the first seed. Above the line: forgotten.",
    )


def _retrained(page: Page, arms: dict[str, list[Searched]]) -> None:
    rows = []
    for arm, seeds in arms.items():
        found = [s.retrained for s in seeds if s.retrained]
        if found:
            errors = [
                _spread([each[f"{split}_error"] for each in found], 2)
                for split in ("valid", "test")
            ]
            parameters = f"{np.mean([each['parameters'] for each in found]):,.0f}"
            rows.append((arm, *errors, parameters, str(len(found))))
    if not rows:
        return
    error = next(iter(arms.values()))[0].results["error_name"]
    page.heading("Trained from scratch")
    page.table(
        ("penalty", f"validation {error}", f"test {error}", "parameters", "seeds"), rows
    )
    page.text(
        "The best architecture of each search, trained from scratch with the settings "
        "in config.retrain; ± the standard error over seeds. The test data was used "
        "for nothing else."
    )


def _ranking(page: Page, workdir: Path, arms: dict[str, list[Searched]]) -> None:
    """What ``--mode=rank`` has found, if it has been run."""
    names = [one.folder for seeds in arms.values() for one in seeds]
    found = read_ranks(workdir, names)
    if found is None:
        return
    true_errors = np.array(found["true_errors"], float)
    error = next(iter(arms.values()))[0].results["error_name"]
    page.heading("Rank disorder")
    figure = new_figure(4 * len(arms), 4)
    grid = figure.subplots(1, len(arms), sharey=True, squeeze=False)
    rows, k = [], max(1, len(true_errors) // 5)
    for ax, ((arm, seeds), color) in zip(grid[0], _colored(arms), strict=True):
        for one in seeds:
            shared = np.array(found["shared"][one.folder], float)
            tau, low, high = correlation(shared, true_errors)
            taus = f"{tau:.2f}", f"{low:.2f} to {high:.2f}"
            rows.append((arm, str(one.seed), *taus, *_on_top(true_errors, shared, k)))
            ax.plot(shared, true_errors, "o", color=color, alpha=0.6, ms=4)
        ax.set(title=arm, xlabel=f"{error}, shared weights")
    grid[0][0].set_ylabel(f"{error}, {found['truth']}")
    page.figure(
        figure,
        "rank_disorder",
        f"{len(true_errors)} random architectures on the validation data: with the "
        f"shared weights of the searches, all seeds, and {found['truth']}.",
    )
    taus = "Kendall's tau", "95 % interval"
    page.table(("penalty", "seed", *taus, f"P@top {k}", f"BR@{k}", "regret"), rows)
    page.text(
        f"P@top {k}: how many of the best {k} by the shared weights truly are the best "
        f"{k}. BR@{k}: the best true rank of these {k}, divided by the number of "
        "architectures. Regret: how much the true error of the best by the shared "
        "weights is above the lowest. The metrics leave out errors that are not finite."
    )


def _on_top(true: np.ndarray, shared: np.ndarray, k: int) -> tuple[str, str, str]:
    """P@top K, BR@K and regret over what is finite in both, for a table."""
    there = np.isfinite(true) & np.isfinite(shared)
    if there.sum() < k:
        return ("nan",) * 3
    both = true[there], shared[there]
    return (
        f"{ranking_metrics.precision_at_top(*both, k):.2f}",
        f"{ranking_metrics.best_rank(*both, k):.2f}",
        f"{ranking_metrics.regret(*both):.2f}",
    )


def _cells(
    page: Page, workdir: Path, arms: dict[str, list[Searched]], space: Space
) -> None:
    page.heading("The best architectures")
    for arm, seeds in arms.items():
        best = min(seeds, key=lambda s: s.results["valid_error"])
        for cell, graph in space.graphs(best.results["architecture"]).items():
            name = f"{cell}_{arm}"
            figure = new_figure(10, height(graph))
            draw(graph, figure.subplots())
            page.figure(
                figure,
                name,
                f"{arm}, {cell}: {best.results['error_name']} "
                f"{best.results['valid_error']:.1f} on the validation set, with the "
                "shared weights.",
            )
            _graphviz(graph, workdir / "figures" / name)
    arm, seeds = next(iter(arms.items()))
    rows = seeds[0].metrics
    of_epochs = [space.graphs(row["children/best"]) for row in rows]
    for cell in of_epochs[0]:
        animate(
            [graphs[cell] for graphs in of_epochs],
            [f"best of epoch {row['step'] + 1}" for row in rows],
            workdir / "figures" / f"{cell}_over_epochs.gif",
        )
    page.text(
        f"figures/*_over_epochs.gif show the best child of each epoch under {arm}; "
        "figures/*.dot are the same pictures for Graphviz."
    )


def _graphviz(graph: Graph, path: Path) -> None:
    """The picture in Graphviz's language, and drawn by it where it is installed."""
    text = to_dot(graph).encode(errors="backslashreplace")
    write_atomically(path.with_suffix(".dot"), text)
    if shutil.which("dot"):
        command = ["dot", "-Tsvg"]  # Not with the path, which may look like a flag.
        drawn = subprocess.run(command, check=False, input=text, stdout=subprocess.PIPE)
        if drawn.returncode == 0:  # A broken Graphviz is no loss.
            write_atomically(Path(f"{path}_graphviz.svg"), drawn.stdout)


def _colored(
    arms: dict[str, list[Searched]],
) -> list[tuple[tuple[str, list[Searched]], str]]:
    """The arms, each with a color."""
    return list(zip(arms.items(), itertools.cycle(COLORS), strict=False))


def _mean(values: np.ndarray) -> float:
    """The mean of what is finite, nan where nothing is."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")


def _spread(values: Sequence[float], digits: int) -> str:
    """The mean, and its standard error where there are several."""
    mean = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{mean} ± {error:.{digits}f}"
