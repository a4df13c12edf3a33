"""Choices of a cell of DARTS, and genotypes: the same children in two notations.

A node of a child chooses a pair of earlier states, and an operation on each of the two.
"""

import functools
from typing import Any

import numpy as np

from wpl_jax.errors import UserError, for_caller
from wpl_jax.spaces.darts_network import INPUTS, KINDS
from wpl_jax.spaces.darts_operations import OPERATIONS
from wpl_jax.spaces.genotypes import Genotype


@functools.cache
def pairs_of(states: int) -> list[tuple[int, int]]:
    """All pairs of states, those of the first states at first."""
    return [(i, j) for j in range(states) for i in range(j)]


def pair_number(i: Any, j: Any) -> Any:
    """The index of a pair in :func:`pairs_of`."""
    return j * (j - 1) // 2 + i


def choice_of(genotype: Genotype, num_nodes: int, name: str) -> np.ndarray:
    """The choice of a genotype, ``int32[num_decisions]``.

    Args:
      genotype: Both cells.
      num_nodes: Nodes of a cell of the space.
      name: Of the space, for messages.

    Raises:
      UserError: If the genotype is no child of the space.
    """
    whole = tuple(range(INPUTS, num_nodes + INPUTS))
    found = []
    for kind, cell, concat in (
        ("normal", genotype.normal, genotype.normal_concat),
        ("reduce", genotype.reduce, genotype.reduce_concat),
    ):
        if len(cell) != 2 * num_nodes or concat != whole:
            has = f"nodes {concat} of {len(cell) // 2}"
            raise _no_child(name, num_nodes, kind, has)
        for pair in zip(cell[::2], cell[1::2], strict=True):
            (a, i), (b, j) = sorted(pair, key=lambda each: each[1])
            known = OPERATIONS[1:]
            if i == j or a not in known or b not in known:
                raise _no_child(name, num_nodes, kind, f"a node of {pair}")
            found += [pair_number(i, j), known.index(a), known.index(b)]
    return np.array(found, np.int32)


def genotype_of(choice: Any, num_nodes: int) -> Genotype:
    """The genotype of a choice.

    Args:
      choice: ``int[num_decisions]``.
      num_nodes: Nodes of a cell of the space.
    """
    chosen = np.reshape(choice, (len(KINDS), num_nodes, 3))
    pairs = pairs_of(num_nodes + 1)
    cells = [
        tuple(
            (OPERATIONS[1 + operation], state)
            for pair, *operations in of_kind.tolist()
            for state, operation in zip(pairs[pair], operations, strict=True)
        )
        for of_kind in chosen
    ]
    whole = tuple(range(INPUTS, num_nodes + INPUTS))
    return Genotype(cells[0], whole, cells[1], whole)


def _no_child(name: str, num_nodes: int, kind: str, found: str) -> UserError:
    return UserError(
        f"The {kind} cell has {found}, but {name} has {num_nodes} nodes "
        f"that are all concatenated, and two different inputs of each, with "
        f"{', '.join(OPERATIONS[1:])}. The space 'genotype' trains any genotype from "
        "scratch ("
        + for_caller(
            "config.space.name='genotype', config.space.genotype.cell).",
            "wpl_jax.spaces.genotype_network.GenotypeNetwork).",
        )
    )
