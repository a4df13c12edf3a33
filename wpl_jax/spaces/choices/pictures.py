"""Pictures of children of networks with choices."""

from typing import Any

from wpl_jax.spaces.choices.discovery import Discovered
from wpl_jax.spaces.choices.layout import is_run
from wpl_jax.supernet import Graph

_IN, _OUT = "in", "out"


def graph(found: Discovered, choice: Any) -> Graph:
    """The chosen branches as nodes.

    Choices inside of branches are part of the node around them. Choices in loops have
    no edges, and are drawn between the inputs and the output.

    Args:
      found: The network's choices.
      choice: The child, ``int[num_decisions]``.
    """
    decisions, count = found.decisions, len(found.decisions)
    inside: dict[int, list[str]] = {}
    tops = []
    for number, places in enumerate(found.places):
        label = f"{decisions[number].name}: {decisions[number].choices[choice[number]]}"
        if () in places:
            tops.append(number)
            inside[number] = [label]
        elif bool(is_run(choice, places)):
            first = min(places)[0][0]
            inside.setdefault(first, []).append(label)
    edges = {edge for edge in found.edges if edge != (-1, count)}
    for number in tops:
        if not any(number in edge for edge in edges):
            edges |= {(-1, number), (number, count)}
    names = {-1: _IN, count: _OUT, **{i: decisions[i].name for i in tops}}
    nodes = {_IN: _IN, **{names[i]: "\n".join(inside[i]) for i in tops}, _OUT: _OUT}
    kept = sorted(e for e in edges if set(e) <= set(names))
    return Graph(nodes, tuple((names[a], names[b], "") for a, b in kept))
