"""Curves of Kendall's tau, panels side by side."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wpl_jax.reports.page import new_figure


class Curves(NamedTuple):
    """The curves of an arm."""

    arm: str
    color: str
    values: np.ndarray  # float[panels, seeds, points]


def tau_curves(
    arms: Sequence[Curves],
    titles: Sequence[str],
    unit: str,
    width: float,
    means: Callable[[np.ndarray], np.ndarray],
    style: str = "-",
) -> Figure:
    """A thin line for each seed, and a thick one for their mean.

    Args:
      arms: With their colors.
      titles: Of the panels.
      unit: What points are: ``"epoch"`` or ``"round"``, counted from 1.
      width: Of the figure, in inches.
      means: From ``float[seeds, points]`` to ``float[points]``.
      style: Of the thick line, in Matplotlib's format.
    """
    figure = new_figure(width, 3.8)
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for place, (ax, title) in enumerate(zip(panels, titles, strict=True)):
        for arm, color, values in arms:
            taus = values[place]
            points = np.arange(1, taus.shape[1] + 1)
            for of_seed in taus:
                ax.plot(points, of_seed, color=color, lw=0.6, alpha=0.6)
            ax.plot(points, means(taus), style, color=color, ms=3, label=arm)
        ax.axhline(0, color="0.6", lw=0.8)
        ax.set(title=title, xlabel=unit)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0].set_ylabel("Kendall's tau")
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, fontsize="small", loc="outside right center")
    return figure
