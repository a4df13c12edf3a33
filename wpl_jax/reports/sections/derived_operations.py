"""How often the derived architecture has each choice, over the epochs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wpl_jax.reports.page import COLORS, Page, new_figure
from wpl_jax.reports.searched import Columns
from wpl_jax.reports.sections.section import Report, Section
from wpl_jax.runs.run_files import Kind, below
from wpl_jax.supernet import Space, num_choices

DERIVED = "strategy/derived"
_COLUMNS = 3  # panels side by side


def columns(space: Space) -> Mapping[str, Kind]:
    """What the weights of an epoch would be discretized to."""
    return {DERIVED: below(num_choices(space.decisions))}


def _show(page: Page, report: Report) -> None:
    if not any(report.recording(DERIVED)):
        return
    page.heading("Operations of the derived architecture")
    page.figure(
        areas(report),
        "derived_operations",
        "The number of decisions for each choice in the architecture that would be "
        "derived at the end of an epoch; mean over seeds. Many skip connections are "
        "the known failure of differentiable searches.",
    )


def counts(space: Space, derived: np.ndarray) -> dict[tuple[str, ...], np.ndarray]:
    """How often each choice is made, for each set of choices that decisions have.

    Args:
      space: Of the decisions.
      derived: ``int[..., decisions]``.

    Returns:
      By the names of the choices, ``int[..., choices]``.
    """
    found: dict[tuple[str, ...], np.ndarray] = {}
    for place, decision in enumerate(space.decisions):
        one_hot = derived[..., place, None] == np.arange(len(decision.choices))
        found[decision.choices] = found.get(decision.choices, 0) + one_hot.astype(int)
    return found


def areas(report: Report) -> Figure:
    """Counts as stacked areas, a panel for each arm and each set of choices."""
    arms = list(report.recording(DERIVED))
    of_arms = [
        counts(report.space, np.array([one.curve(DERIVED) for one in seeds], int))
        for _, seeds, _ in arms
    ]
    kinds = list(of_arms[0])
    across = min(_COLUMNS, len(arms))
    down = -(-len(arms) // across)
    figure = new_figure(1.7 + 3.2 * across, 3.2 * down * len(kinds))
    grid = figure.subplots(len(kinds) * down, across, squeeze=False)
    for number, names in enumerate(kinds):
        panels = grid[number * down : (number + 1) * down]
        for ax in panels.flat[len(arms) :]:
            ax.set_axis_off()
        for ax, (arm, _, _), found in zip(panels.flat, arms, of_arms, strict=False):
            _stack(ax, names, found[names].mean(0))
            ax.set(title=arm, xlabel="epoch")
        panels[0, 0].set_ylabel("decisions")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        panels[0, -1].legend(
            handles[::-1],
            labels[::-1],
            fontsize="small",
            loc="center left",
            bbox_to_anchor=(1, 0.5),
        )
    return figure


def _stack(ax: Axes, names: tuple[str, ...], found: np.ndarray) -> None:
    """Stacked areas of ``float64[epochs, choices]``, a step for each epoch."""
    edges = np.arange(len(found) + 1) + 0.5
    below_it = np.zeros(len(found))
    for place, (name, number) in enumerate(zip(names, found.T, strict=True)):
        ax.stairs(
            below_it + number,
            edges,
            baseline=below_it,
            fill=True,
            color=COLORS[place % len(COLORS)],
            alpha=0.8,
            label=name.removeprefix("nor_").replace("_", " "),
        )
        below_it = below_it + number
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, below_it.max()))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


SECTION = Section(_show, Columns(of_some=columns))
