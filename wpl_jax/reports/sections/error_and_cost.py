"""Error against cost: the children that were evaluated, their front, the chosen."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wpl_jax.common.counted import counted
from wpl_jax.common.pareto import front
from wpl_jax.evaluation.latency import Measurements
from wpl_jax.evaluation.latency import read as read_latency
from wpl_jax.reports.page import Page, new_figure
from wpl_jax.reports.searched import Columns, Searched
from wpl_jax.reports.sections.section import Report, Section, spread
from wpl_jax.reports.sections.true_order import CHOICES
from wpl_jax.runs.run_files import NUMBER_OR_NULL, list_of
from wpl_jax.spaces.costs import UNITS, Costs
from wpl_jax.supernet import Architecture, Space

_ERRORS = "children/errors"
_MOST_PARTS = 15  # rows of the table of parts


class Points(NamedTuple):
    """Architectures of one search, with their costs and errors."""

    costs: dict[str, np.ndarray]  # float64[n] by name
    errors: np.ndarray  # float64[n]


def _columns(space: Space) -> Mapping[str, Any]:
    del space
    return {_ERRORS: list_of(NUMBER_OR_NULL)}


def _show(page: Page, report: Report) -> None:
    measured = read_latency(report.workdir)
    points: dict[str, list[Points]] = {}
    chosen: dict[str, list[Points]] = {}
    for arm, seeds in report.arms.items():
        costs = [_costs(one, measured) for one in seeds]
        points[arm] = [_evaluated(*pair) for pair in zip(seeds, costs, strict=True)]
        chosen[arm] = [_chosen(*pair) for pair in zip(seeds, costs, strict=True)]
    page.heading("Error against cost")
    names = [n for n in UNITS if all(n in one[0].costs for one in chosen.values())]
    every = [one for found in (points, chosen) for o in found.values() for one in o]
    of_all = {
        name: np.concatenate([one.costs[name] for one in every]) for name in names
    }
    if all(len(set(values)) == 1 for values in of_all.values()):
        same = ", ".join(f"{_number(v[0])} {UNITS[n]}" for n, v in of_all.items())
        page.text(f"All children that were evaluated have the same costs: {same}.")
        return
    limits = {arm: _limits(report, arm) for arm in report.arms}
    page.figure(
        _draw(report, names, points, chosen, limits),
        "error_and_cost",
        f"Each point is a child of an epoch or a candidate of the selection: its "
        f"{report.error_name} on validation data with the shared weights as they were "
        "then. Stars are the selected architectures. The line is the front: no child "
        "has a lower error at the same or a lower cost. Dashed lines are limits.",
    )
    rows = []
    for arm, of_seeds in chosen.items():
        number = sum(len(one.errors) for one in points[arm])
        cells = [_mean([one.costs[name][0] for one in of_seeds]) for name in names]
        errors = spread([one.errors[0] for one in of_seeds], 2)
        told = [
            f"{UNITS[name]} ≤ {_number(most)}" for name, most in limits[arm].items()
        ]
        rows.append((arm, str(number), *cells, errors, ", ".join(told) or "none"))
    header = ("arm", "children evaluated", *(UNITS[name] for name in names))
    page.table((*header, f"{report.error_name} of the selected", "limits"), rows)
    _show_parts(page, report, measured)
    if measured is not None:
        page.text(measured.describe())


def _costs(one: Searched, measured: Measurements | None) -> Costs:
    return Costs(one.space, measured and measured.of(one.space))


def _evaluated(one: Searched, costs: Costs) -> Points:
    """Children of all epochs, and the candidates of the selection."""
    choices: list[list[int]] = []
    errors: list[float] = []
    for row in one.metrics:
        if CHOICES in row and _ERRORS in row:
            choices += row[CHOICES]
            errors += row[_ERRORS]
    if one.candidates is not None:
        choices += one.candidates.choices.tolist()
        errors += one.candidates.errors.tolist()
    if not choices:
        return Points(dict.fromkeys(costs.names, np.zeros(0)), np.zeros(0))
    return Points(costs.of_choices(choices), np.array(errors, float))


def _chosen(one: Searched, costs: Costs) -> Points:
    found = costs.of_choices([one.results["architecture"]])
    return Points(found, np.array([one.results["valid_error"]]))


def _limits(report: Report, arm: str) -> dict[str, float]:
    """The limits of an arm, by the names of costs."""
    own = report.config["arms"].get(arm, {}).get("limits", {})
    found = {**report.config.get("limits", {}), **own}
    return {name: found[name] for name in UNITS if found.get(name) is not None}


def _draw(report, names: Sequence[str], points, chosen, limits) -> Figure:
    """One panel for each cost."""
    figure = new_figure(4.5 * len(names), 4)
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        _draw_panel(ax, report, name, points, chosen, limits)
    panels[0].set_ylabel(report.error_name)
    panels[0].legend()
    return figure


def _draw_panel(ax: Axes, report, name, points, chosen, limits) -> None:
    costs: list[np.ndarray] = []
    errors: list[np.ndarray] = []
    for arm, _, color in report.colored():
        for one in points[arm]:
            ax.plot(one.costs[name], one.errors, ".", color=color, alpha=0.25, ms=4)
        stars = {"color": color, "mec": "black", "ms": 12, "label": arm}
        x = [one.costs[name][0] for one in chosen[arm]]
        ax.plot(x, [one.errors[0] for one in chosen[arm]], "*", **stars)
        for one in (*points[arm], *chosen[arm]):
            costs.append(one.costs[name])
            errors.append(one.errors)
        if name in limits[arm]:
            ax.axvline(limits[arm][name], color=color, ls="--", lw=0.8)
    of_all, all_errors = np.concatenate(costs), np.concatenate(errors)
    best = front(of_all, all_errors)
    ax.step(of_all[best], all_errors[best], where="post", color="0.3", lw=1)
    there = all_errors[np.isfinite(all_errors)]
    if len(there):  # Children of the first epochs would leave no room for the others.
        shown = [one.errors[0] for of_arm in chosen.values() for one in of_arm]
        low, high = np.min(there), max(np.quantile(there, 0.95), *shown)
        margin = 0.05 * (high - low) + 1e-9
        ax.set_ylim(low - margin, high + margin)
    ax.set_xlabel(UNITS[name])


def _show_parts(page: Page, report: Report, measured: Measurements | None) -> None:
    """Of which parts the costs of the best architecture of the main arm consist."""
    arm, seeds = next(iter(report.arms.items()))
    best = min(seeds, key=lambda one: one.results["valid_error"])
    space, parts = best.space, best.space.parts
    if not parts:
        return
    child = Architecture(jnp.asarray(best.results["architecture"], jnp.int32))
    uses = np.asarray(space.uses(child), float)
    columns: dict[str, np.ndarray] = {
        "parameters": np.array([part.parameters for part in parts]),
        "multiply-adds": np.array([part.multiply_adds for part in parts]),
    }
    latency = None if measured is None else measured.of(space)
    if latency is not None:
        columns["ms"] = np.array(latency.parts)
    of_child = {name: uses * each for name, each in columns.items()}
    order = np.lexsort((-of_child["parameters"], -of_child["multiply-adds"]))
    order = order[uses[order] > 0]
    rows: list[tuple[str, ...]] = [
        (parts[i].name, f"{uses[i]:g}", *(_number(c[i]) for c in of_child.values()))
        for i in order[:_MOST_PARTS]
    ]
    if latency is not None:
        rows.insert(0, ("a call", "1", "0", "0", _number(latency.call)))
    others = order[_MOST_PARTS:]
    if len(others):
        sums = (_number(each[others].sum()) for each in of_child.values())
        rows.append((counted(len(others), "other"), f"{uses[others].sum():g}", *sums))
    page.text(
        f"The costs of the best architecture of {arm} are those of its parts. "
        "Multiply-adds are products in convolutions and matrix products for one image "
        "or word."
    )
    page.table(("part", "uses", *columns), rows)


def _mean(values: Sequence[float]) -> str:
    if len(set(values)) == 1:
        return _number(values[0])
    return f"{_number(float(np.mean(values)))} ± {_number(float(np.std(values)))}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


SECTION = Section(_show, Columns(of_some=_columns))
