"""All children over time, to be looked at one by one: a canvas with a script.

The page has the data and the script in it, and needs no network.
"""

import importlib.resources
import json
from typing import Any

import numpy as np

from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import Searched
from wpl_jax.reports.sections.section import Report, Section

CHOICES = "children/choices"
MOST_POINTS = 20_000  # of all searches; a browser draws and searches them at once
_MEASURES = ("err1", "err2")
_DIGITS = 5

_TEMPLATE = """<figure class="interactive">
<div id="children-controls"></div>
<div class="canvas"><canvas id="children-canvas"></canvas>
<div id="children-tip" hidden></div></div>
<noscript>This view needs JavaScript.</noscript>
<script type="application/json" id="children-data">{data}</script>
<script>{script}</script>
</figure>"""


def _show(page: Page, report: Report) -> None:
    data = points_of(report)
    if not data["points"]:
        return
    page.heading("All children")
    total = sum(_count(one) for one in report.searches)
    script = importlib.resources.files("wpl_jax.reports") / "children.js"
    # A name with "<" might end the script, or begin another.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page.raw(_TEMPLATE.format(data=text, script=script.read_text(encoding="utf-8")))
    some = ""
    if len(data["points"]) < total:
        shown = f"{len(data['points']):,} of {total:,}"
        some = f" The view has {shown} children, equally spaced."
    page.text(
        "Each point is a child, at the time when it was trained. Point at one to see "
        "its architecture. Drag a rectangle to zoom, double-click to see all. Losses: "
        "err1 right after a child's own training, err2 at the end of its epoch. "
        f"The highest 2 % are at the upper border.{some}"
    )


def points_of(report: Report) -> dict[str, Any]:
    """The children of all searches, as the script reads them.

    Of more than ``MOST_POINTS`` it has those of equal distance in time.
    """
    total = sum(_count(one) for one in report.searches)
    step = max(1, -(-total // MOST_POINTS))
    arms, points = [], []
    for number, (arm, seeds, color) in enumerate(report.colored()):
        decisions = [(d.name, list(d.choices)) for d in seeds[0].space.decisions]
        arms.append({"name": arm, "color": color, "decisions": decisions})
        for one in seeds:
            points += [{"arm": number, **p} for p in _points(one)[::step]]
    return {
        "arms": arms,
        "measures": _MEASURES,
        "unit": report.loss_name,
        "points": points,
    }


def _points(one: Searched) -> list[dict[str, Any]]:
    """The children of a search, in the order in which they were trained."""
    found = []
    for epoch, row in enumerate(one.metrics, 1):
        values = [row[f"children/{name}"] for name in _MEASURES]
        count = len(values[0])
        choices = row.get(CHOICES) or [None] * count
        for child in range(count):
            point = {
                "x": round(epoch + child / count, _DIGITS),
                "y": [_rounded(each[child]) for each in values],
                "seed": one.seed,
                "child": child + 1,
            }
            if choices[child] is not None:
                point["choice"] = choices[child]
            found.append(point)
    return found


def _count(one: Searched) -> int:
    return sum(len(row["children/err1"]) for row in one.metrics)


def _rounded(value: float | None) -> float | None:
    if value is None or not np.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")


SECTION = Section(_show)
