"""The architecture weights themselves over the epochs: heat maps and animations."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from wpl_jax.reports.animation import frames_of, write_gif
from wpl_jax.reports.page import COLORS, Page, new_figure
from wpl_jax.reports.searched import Columns, Searched
from wpl_jax.reports.sections.section import Report, Section
from wpl_jax.reports.sections.weight_entropy import WEIGHTS, columns
from wpl_jax.runs.run_files import make_folder
from wpl_jax.supernet import Decision, Space

_SEEDS = 3  # side by side in a figure
_MOST_FRAMES = 40  # of an animation
_MILLISECONDS = 200  # that a frame is shown


def _show(page: Page, report: Report) -> None:
    arms = list(report.recording(WEIGHTS))
    if not arms:
        return
    page.heading("Architecture weights over the epochs")
    for arm, seeds, _ in arms:
        for number in range(0, len(seeds), _SEEDS):
            some = seeds[number : number + _SEEDS]
            numbers = " and ".join(str(one.seed) for one in some)
            page.figure(
                heat_map(some),
                f"weights_{arm}_{number // _SEEDS + 1}",
                f"{arm}, seed {numbers}: the weight of each choice at the end of each "
                "epoch. A dot marks the largest weight of a decision.",
            )
    by_space: dict[Any, list[Searched]] = {}
    for one in (one for _, seeds, _ in arms for one in seeds):
        by_space.setdefault(one.space.groups, []).append(one)
    for searches in by_space.values():
        animate(searches, make_folder(report.workdir / "figures"))
    page.text("figures/weights_*.gif are the same weights as animations.")


def heat_map(seeds: list[Searched]) -> Figure:
    """A panel for each seed; a row for each choice, below the name of its group."""
    space = seeds[0].space
    labels = [label for group in space.groups for label in ("", *_names(group))]
    figure = new_figure(2.0 + 2.7 * len(seeds), 1.0 + 0.17 * len(labels))
    panels = figure.subplots(1, len(seeds), sharey=True, squeeze=False)[0]
    for ax, one in zip(panels, seeds, strict=True):
        image = _panel(ax, space, one.curve(WEIGHTS))
        ax.set(title=f"seed {one.seed}", xlabel="epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_yticks(range(len(labels)), labels, fontsize=7)
    for ax in panels:
        ax.tick_params(axis="y", length=0)
    bar = figure.colorbar(image, ax=panels, fraction=0.03, shrink=0.5, aspect=25)
    bar.set_label("weight")
    return figure


def _panel(ax: Axes, space: Space, weights: np.ndarray) -> AxesImage:
    """The weights of a search, ``float64[epochs, groups, choices]``, as an image."""
    epochs = len(weights)
    numbers = np.arange(1, epochs + 1)
    rows: list[np.ndarray] = []
    for place, group in enumerate(space.groups):
        own = weights[:, place, : len(group.choices)].T
        first = len(rows) + 1
        rows += [np.full(epochs, np.nan), *own]
        ax.text(
            0.5 + 0.01 * epochs,
            first - 1,
            group.name.replace("_", " "),
            va="center",
            fontsize=7,
            fontweight="bold",
        )
        largest = np.where(np.isnan(own), -1, own).argmax(0)
        ax.scatter(
            numbers,
            first + largest,
            s=min(9.0, 400 / epochs),
            color="white",
            ec="black",
            lw=0.4,
        )
    return ax.imshow(
        np.array(rows),
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0.5, epochs + 0.5, len(rows) - 0.5, -0.5),
    )


def animate(searches: Sequence[Searched], folder: Path) -> None:
    """Writes a GIF of each search: weights as bars, a frame for each epoch.

    Args:
      searches: With weights, of one space; one figure serves them all.
      folder: Where to.
    """
    shown = [(one, epoch) for one in searches for epoch in _epochs(one)]
    figure, title, of_groups = _bars(searches[0].space)

    def move(frame: int) -> None:
        one, epoch = shown[frame]
        title.set_text(f"{one.arm}, seed {one.seed}, epoch {epoch + 1}")
        weights = np.array(one.metrics[epoch][WEIGHTS], float)
        for bars, row in zip(of_groups, np.nan_to_num(weights), strict=True):
            largest = row.argmax()
            for place, bar in enumerate(bars):
                bar.set_width(row[place])
                bar.set_color(COLORS[int(place == largest)])

    moving = [title, *(bar for bars in of_groups for bar in bars)]
    frames = frames_of(figure, moving, move, len(shown))
    for one in searches:
        path = folder / f"weights_{one.arm}_seed{one.seed}.gif"
        of_one = list(itertools.islice(frames, len(_epochs(one))))
        write_gif(of_one, path, _MILLISECONDS)


def _epochs(one: Searched) -> list[int]:
    """The epochs that are shown, all of them if they are few."""
    count = len(one.metrics)
    return np.linspace(0, count - 1, min(_MOST_FRAMES, count)).astype(int).tolist()


def _bars(space: Space) -> tuple[Figure, Text, list[BarContainer]]:
    """A figure with a panel for each group, its title, and the bars of each group."""
    groups = space.groups
    across = min(3, len(groups))
    down = -(-len(groups) // across)
    most = max(len(group.choices) for group in groups)
    figure = new_figure(1.2 + 1.7 * across, 0.6 + down * (0.35 + 0.16 * most))
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, 0.92))  # The title moves, so no layout sees it.
    title = figure.text(0.5, 0.96, "", ha="center", va="center", fontsize="small")
    panels = figure.subplots(down, across, squeeze=False).flat
    of_groups = []
    for ax, group in zip(panels, groups, strict=False):
        labels = _names(group)
        of_groups.append(ax.barh(range(len(labels)), 1.0, height=0.7))
        ax.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5), xticks=[0, 1])
        ax.tick_params(labelsize=6)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_title(group.name.replace("_", " "), fontsize="x-small")
    for ax in list(panels)[len(groups) :]:
        ax.set_axis_off()
    return figure, title, of_groups


def _names(group: Decision) -> list[str]:
    """The choices of a group, as labels."""
    return [name.removeprefix("nor_").replace("_", " ") for name in group.choices]


SECTION = Section(_show, Columns(of_some=columns))
