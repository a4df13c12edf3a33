"""The cell space of DARTS for images: mixtures, and children with two inputs a node.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019). A cell has
two inputs and ``num_nodes`` nodes. A mixture has an edge from each earlier state to
each node, with a weight for each operation. A child keeps two edges a node, each with
one operation. :mod:`wpl_jax.spaces.darts_network` is the network of the cells.

``channel_parts`` and ``edge_weights`` are the options of PC-DARTS (Xu et al., ICLR
2020): operations on a part of the channels, and weights of a node's inputs in a
mixture.

Edges have parameters of their own in each cell of the network, for each operation. A
mixture computes all edges from one state at once (:mod:`wpl_jax.spaces.darts_mixture`),
a child one edge after the other (:mod:`wpl_jax.spaces.darts_branches`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import MOST_NODES, check_bool, check_int, require
from wpl_jax.spaces import (
    darts_blocks,
    darts_branches,
    darts_choices,
    darts_mixture,
    darts_parts,
)
from wpl_jax.spaces.darts_branches import Branches, edges_before, every_edge
from wpl_jax.spaces.darts_choices import pair_number, pairs_of
from wpl_jax.spaces.darts_mixture import Mixture
from wpl_jax.spaces.darts_network import INPUTS, KINDS, REDUCTION, DartsNetwork, graph
from wpl_jax.spaces.darts_operations import (
    CONVOLUTIONS,
    OPERATIONS,
    SKIP,
    skip_parameters,
)
from wpl_jax.spaces.genotypes import Genotype, parse
from wpl_jax.spaces.network import Network
from wpl_jax.supernet import EVERY_ROW, PAD, Architecture, Decision, Graph


@dataclasses.dataclass(frozen=True)
class DartsCell(DartsNetwork):
    """The supernet; the settings of :class:`DartsNetwork` come first.

    Attributes:
      num_nodes: Nodes of a cell.
      exclude_none: Whether ``none`` is no choice of a mixture. It is none of a child.
      channel_parts: Number of parts into which an edge divides its channels. Operations
        work on the first part, the others pass unchanged (of a halved image the
        maximum of 2x2 pixels), and all are shuffled (PC-DARTS, with 4).
      edge_weights: Whether a mixture also has a distribution over the inputs of each
        node, which multiplies them (PC-DARTS). The two inputs of a child's node then
        have weights of 1/2.
    """

    num_nodes: int = 4
    exclude_none: bool = False
    channel_parts: int = 1
    edge_weights: bool = False

    name = "darts_cell"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_int(self, "num_nodes", 1, most=MOST_NODES)
        check_int(self, "channel_parts", 1)
        check_bool(self, "exclude_none", "edge_weights")
        divided = self.channels % self.channel_parts == 0
        require(self, "channel_parts", divided, "a divisor of the channels")

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether there are mixtures: without ``affine``, as in the search of DARTS."""
        return not self.affine

    @property
    def draws(self) -> bool:
        """Whether there are gates, one operation on each edge (GDAS)."""
        return self.mixes and not self.edge_weights

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that a mixture has on each edge."""
        return OPERATIONS[1:] if self.exclude_none else OPERATIONS

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Of each cell and node: its two inputs, and their operations.

        Two inputs are named by the numbers of their states, the smaller one first.
        """
        found = []
        for kind in KINDS:
            for node in range(self.num_nodes):
                pairs = tuple(f"{i}, {j}" for i, j in pairs_of(node + INPUTS))
                name = f"{kind}_{node + INPUTS}"
                found.append(Decision(f"{name}_inputs", pairs))
                for side in "ab":
                    found.append(Decision(f"{name}_operation_{side}", OPERATIONS[1:]))
        return tuple(found)

    @property
    def groups(self) -> tuple[Decision, ...]:
        """The operations of each edge; with ``edge_weights``, the inputs of each node.

        Edges are ordered by cell, then by node, then by input.
        """
        found = [
            Decision(f"{kind}_{source}_{node + INPUTS}", self.operations)
            for kind in KINDS
            for node in range(self.num_nodes)
            for source in range(node + INPUTS)
        ]
        if self.edge_weights:
            found += [
                Decision(
                    f"{kind}_inputs_of_{node + INPUTS}",
                    tuple(map(str, range(node + INPUTS))),
                )
                for kind in KINDS
                for node in range(self.num_nodes)
            ]
        return tuple(found)

    @property
    def _edges(self) -> int:
        """Edges of a cell."""
        return edges_before(self.num_nodes)

    def discretize(self, weights: jax.Array) -> jax.Array:
        """The two strongest inputs of each node, with the strongest operation.

        ``none`` is excluded. The strength of an edge is its largest weight, times that
        of the input with ``edge_weights`` (the code of DARTS and of PC-DARTS).

        Args:
          weights: ``float32[num_groups, max_choices]``.

        Returns:
          ``int32[num_decisions]``.
        """
        first = self.operations.index(OPERATIONS[1])
        usable = weights[: 2 * self._edges, first : len(self.operations)]
        best, strength = jnp.argmax(usable, 1), jnp.max(usable, 1)
        found = []
        for kind in range(len(KINDS)):
            for node in range(self.num_nodes):
                inputs = node + INPUTS
                edges = kind * self._edges + edges_before(node) + np.arange(inputs)
                own = strength[edges]
                if self.edge_weights:
                    own = own * weights[self._group_of_inputs(kind, node), :inputs]
                i, j = jnp.sort(jnp.argsort(-own)[:2])
                found += [pair_number(i, j), best[edges[0] + i], best[edges[0] + j]]
        return jnp.stack(found).astype(jnp.int32)

    def _group_of_inputs(self, kind: int, node: int) -> int:
        return len(KINDS) * self._edges + kind * self.num_nodes + node

    def _branches(self, architecture: Architecture, kind: int) -> Branches:
        """Two edges a node of a child, or with gates all edges."""
        if architecture.gates is not None:
            gates = architecture.gates[kind * self._edges :][: self._edges]
            gates = gates[:, : len(self.operations)]
            every, target = every_edge(self.num_nodes)
            operation = jnp.argmax(gates, 1).astype(jnp.int32)
            return Branches(every, target, operation, gates)
        choice = jnp.reshape(architecture.choice, (len(KINDS), self.num_nodes, 3))[kind]
        pairs = jnp.asarray(pairs_of(self.num_nodes + 1))
        first = self.operations.index(OPERATIONS[1])
        source, operation = pairs[choice[:, 0]], choice[:, 1:] + first
        return Branches(
            source.ravel(),
            np.repeat(np.arange(self.num_nodes), 2),
            operation.ravel(),
            None,
        )

    # The parameters.

    def _nodes_out(self, kind):
        del kind
        return range(self.num_nodes)

    def _of_cells(self, place, cells):
        part = place.channels // self.channel_parts
        found = {
            name: CONVOLUTIONS[name].parameters(cells * self._edges, part, self.affine)
            for name in self.operations
            if name in CONVOLUTIONS
        }
        if place.kind == REDUCTION:
            rows = cells * INPUTS * self.num_nodes
            found[SKIP] = skip_parameters(rows, part, self.affine)
        return found

    def _rows_of_cells(self, architecture, place, cells):
        parameters = self._of_cells(place, cells)
        if architecture.weights is not None:
            rows = dict.fromkeys(parameters, EVERY_ROW)
        else:
            branches = self._branches(architecture, place.kind)
            rows = {name: self._rows_of(name, branches, cells) for name in parameters}
        return {n: dict.fromkeys(p, rows[n]) for n, p in parameters.items()}

    def _rows_of(self, name, branches, cells):
        """The rows of an operation, ``PAD`` for branches with another one."""
        there = branches.operation == self.operations.index(name)
        row, rows = branches.edge, self._edges
        if name == SKIP:
            there &= branches.source < INPUTS
            row = INPUTS * branches.target + branches.source
            rows = INPUTS * self.num_nodes
        places = jnp.arange(cells * len(branches.target))
        row = jnp.arange(cells)[:, None] * rows + row
        return jnp.where(jnp.tile(there, cells), row.ravel(), PAD + places)

    # What it costs.

    def _parts_of_cell(self, name, place):
        reduction = place.kind == REDUCTION
        return [
            darts_parts.operation_part(
                name, operation, place, halves, self, self.channel_parts
            )
            for halves in ((False, True) if reduction else (False,))
            for operation in OPERATIONS[1:]
        ]

    def _uses_in_cell(self, architecture, place):
        """Of a mixture, those of two inputs a node that are drawn by their weights.

        Without ``edge_weights`` all inputs are equally probable. ``none`` is excluded,
        as in :meth:`discretize`.
        """
        if architecture.weights is None:
            branches = self._branches(architecture._replace(gates=None), place.kind)
            source = branches.source
            first = self.operations.index(OPERATIONS[1])
            chosen = jax.nn.one_hot(branches.operation - first, len(OPERATIONS) - 1)
        else:
            source, chosen = self._expected(architecture.weights, place.kind)
        if place.kind != REDUCTION:
            return jnp.sum(chosen, 0)
        halves = (jnp.asarray(source) < INPUTS)[:, None]
        of_strides = [jnp.where(halves, 0, chosen), jnp.where(halves, chosen, 0)]
        return jnp.concatenate([jnp.sum(each, 0) for each in of_strides])

    def _expected(self, weights, kind):
        """Sources of edges, and expected uses, ``float32[edges, operations]``."""
        source, target = every_edge(self.num_nodes)
        first = self.operations.index(OPERATIONS[1])
        own = weights[kind * self._edges :][: self._edges]
        usable = own[:, first : len(self.operations)]
        total = jnp.sum(usable, 1, keepdims=True)
        usable = usable / jnp.maximum(total, 1e-9)
        share = jnp.asarray(INPUTS / (target + INPUTS), jnp.float32)
        if self.edge_weights:
            groups = self._group_of_inputs(kind, 0) + target
            share = INPUTS * weights[groups, source]
        return source, usable * share[:, None]

    # The forward pass.

    def _run_cell(self, place, architecture, weights, inputs, given, noise, axis):
        weights = {n: w for n, w in weights.items() if n not in ("first", "second")}
        if architecture.weights is None:
            branches = self._branches(architecture, place.kind)
            return darts_branches.run(
                self, place, branches, weights, inputs, given, noise, axis
            )
        mixture = self._mixture(architecture.weights, place.kind)
        return darts_mixture.run(self, place, mixture, weights, inputs, given, axis)

    def _mixture(self, weights, kind):
        """The weights of a cell of a mixture."""
        of_inputs = None
        if self.edge_weights:
            of_inputs = weights[self._group_of_inputs(kind, 0) :][: self.num_nodes]
        return Mixture(weights[kind * self._edges :][: self._edges], of_inputs)

    # Notation and pictures.

    def to_notation(self, choice: Any) -> str:
        """The architecture as a genotype of DARTS."""
        return str(self.genotype(choice))

    def from_notation(self, text: str) -> np.ndarray:
        """The choice of a genotype, or of a published one by its name.

        Args:
          text: As :func:`wpl_jax.spaces.genotypes.parse` reads it.

        Raises:
          UserError: If it is no genotype, or none of this space.
        """
        return darts_choices.choice_of(parse(text), self.num_nodes, self.name)

    def genotype(self, choice: Any) -> Genotype:
        """The architecture in the notation of DARTS.

        Args:
          choice: ``int[num_decisions]``.
        """
        return darts_choices.genotype_of(choice, self.num_nodes)

    def network(self, choice: Any, child: Any, statistics: Any) -> Network | None:
        """The cells and the rest of the network, without its auxiliary head."""
        return darts_blocks.network(
            self,
            self._segments,
            self.genotype(choice),
            child,
            statistics,
            self._weights_of_branch,
            self.channel_parts,
            self.edge_weights,
        )

    def _weights_of_branch(self, own, cell, branch, operation):
        row = cell * INPUTS * self.num_nodes + branch
        return {key: value[row] for key, value in own.get(operation, {}).items()}

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """Both cells, from the two cells before, ``h[-2]`` and ``h[-1]``."""
        genotype = self.genotype(choice)
        cells = (genotype.normal, genotype.reduce)
        return {
            kind: graph(cell, range(INPUTS, self.num_nodes + INPUTS))
            for kind, cell in zip(KINDS, cells, strict=True)
        }
