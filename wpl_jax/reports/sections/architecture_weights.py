"""The architecture weights themselves over the epochs: heat maps and animations."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
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
    figures = make_folder(report.workdir / "figures")
    for arm, seeds, _ in arms:
        for number in range(0, len(seeds), _SEEDS):
            some = seeds[number : number + _SEEDS]
            numbers = " and ".join(str(one.seed) for one in some)
            page.figure(
                heat_map(report.space, some),
                f"weights_{arm}_{number // _SEEDS + 1}",
                f"{arm}, seed {numbers}: the weight of each choice at the end of each "
                "epoch. A dot marks the largest weight of a decision.",
            )
        for one in seeds:
            animate(report.space, one, figures / f"weights_{arm}_seed{one.seed}.gif")
    page.text("figures/weights_*.gif are the same weights as animations.")


def heat_map(space: Space, seeds: list[Searched]) -> Figure:
    """A column of panels for each seed, a panel for each group of the space."""
    groups = space.groups
    sizes = [len(group.choices) for group in groups]
    figure = new_figure(2.2 + 2.6 * len(seeds), 0.8 + 0.19 * sum(sizes))
    grid = figure.subplots(
        len(groups),
        len(seeds),
        sharex=True,
        squeeze=False,
        height_ratios=sizes,
    )
    for column, one in zip(grid.T, seeds, strict=True):
        weights = one.curve(WEIGHTS)
        for row, (ax, group) in enumerate(zip(column, groups, strict=True)):
            image = _panel(ax, weights[:, row, : len(group.choices)].T)
        column[0].set_title(f"seed {one.seed}")
        column[-1].set_xlabel("epoch")
        column[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax, group in zip(grid[:, 0], groups, strict=True):
        ax.set_yticks(range(len(group.choices)), _names(group), fontsize=7)
        ax.set_ylabel(
            group.name.replace("_", " "),
            rotation=0,
            ha="right",
            va="center",
            fontsize="small",
        )
    bar = figure.colorbar(image, ax=grid, fraction=0.03, shrink=0.5, aspect=25)
    bar.set_label("weight")
    return figure


def _panel(ax: Axes, weights: np.ndarray):
    """The weights of one group, ``float64[choices, epochs]``, as an image."""
    choices, epochs = weights.shape
    image = ax.imshow(
        weights,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0.5, epochs + 0.5, choices - 0.5, -0.5),
    )
    largest = np.where(np.isnan(weights), -1, weights).argmax(0)
    size = min(9.0, 400 / epochs)
    ax.scatter(
        np.arange(1, epochs + 1), largest, s=size, color="white", ec="black", lw=0.4
    )
    ax.set_yticks([])
    return image


def animate(space: Space, one: Searched, path: Path) -> None:
    """Writes a GIF with the weights of each group as bars, one frame for an epoch."""
    weights, groups = one.curve(WEIGHTS), space.groups
    shown = np.unique(
        np.linspace(0, len(weights) - 1, min(_MOST_FRAMES, len(weights))).astype(int)
    )
    across = min(3, len(groups))
    down = -(-len(groups) // across)
    most = max(len(group.choices) for group in groups)
    figure = new_figure(1.2 + 1.7 * across, 0.6 + down * (0.35 + 0.16 * most))
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, 0, 1, 0.92))  # The title moves, so no layout sees it.
    title = figure.text(0.5, 0.96, "", ha="center", va="center", fontsize="small")
    panels = figure.subplots(down, across, squeeze=False)
    of_groups = []
    for number, ax in enumerate(panels.flat):
        if number >= len(groups):
            ax.set_axis_off()
            continue
        group = groups[number]
        labels = _names(group)
        bars = ax.barh(range(len(labels)), 1.0, color=COLORS[0], height=0.7)
        of_groups.append(bars)
        ax.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5), xticks=[0, 1])
        ax.tick_params(labelsize=6)
        ax.set_yticks(range(len(labels)), labels)
        ax.set_title(group.name.replace("_", " "), fontsize="x-small")

    def move(frame: int) -> None:
        epoch = shown[frame]
        title.set_text(f"{one.arm}, seed {one.seed}, epoch {epoch + 1}")
        for bars, row in zip(of_groups, np.nan_to_num(weights[epoch]), strict=True):
            largest = row.argmax()
            for place, bar in enumerate(bars):
                bar.set_width(row[place])
                bar.set_color(COLORS[int(place == largest)])

    moving = [title, *(bar for bars in of_groups for bar in bars)]
    frames = list(frames_of(figure, moving, move, len(shown)))
    write_gif(frames, path, _MILLISECONDS)


def _names(group: Decision) -> list[str]:
    """The choices of a group, as labels."""
    return [name.removeprefix("nor_").replace("_", " ") for name in group.choices]


SECTION = Section(_show, Columns(of_some=columns))
