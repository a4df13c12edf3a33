"""Nodes of a graph in columns, and the ways of edges between them.

The layered layout of Sugiyama, Tagawa and Toda, "Methods for Visual Understanding of
Hierarchical System Structures" (1981): a node is in the column of the longest way to
it. An edge that skips columns has a place of its own in each of them, so that it passes
between nodes. The order in each column is by the mean of the neighbors' places, which
leaves few crossings.
"""

import itertools
from typing import NamedTuple

from wpl_jax.supernet import Graph

_SWEEPS = 12
_WIDTH_OF_EDGE = 0.45  # rows that an edge takes where it passes nodes

_Place = str | tuple[int, int]  # a node, or an edge in a column that it skips


class Layers(NamedTuple):
    """Where nodes are, and where edges pass.

    Attributes:
      places: Of each node its column, and its row around 0, upwards.
      ways: Of each edge the points that it passes between its ends.
    """

    places: dict[str, tuple[float, float]]
    ways: list[list[tuple[float, float]]]

    @property
    def points(self) -> list[tuple[float, float]]:
        """All of both."""
        return [*self.places.values(), *(point for way in self.ways for point in way)]


def layers(graph: Graph) -> Layers:
    """Places nodes and edges of a graph; each node comes after those that feed it."""
    depth = dict.fromkeys(graph.nodes, 0)
    for name in graph.nodes:
        feeding = [depth[a] for a, b, _ in graph.edges if b == name]
        depth[name] = 1 + max(feeding, default=-1)
    columns: list[list[_Place]] = [[] for _ in range(max(depth.values()) + 1)]
    for name in graph.nodes:
        columns[depth[name]].append(name)
    links: list[tuple[_Place, _Place]] = []
    for number, (start, end, _) in enumerate(graph.edges):
        skipped: list[_Place] = [
            (number, column) for column in range(depth[start] + 1, depth[end])
        ]
        for column, place in enumerate(skipped, depth[start] + 1):
            columns[column].append(place)
        links += itertools.pairwise([start, *skipped, end])
    columns = _ordered(columns, links)
    rows = _rows(columns)
    places = {name: (float(depth[name]), rows[name]) for name in graph.nodes}
    ways = [
        [(float(c), rows[number, c]) for c in range(depth[start] + 1, depth[end])]
        for number, (start, end, _) in enumerate(graph.edges)
    ]
    return Layers(places, ways)


def _ordered(
    columns: list[list[_Place]], links: list[tuple[_Place, _Place]]
) -> list[list[_Place]]:
    """The order with the fewest crossings that sweeps from both sides find."""
    best, fewest = columns, _crossings(columns, links)
    for sweep in range(_SWEEPS):
        forward = sweep % 2 == 0
        columns = list(columns)
        order = range(1, len(columns)) if forward else range(len(columns) - 2, -1, -1)
        for c in order:
            near = columns[c - 1 if forward else c + 1]
            place = {name: i / max(len(near) - 1, 1) for i, name in enumerate(near)}
            means = {}
            for i, name in enumerate(columns[c]):
                ends = [
                    place[a if b == name else b]
                    for a, b in links
                    if (b == name and a in place) or (a == name and b in place)
                ]
                own = i / max(len(columns[c]) - 1, 1)
                means[name] = sum(ends) / len(ends) if ends else own
            columns[c] = sorted(columns[c], key=means.__getitem__)
        columns = _exchanged(columns, links)
        if (found := _crossings(columns, links)) < fewest:
            best, fewest = columns, found
        if not fewest:
            break
    return best


def _exchanged(
    columns: list[list[_Place]], links: list[tuple[_Place, _Place]]
) -> list[list[_Place]]:
    """Exchanges neighbors in a column where fewer edges cross then."""
    for c, column in enumerate(columns):
        own = set(column)
        near = [link for link in links if own.intersection(link)]
        fewest = _crossings(columns, near)
        for i in range(len(column) - 1):
            tried = list(columns)
            tried[c] = [*columns[c]]
            tried[c][i : i + 2] = tried[c][i + 1], tried[c][i]
            if (found := _crossings(tried, near)) < fewest:
                columns, fewest = tried, found
    return columns


def _crossings(columns: list[list[_Place]], links: list[tuple[_Place, _Place]]) -> int:
    """How many pairs of links cross."""
    place = {name: i for column in columns for i, name in enumerate(column)}
    of = {name: c for c, column in enumerate(columns) for name in column}
    count = 0
    for (a, b), (c, d) in itertools.combinations(links, 2):
        if of[a] == of[c]:
            count += (place[a] - place[c]) * (place[b] - place[d]) < 0
    return count


def _rows(columns: list[list[_Place]]) -> dict[_Place, float]:
    """Rows from the top, edges closer together than nodes, each column around 0."""
    found: dict[_Place, float] = {}
    for column in columns:
        sizes = [1.0 if isinstance(x, str) else _WIDTH_OF_EDGE for x in column]
        top = sum(sizes) / 2
        for place, size in zip(column, sizes, strict=True):
            found[place] = top - size / 2
            top -= size
    return found
