"""Architectures of NAS-Bench-201 as the benchmark writes, orders and compares them.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search" (2020). A cell is a complete directed graph of four nodes. Each of its six edges
holds one of five operations, and a node is the sum of its edges. An architecture is the
choice of each edge, ``int[6]``, in the order of :data:`EDGES`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from wpl_jax.errors import UserError, shorten

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NODES = 4  # Node 0 is the input of a cell, the last one its output.
# By target, then by source: the order in which the architecture's string lists them.
EDGES = tuple((s, t) for t in range(1, NODES) for s in range(t))  # source, target


def to_string(choice: Any) -> str:
    """The string of an architecture in the benchmark's format.

    Args:
      choice: ``int[6]``.

    Examples:
      >>> to_string([3, 3, 1, 0, 4, 2])
      '|nor_conv_3x3~0|+|nor_conv_3x3~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|'
    """
    terms: list[list[str]] = [[] for _ in range(NODES)]
    for (source, target), operation in zip(EDGES, choice, strict=True):
        terms[target].append(f"{OPERATIONS[int(operation)]}~{source}")
    return "+".join(f"|{'|'.join(of_node)}|" for of_node in terms[1:])


def from_string(text: str) -> np.ndarray:
    """The choices of the architecture that a string of the benchmark describes.

    Args:
      text: As :func:`to_string` writes it.

    Returns:
      ``int32[6]``.

    Raises:
      UserError: If the text does not describe an architecture of this space.

    Examples:
      >>> from_string("|none~0|+|skip_connect~0|none~1|+|none~0|none~1|nor_conv_3x3~2|")
      array([0, 1, 0, 0, 0, 3], dtype=int32)
    """
    terms = [
        (term, target)
        for target, node in enumerate(text.split("+"), 1)
        for term in node.strip().strip("|").split("|")
    ]
    known = {
        (f"{operation}~{source}", target): index
        for source, target in EDGES
        for index, operation in enumerate(OPERATIONS)
    }
    choice = [known.get(term, -1) for term in terms]
    if len(choice) != len(EDGES) or min(choice) < 0 or to_string(choice) != text:
        raise UserError(
            f"{shorten(text)} is no architecture of NAS-Bench-201, expected one like "
            f"{to_string([3] * len(EDGES))}, of the operations {', '.join(OPERATIONS)}."
        )
    return np.array(choice, np.int32)


def all_architectures() -> np.ndarray:
    """All 15,625 architectures, ``int32[15625, 6]``, the last edge varying fastest."""
    every = itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))
    return np.array(list(every), np.int32)


def canonical_form(choice: Sequence[int] | np.ndarray, flatten: bool = False) -> str:
    """An expression that isomorphic architectures have in common.

    The expression of a node is the sum of its edges, its terms sorted as text. An edge
    without an operation, or from a node that is zero, is ``#``. A skip connection is
    the expression of its source.

    Args:
      choice: ``int[6]``.
      flatten: Whether a skip connection from a sum adds the terms of that sum, and
        zeros are left out. The published classes do neither, and so keep apart
        architectures that compute the same function. There are 6,466 of them, and
        4,930 with ``flatten``.

    Returns:
      The expression of the last node, with ``0`` for the input of the cell.

    Examples:
      Either way to the last node is a 3x3 convolution of the input:

      >>> canonical_form([3, 0, 0, 0, 1, 0])
      '#+#+(0)@nor_conv_3x3'
      >>> canonical_form([0, 3, 0, 0, 0, 1])
      '#+#+#+(0)@nor_conv_3x3'
      >>> canonical_form([0, 3, 0, 0, 0, 1], flatten=True)
      '(0)@nor_conv_3x3'
    """
    sums: list[list[str]] = [["0"]] + [[] for _ in range(NODES - 1)]
    for (source, target), operation in zip(EDGES, choice, strict=True):
        terms = sorted(sums[source]) or ["#"]
        expression = "+".join(terms)
        if operation == 0 or expression == "#":
            new = ["#"]
        elif operation == 1:
            new = terms if flatten else [expression]
        else:
            new = [f"({expression})@{OPERATIONS[int(operation)]}"]
        sums[target] += [term for term in new if not (flatten and term == "#")]
    return "+".join(sorted(sums[-1])) or "#"
