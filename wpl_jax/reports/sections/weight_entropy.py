"""The entropy of the architecture weights: whether they become sparse."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from wpl_jax.reports.page import COLORS, Page, new_figure
from wpl_jax.reports.searched import Columns
from wpl_jax.reports.sections.section import Report, Section
from wpl_jax.runs.run_files import NUMBER_OR_NULL, Kind, list_of
from wpl_jax.supernet import Space, is_choice

WEIGHTS = "strategy/weights"
_COLUMNS = 3  # panels side by side


def columns(space: Space) -> Mapping[str, Kind]:
    """The weights of a mixture, a row for each group of the space."""
    groups, choices = is_choice(space.groups).shape
    return {WEIGHTS: list_of(list_of(NUMBER_OR_NULL, choices), groups)}


def _show(page: Page, report: Report) -> None:
    if not any(report.recording(WEIGHTS)):
        return
    page.heading("Entropy of the architecture weights")
    page.figure(
        means(report),
        "weight_entropy",
        "Entropy of the architecture weights at the end of each epoch, in nats. It is "
        "the mean over the decisions, and over the inputs of nodes where these are "
        "weighted. It is 0 where one choice has all the weight. Dashed: the maximum, "
        "where all choices have equal weights. A thin line for each seed, and a thick "
        "line for their mean.",
    )
    page.figure(
        of_decisions(report),
        "weight_entropy_of_decisions",
        "Entropy of the weights of each decision, mean over seeds. Dashed: the "
        "maximum.",
    )


def entropies(weights: np.ndarray) -> np.ndarray:
    """Entropies of distributions along the last axis, in nats.

    Examples:
      >>> entropies(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3).tolist()
      [-0.0, 0.693]
    """
    logarithms = np.log(np.where(weights > 0, weights, 1))
    return -np.sum(weights * logarithms, -1)


def means(report: Report) -> Figure:
    """Mean entropy over the decisions, a line for each seed and for each arm."""
    figure = new_figure(8, 4)
    ax = figure.subplots()
    highest = set()
    for arm, seeds, color in report.recording(WEIGHTS):
        found = np.array([entropies(one.curve(WEIGHTS)).mean(-1) for one in seeds])
        highest.add(float(np.mean(_most(seeds[0].space))))
        epochs = np.arange(1, found.shape[1] + 1)
        for of_seed in found:
            ax.plot(epochs, of_seed, color=color, lw=0.6, alpha=0.6)
        ax.plot(epochs, found.mean(0), color=color, label=arm)
    for most in highest:
        ax.axhline(most, color="0.4", ls="--", lw=0.8)
    ax.set(xlabel="epoch", ylabel="entropy, nats", ylim=(0, 1.05 * max(highest)))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(fontsize="small", loc="outside right center")
    return figure


def of_decisions(report: Report) -> Figure:
    """Entropy of each decision, a panel for each arm."""
    arms = list(report.recording(WEIGHTS))
    across = min(_COLUMNS, len(arms))
    down = -(-len(arms) // across)
    figure = new_figure(1.8 + 3.1 * across, 3.2 * down)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).flat
    legend: dict[str, Line2D] = {}
    highest = 0.0
    for ax, (arm, seeds, _) in zip(panels, arms, strict=False):
        found = np.array([entropies(one.curve(WEIGHTS)) for one in seeds])
        space = seeds[0].space
        _of_groups(ax, space, np.arange(1, found.shape[1] + 1), found.mean(0))
        ax.set_title(arm)
        highest = max(highest, *_most(space))
        for line in ax.lines:
            legend.setdefault(str(line.get_label()), line)
    for ax in list(panels)[len(arms) :]:
        ax.set_axis_off()
    panels[0].set_ylabel("entropy, nats")
    panels[0].set_ylim(0, 1.05 * highest)
    shown = {name: line for name, line in legend.items() if not name.startswith("_")}
    figure.legend(
        shown.values(), shown.keys(), fontsize="small", loc="outside right center"
    )
    return figure


def _most(space: Space) -> list[float]:
    """The largest entropy of each group, in nats."""
    return [math.log(len(group.choices)) for group in space.groups]


def _of_groups(ax: Axes, space: Space, epochs: np.ndarray, found: np.ndarray) -> None:
    """One line for each group; ``found`` is ``float64[epochs, groups]``."""
    styles = itertools.product(("-", ":"), COLORS)
    for group, curve, (style, color) in zip(
        space.groups, found.T, itertools.cycle(styles), strict=False
    ):
        label = group.name.replace("_", " ")
        ax.plot(epochs, curve, style, color=color, lw=1.2, label=label)
    for value in sorted(set(_most(space))):
        ax.axhline(value, color="0.4", ls="--", lw=0.8)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


SECTION = Section(_show, Columns(of_some=columns))
