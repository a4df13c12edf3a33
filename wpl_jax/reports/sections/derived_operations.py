"""How often the derived architecture has each choice, over the epochs."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
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
        "How many decisions have each choice, in the architecture that would be "
        "derived at the end of each epoch; mean over seeds. Many skip connections are "
        "a known failure of differentiable searches.",
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
    shown = []
    for arm, seeds, _ in report.recording(DERIVED):
        derived = np.array([one.curve(DERIVED) for one in seeds], int)
        for names, found in counts(seeds[0].space, derived).items():
            shown.append((arm, names, found.mean(0)))
    every = dict.fromkeys(name for _, names, _ in shown for name in names)
    colors = dict(zip(every, itertools.cycle(COLORS), strict=False))
    across = min(_COLUMNS, len(shown))
    down = -(-len(shown) // across)
    figure = new_figure(1.8 + 3.1 * across, 3.2 * down)
    panels = figure.subplots(down, across, squeeze=False).flat
    for ax, (arm, names, found) in zip(panels, shown, strict=False):
        _stack(ax, [(name, colors[name]) for name in names], found)
        ax.set(title=arm, xlabel="epoch")
    for ax in list(panels)[len(shown) :]:
        ax.set_axis_off()
    panels[0].set_ylabel("decisions")
    patches = [Patch(color=color, label=_short(name)) for name, color in colors.items()]
    figure.legend(handles=patches[::-1], fontsize="small", loc="outside right center")
    return figure


def _stack(ax: Axes, names: Sequence[tuple[str, str]], found: np.ndarray) -> None:
    """Stacked areas of ``float64[epochs, choices]``, a step for each epoch."""
    edges = np.arange(len(found) + 1) + 0.5
    below_it = np.zeros(len(found))
    for (name, color), number in zip(names, found.T, strict=True):
        ax.stairs(
            below_it + number,
            edges,
            baseline=below_it,
            fill=True,
            color=color,
            label=_short(name),
        )
        below_it = below_it + number
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, below_it.max()))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def _short(name: str) -> str:
    return name.removeprefix("nor_").replace("_", " ")


SECTION = Section(_show, Columns(of_some=columns))
