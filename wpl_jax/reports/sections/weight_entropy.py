"""The entropy of the architecture weights: whether they become sparse."""

import itertools
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wpl_jax.reports.page import COLORS, Page, band, new_figure
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
    arms = list(report.recording(WEIGHTS))
    if not arms:
        return
    page.heading("Entropy of the architecture weights")
    page.figure(
        curves(report),
        "weight_entropy",
        "Entropy of the architecture weights at the end of each epoch, in nats. It is "
        "0 where one choice has all the weight. Dashed: the maximum, where all choices "
        "have equal weights. First panel: mean over the decisions; a thin line for "
        "each seed, a thick line for their mean, and a band of one standard deviation. "
        "Other panels: each decision of one arm, mean over its seeds.",
    )


def entropies(weights: np.ndarray) -> np.ndarray:
    """Entropies of distributions along the last axis, in nats.

    Examples:
      >>> entropies(np.array([[1.0, 0.0], [0.5, 0.5]])).round(3).tolist()
      [-0.0, 0.693]
    """
    logarithms = np.log(np.where(weights > 0, weights, 1))
    return -np.sum(weights * logarithms, -1)


def curves(report: Report) -> Figure:
    """Entropies over the epochs: of all arms, and of each decision of an arm."""
    arms = list(report.recording(WEIGHTS))
    across = min(_COLUMNS, 1 + len(arms))
    down = -(-(1 + len(arms)) // across)
    figure = new_figure(1.7 + 3.3 * across, 3.6 * down)
    first, *rest = figure.subplots(down, across, sharey=True, squeeze=False).flat
    most = [np.log(len(group.choices)) for group in report.space.groups]
    for ax in rest[len(arms) :]:
        ax.set_axis_off()
    for ax, (arm, seeds, color) in zip(rest, arms, strict=False):
        found = np.array([entropies(one.curve(WEIGHTS)) for one in seeds])
        epochs = np.arange(1, found.shape[1] + 1)
        for of_seed in found:
            first.plot(epochs, of_seed.mean(-1), color=color, lw=0.6, alpha=0.6)
        band(first, epochs, found.mean(-1), color, arm)
        _of_groups(ax, report.space, epochs, found.mean(0), most)
        ax.set_title(f"{arm}, each decision")
    first.axhline(np.mean(most), color="0.4", ls="--", lw=0.8)
    first.set(title="mean over the decisions", xlabel="epoch", ylabel="entropy, nats")
    first.set_ylim(bottom=0)
    first.legend(fontsize="small")
    handles = rest[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize="small", loc="outside right center")
    return figure


def _of_groups(
    ax: Axes, space: Space, epochs: np.ndarray, found: np.ndarray, most: list
) -> None:
    """One line for each group; ``found`` is ``float64[epochs, groups]``."""
    styles = itertools.product(("-", ":"), COLORS)
    for group, curve, (style, color) in zip(
        space.groups, found.T, itertools.cycle(styles), strict=False
    ):
        label = group.name.replace("_", " ")
        ax.plot(epochs, curve, style, color=color, lw=1.2, label=label)
    for value in sorted(set(most)):
        ax.axhline(value, color="0.4", ls="--", lw=0.8)
    ax.set_xlabel("epoch")


SECTION = Section(_show, Columns(of_some=columns))
