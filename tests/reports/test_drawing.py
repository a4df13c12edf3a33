"""Pictures of architectures: the language of Graphviz, places, axes and films."""

import itertools
import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers.tiny import small_files
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from PIL import Image

from wpl_jax.errors import UserError
from wpl_jax.reports.drawing import animate, colors_of, draw, size, to_dot
from wpl_jax.reports.layers import layers
from wpl_jax.reports.page import new_figure
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import Graph

QUOTED = r'"((?:[^"\\]|\\.)*)"'
NASTY = Graph(
    {"in": 'a "quoted" word', "a\\b": "back\\slash\\", '"': "}; {", "out": "ends \\"},
    (
        ("in", "a\\b", 'an "edge"'),
        ("in", '"', ""),
        ("a\\b", "out", "\\"),
        ('"', "out", "]; ["),
    ),
)
# The longest way to d takes three edges, the shortest one.
SKIPPING = Graph(
    dict.fromkeys("abcd", "node"),
    (("a", "b", ""), ("b", "c", ""), ("a", "d", "short"), ("c", "d", "")),
)


def random_graphs(count=12):
    """Cells of several sizes, both with their leaves and with all nodes as output."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        space = RecurrentCell(7, 4, 2 + i, output=("leaves", "all")[i % 2])
        architecture = [rng.integers(len(d.choices)) for d in space.decisions]
        found.append(space.graphs(np.array(architecture))["cell"])
    return found


def unquoted(text):
    return re.sub(r"\\(.)", r"\1", text)


@pytest.fixture
def ax():
    return new_figure(4.0, 2.0).subplots()


def labels(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


# The language of Graphviz.


@pytest.mark.parametrize("graph", [NASTY, SKIPPING, *random_graphs()[-2:]])
def test_dot_has_each_node_and_each_edge_once(graph):
    text = to_dot(graph)
    attribute = rf"\[label={QUOTED}\];"
    nodes = re.findall(rf"^  {QUOTED} {attribute}$", text, re.M)
    edges = re.findall(rf"^  {QUOTED} -> {QUOTED} {attribute}$", text, re.M)
    assert [tuple(map(unquoted, node)) for node in nodes] == [*graph.nodes.items()]
    assert [tuple(map(unquoted, edge)) for edge in edges] == [*graph.edges]
    # All else is the frame.
    assert len(text.splitlines()) == 4 + len(nodes) + len(edges)


@pytest.mark.parametrize("graph", [NASTY, SKIPPING, *random_graphs()[-2:]])
def test_dot_is_balanced_outside_of_its_labels(graph):
    text = re.sub(QUOTED, "", to_dot(graph))
    assert '"' not in text
    assert "\\" not in text
    open_ones = []
    for char in text:
        if char in "{[":
            open_ones.append(char)
        elif char in "}]":
            assert open_ones.pop() + char in ("{}", "[]")
    assert not open_ones
    assert re.fullmatch(r"digraph \w+ \{.*\}\n", text, re.S)


@pytest.mark.skipif(not shutil.which("dot"), reason="Graphviz is not installed")
@pytest.mark.parametrize("graph", [NASTY, SKIPPING, random_graphs()[-1]])
def test_graphviz_draws_each_node_and_each_edge(graph):
    command = ["dot", "-Tplain"]
    done = subprocess.run(
        command, input=to_dot(graph), capture_output=True, text=True, check=True
    )
    assert not done.stderr
    kinds = [line.split()[0] for line in done.stdout.splitlines()]
    assert kinds.count("node") == len(graph.nodes)
    assert kinds.count("edge") == len(graph.edges)


# Places.


@pytest.mark.parametrize("graph", [NASTY, SKIPPING, *random_graphs()])
def test_nodes_stand_right_of_all_that_feed_them_and_apart(graph):
    places = layers(graph).places
    assert places.keys() == graph.nodes.keys()
    for start, end, _ in graph.edges:
        assert places[end][0] > places[start][0]
    assert len(set(places.values())) == len(graph.nodes)


@pytest.mark.parametrize("graph", [SKIPPING, *random_graphs(6)])
def test_columns_are_the_longest_ways(graph):
    def longest(name):
        """Over all ways, one by one."""
        before = [longest(start) for start, end, _ in graph.edges if end == name]
        return 1 + max(before) if before else 0

    found = {name: column for name, (column, _) in layers(graph).places.items()}
    assert found == {name: longest(name) for name in graph.nodes}


@pytest.mark.parametrize("graph", [NASTY, SKIPPING, *random_graphs()])
def test_columns_are_centered_and_edges_pass_between_nodes(graph):
    found, columns = layers(graph), {}
    for column, row in found.points:
        columns.setdefault(column, []).append(row)
    for rows in columns.values():
        assert abs(max(rows) + min(rows)) < 0.6  # An edge is thinner than a node.
    for (start, end, _), way in zip(graph.edges, found.ways, strict=True):
        first, last = (found.places[name][0] for name in (start, end))
        assert [column for column, _ in way] == list(range(int(first) + 1, int(last)))
        for column, row in way:
            in_the_way = [y for x, y in found.places.values() if x == column]
            assert all(abs(row - y) > 0.7 for y in in_the_way)


def crossings(order, edges):
    """Pairs of edges between two columns that cross, by the nodes' positions."""
    pairs = itertools.combinations([(order[a], order[b]) for a, b in edges], 2)
    return sum((a - c) * (b - d) < 0 for (a, b), (c, d) in pairs)


def test_as_few_edges_cross_as_can_be():
    rng = np.random.default_rng(0)
    for _ in range(5):
        left, right = "abcd", "wxyz"
        pairs = [p for p in itertools.product(left, right) if rng.random() < 0.4]
        pairs += [pair for pair in zip(left, right, strict=True) if pair not in pairs]
        graph = Graph(dict.fromkeys(left + right, ""), tuple((*p, "") for p in pairs))
        least = min(
            crossings({n: i for side in sides for i, n in enumerate(side)}, pairs)
            for sides in itertools.product(
                itertools.permutations(left), itertools.permutations(right)
            )
        )
        rows = {name: y for name, (_, y) in layers(graph).places.items()}
        given = {n: i for side in (left, right) for i, n in enumerate(side)}
        found = crossings(rows, pairs)
        assert found <= crossings(given, pairs)
        assert found <= 2 * least  # The best order takes exponential time to find.


def test_a_figure_grows_with_its_graph():
    small, large = random_graphs()[0], random_graphs()[-1]
    assert size(small)[0] < size(large)[0]
    assert size(small)[1] < size(large)[1]


# On axes.


@pytest.mark.parametrize("graph", random_graphs()[::4])
def test_each_node_is_one_text_at_its_place(graph, ax):
    draw(graph, ax)
    assert sorted(labels(ax)) == sorted(graph.nodes.values())
    shown = {t.get_text(): t.get_position() for t in ax.texts if t.get_text()}
    places = layers(graph).places
    assert shown == {label: places[name] for name, label in graph.nodes.items()}
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for x, y in shown.values():
        assert left < x < right
        assert bottom < y < top


@pytest.mark.parametrize("dpi", [80, 200])
def test_each_edge_is_an_arrow_from_border_to_border(dpi, monkeypatch):
    drawn = []  # What it is while it is drawn; afterwards the boxes have been, too.
    monkeypatch.setattr(
        FancyArrowPatch, "draw", lambda arrow, _: drawn.append(arrow.get_path())
    )
    graph = random_graphs()[-1]
    figure = Figure((8, 3))  # Without a layout, which would place the boxes before.
    ax = figure.subplots()
    draw(graph, ax)
    figure.dpi = dpi  # Another than it was drawn for, as when it is saved.
    FigureCanvasAgg(figure).draw()
    boxes = {text.get_text(): text.get_bbox_patch() for text in ax.texts}
    near = dpi / 20  # pixels
    for path, edge in zip(drawn, graph.edges, strict=True):
        points = ax.transData.transform(path.vertices)
        # Last is the head: one corner, the tip, the other, and where it closes.
        for name, point in zip(edge, (points[0], points[-3]), strict=False):
            box = boxes[graph.nodes[name]]
            box = box.get_path().get_extents(box.get_transform())
            assert box.padded(near).contains(*point)
            assert not box.padded(-near).contains(*point)


def test_equal_operations_have_one_color(ax):
    graph = random_graphs()[-1]
    draw(graph, ax)
    colors = {t.get_text(): t.get_bbox_patch().get_edgecolor() for t in ax.texts}
    by_operation = {}
    for label in list(graph.nodes.values())[1:-1]:
        by_operation.setdefault(label.split()[1], set()).add(colors[label])
    assert all(len(found) == 1 for found in by_operation.values())
    assert len(set.union(*by_operation.values())) == len(by_operation) > 1


def test_pictures_beside_each_other_share_colors(ax):
    few = Graph({"x": "x", "a": "1 tanh", "y": "y"}, (("x", "a", ""), ("a", "y", "")))
    more = few._replace(nodes={**few.nodes, "a": "2 relu"})
    colors = colors_of([few, more])
    assert colors.keys() == {"relu", "tanh"}
    for graph, name in ((few, "tanh"), (more, "relu")):
        draw(graph, ax, colors)
        (box,) = (t.get_bbox_patch() for t in ax.texts if name in t.get_text())
        assert box.get_edgecolor() == to_rgba(colors[name])
    assert colors["relu"] != colors["tanh"]


def test_edges_may_have_labels(ax):
    draw(NASTY, ax)
    named = [label for _, _, label in NASTY.edges if label]
    assert sorted(labels(ax)) == sorted([*NASTY.nodes.values(), *named])


def test_next_picture_replaces_the_one_before(ax):
    one, _, other = random_graphs()[:3]
    draw(other, ax)
    draw(one, ax)
    assert sorted(labels(ax)) == sorted(one.nodes.values())


# Films.


@pytest.mark.parametrize("count", [1, 3])
def test_film_has_a_frame_for_each_graph(count, tmp_path):
    graphs = [random_graphs()[0], *random_graphs()[2:4]][:count]
    path = tmp_path / "film.gif"
    animate(graphs, [f"epoch {i}" for i in range(count)], path)
    with Image.open(path) as film:
        assert film.format == "GIF"
        assert film.n_frames == count
        frames = []
        for i in range(count):
            film.seek(i)
            frames.append(np.asarray(film.convert("L")))
    assert len({frame.tobytes() for frame in frames}) == count
    assert all((frame < 128).any() for frame in frames)  # Letters.


def test_film_repeats_a_graph_under_another_title(tmp_path):
    path = tmp_path / "film.gif"
    animate([SKIPPING] * 2, ["best of epoch 1", "best of epoch 2"], path)
    with Image.open(path) as film:
        assert film.n_frames == 2


def test_film_is_whole_or_not_there_on_a_full_disk(tmp_path):
    path = tmp_path / "film.gif"
    path.write_text("old")
    with small_files(1000), pytest.raises(UserError, match="could not be written"):
        animate([SKIPPING], ["best of epoch 1"], path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["film.gif"]


def test_labels_of_pictures_are_plain(tmp_path):
    graph = Graph({"a": "$\\frac{$", "b": "50 $ x_1$"}, (("a", "b", "$$"),))
    animate([graph], ["$\\frac{$"], tmp_path / "cell.gif")
    assert (tmp_path / "cell.gif").stat().st_size > 0
