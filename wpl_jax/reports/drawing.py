"""Pictures of architectures, with Graphviz's language and without Graphviz."""

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch
from matplotlib.path import Path as PlotPath
from matplotlib.text import Text
from PIL import Image

from wpl_jax.reports.animation import write_gif
from wpl_jax.reports.layers import layers
from wpl_jax.reports.page import COLORS, new_figure, save
from wpl_jax.supernet import Graph


def to_dot(graph: Graph) -> str:
    """The graph in Graphviz's language, for ``dot -Tsvg``."""

    def quoted(text: str) -> str:
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'

    lines = [
        *(
            f"  {quoted(n)} [label={quoted(label)}];"
            for n, label in graph.nodes.items()
        ),
        *(
            f"  {quoted(a)} -> {quoted(b)} [label={quoted(label)}];"
            for a, b, label in graph.edges
        ),
    ]
    head = "digraph cell {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n"
    return head + "\n".join(lines) + "\n}\n"


def size(graph: Graph) -> tuple[float, float]:
    """Width and height of a figure that has room for the graph, in inches."""
    found = layers(graph)
    columns = [x for x, _ in found.places.values()]
    rows = [
        y for _, y in (*found.places.values(), *(p for way in found.ways for p in way))
    ]
    longest = max(map(len, graph.nodes.values()))
    width = (1 + max(columns)) * max(1.1, 0.5 + 0.09 * longest)
    return max(4.0, width), 0.8 + 0.5 * (max(rows) - min(rows))


class _Way:
    """The way of an edge: from border to border, flat where it passes other nodes.

    Attributes:
      ax: The axes.
      points: That it passes, in their data's coordinates.
    """

    def __init__(self, ax: Axes, points: Sequence[tuple[float, float]]):
        self._ax, self._points = ax, points

    def __call__(self, start, end, shrinkA=0, shrinkB=0, patchA=None, patchB=None):  # noqa: N803 - matplotlib's names.
        """The path in pixels, as FancyArrowPatch asks for it."""
        del shrinkA
        first, last = (
            p.get_path().get_extents(p.get_transform()) for p in (patchA, patchB)
        )
        passed = [tuple(self._ax.transData.transform(point)) for point in self._points]
        points = [(first.x1, start[1]), *passed, (last.x0 - shrinkB, end[1])]
        vertices, codes = [points[0]], [PlotPath.MOVETO]
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            middle = (x0 + x1) / 2
            vertices += [(middle, y0), (middle, y1), (x1, y1)]
            codes += [PlotPath.CURVE4] * 3
        return PlotPath(vertices, codes)


class _Edge(FancyArrowPatch):
    """From the border of one node's box to that of another's, and behind them all."""

    def __init__(self, start: Text, end: Text, way: _Way, **style):
        super().__init__(
            start.get_position(),
            end.get_position(),
            patchA=start.get_bbox_patch(),
            patchB=end.get_bbox_patch(),
            connectionstyle=way,  # type: ignore[arg-type]
            arrowstyle="-|>",
            shrinkA=0,
            shrinkB=1,
            mutation_scale=10,
            color="#888888",
            **style,
        )
        self._nodes = start, end

    def draw(self, renderer):
        """Draws it; the boxes, drawn later, have their places with the renderer."""
        for node in self._nodes:
            node.update_bbox_position_size(renderer)
        super().draw(renderer)


def colors_of(graphs: Iterable[Graph]) -> dict[str, str]:
    """A color for each operation of some graphs, by its name.

    Inputs, outputs and sums have none.
    """
    names = {name for graph in graphs for name in _operations(graph).values()}
    return dict(zip(sorted(names), itertools.cycle(COLORS)))


def _operations(graph: Graph) -> dict[str, str]:
    """The operations of a graph, by the names of their nodes."""
    ends = {a for a, _, _ in graph.edges} & {b for _, b, _ in graph.edges}
    return {
        name: re.sub(r"^\d+\s+", "", label)  # A number says which node it is.
        for name, label in graph.nodes.items()
        if name in ends and not label.startswith("+")
    }


def draw(graph: Graph, ax: Axes, colors: Mapping[str, str] | None = None) -> None:
    """Draws the graph with matplotlib alone, equal operations in one color.

    Args:
      graph: The graph.
      ax: Where it is drawn; what was there is removed.
      colors: Of its operations, as :func:`colors_of` has them for several pictures that
        are to have the same; None for those of this graph alone.
    """
    by_operation = colors_of([graph]) if colors is None else colors
    operations = _operations(graph)
    found = layers(graph)
    colors = {name: by_operation[each] for name, each in operations.items()}
    ax.clear()
    ax.axis("off")
    nodes = {}
    for name, (x, y) in found.places.items():
        color = colors.get(name, "#666666")
        nodes[name] = ax.text(
            x,
            y,
            graph.nodes[name],
            ha="center",
            va="center",
            fontsize="medium",
            bbox={
                "boxstyle": "round",
                "facecolor": _pale(color) if name in colors else "#f2f2f2",
                "edgecolor": color,
            },
        )
    for (start, end, label), way in zip(graph.edges, found.ways, strict=True):
        ax.add_patch(_Edge(nodes[start], nodes[end], _Way(ax, way)))
        if label:
            ends = found.places[start], found.places[end]
            points = [ends[0], *way, ends[1]]
            (x0, y0), (x1, y1) = points[:2]
            ax.text((x0 + x1) / 2, (y0 + y1) / 2, label, fontsize="x-small")
    columns, rows = zip(*found.points, strict=True)
    ax.set_xlim(-0.6, max(columns) + 0.6)
    ax.set_ylim(min(rows) - 0.7, max(rows) + 0.7)


def _pale(color: str) -> tuple[float, ...]:
    """The color, mixed with white."""
    return tuple(0.82 + 0.18 * part for part in to_rgb(color))


def animate(
    graphs: Sequence[Graph],
    titles: Sequence[str],
    path: Path,
    colors: Mapping[str, str] | None = None,
) -> None:
    """Writes a GIF that shows one graph after the other.

    Args:
      graphs: One for each frame.
      titles: Above them.
      path: Of the file.
      colors: As in :func:`draw`; None for those of all these graphs.
    """
    colors = colors_of(graphs) if colors is None else colors
    sizes = [size(graph) for graph in graphs]
    figure = new_figure(max(w for w, _ in sizes), max(h for _, h in sizes) + 0.4)
    ax = figure.subplots()

    frames = []
    for graph, title in zip(graphs, titles, strict=True):
        draw(graph, ax, colors)
        ax.set_title(title)
        drawn = io.BytesIO()
        save(figure, drawn, format="png", dpi=80)
        frames.append(Image.open(drawn).convert("RGB"))
    write_gif(frames, path)
