"""Pictures of architectures, with Graphviz's language and without Graphviz."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch
from matplotlib.text import Text
from PIL import Image

from wpl_jax.reports.animation import write_gif
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


def layout(graph: Graph) -> dict[str, tuple[float, float]]:
    """Places nodes: across by their depth, the longest way to them; down in order.

    Returns:
      Of each node its column, and its row around 0.
    """
    depth = dict.fromkeys(graph.nodes, 0)
    for name in graph.nodes:  # Each comes after those that feed it.
        feeding = [depth[a] for a, b, _ in graph.edges if b == name]
        depth[name] = 1 + max(feeding, default=-1)
    places = {}
    for column in set(depth.values()):
        names = [name for name in graph.nodes if depth[name] == column]
        for i, name in enumerate(names):
            places[name] = (float(column), (len(names) - 1) / 2 - i)
    return places


def height(graph: Graph) -> float:
    """Of a figure that has room for the graph, in inches."""
    rows = [y for _, y in layout(graph).values()]
    return 2.5 + 0.5 * (max(rows) - min(rows))


class _Edge(FancyArrowPatch):
    """From the border of one node's box to that of another's, and behind them all."""

    def __init__(self, start: Text, end: Text, **style):
        super().__init__(
            start.get_position(),
            end.get_position(),
            patchA=start.get_bbox_patch(),
            patchB=end.get_bbox_patch(),
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


def draw(graph: Graph, ax: Axes) -> None:
    """Draws the graph with matplotlib alone."""
    places = layout(graph)
    ax.clear()
    ax.axis("off")
    nodes = {}
    for name, (x, y) in places.items():
        ends = not any(b == name for _, b, _ in graph.edges) or not any(
            a == name for a, _, _ in graph.edges
        )
        nodes[name] = ax.text(
            x,
            y,
            graph.nodes[name],
            ha="center",
            va="center",
            fontsize="small",
            bbox={
                "boxstyle": "round",
                "facecolor": "#f2f2f2" if ends else "white",
                "edgecolor": "#444444" if ends else COLORS[0],
            },
        )
    for start, end, label in graph.edges:
        (x0, y0), (x1, y1) = places[start], places[end]
        # An edge that skips columns goes around the nodes in between.
        bend = 0.0 if x1 - x0 == 1 else 0.25 + 0.03 * (x1 - x0)
        ax.add_patch(
            _Edge(nodes[start], nodes[end], connectionstyle=f"arc3,rad={bend}")
        )
        if label:
            ax.text((x0 + x1) / 2, (y0 + y1) / 2, label, fontsize="x-small")
    columns, rows = zip(*places.values(), strict=True)
    ax.set_xlim(-0.6, max(columns) + 0.6)
    ax.set_ylim(min(rows) - 1.2, max(rows) + 0.8)


def animate(graphs: Sequence[Graph], titles: Sequence[str], path: Path) -> None:
    """Writes a GIF that shows one graph after the other."""
    width = max(max(x for x, _ in layout(graph).values()) for graph in graphs)
    figure = new_figure(2 + 1.1 * width, max(map(height, graphs)))
    ax = figure.subplots()

    frames = []
    for graph, title in zip(graphs, titles, strict=True):
        draw(graph, ax)
        ax.set_title(title)
        drawn = io.BytesIO()
        save(figure, drawn, format="png", dpi=80)
        frames.append(Image.open(drawn).convert("RGB"))
    write_gif(frames, path)
