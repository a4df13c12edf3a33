"""The cell space of DARTS for images: mixtures, and children with two inputs a node.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019). A cell has
two inputs and ``num_nodes`` nodes. A mixture has an edge from each earlier state to
each node, with a weight for each operation. A child keeps two edges a node, each with
one operation. :mod:`wpl_jax.spaces.darts_network` is the network of the cells.

``channel_parts`` and ``edge_weights`` are the options of PC-DARTS (Xu et al., ICLR
2020): operations on a part of the channels, and weights of a node's inputs in a
mixture.

Edges have parameters of their own in each cell of the network, for each operation. A
mixture computes all edges from one state at once, a child one edge after the other,
both by :mod:`wpl_jax.spaces.darts_operations`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import MOST_NODES, check_bool, check_int, require
from wpl_jax.errors import UserError
from wpl_jax.spaces import darts_blocks, darts_parts, partial_channels
from wpl_jax.spaces.batch_normalization import Moments, normalize_once
from wpl_jax.spaces.branches import switch
from wpl_jax.spaces.darts_network import (
    INPUTS,
    KINDS,
    REDUCTION,
    DartsNetwork,
    drop_path_factors,
    graph,
)
from wpl_jax.spaces.darts_operations import (
    CONVOLUTIONS,
    OPERATIONS,
    POOLS,
    SKIP,
    apply_operation,
    halving_skip,
    skip_parameters,
)
from wpl_jax.spaces.genotypes import Genotype, parse
from wpl_jax.spaces.mixed_edges import Terms, mix
from wpl_jax.spaces.network import Network
from wpl_jax.supernet import EVERY_ROW, PAD, Architecture, Decision, Graph


class Branches(NamedTuple):
    """Edges that are computed with one operation each, in the order of their nodes."""

    source: Any  # int[branches]; a state
    target: np.ndarray  # int[branches]; a node, counted from 0
    operation: jax.Array  # int32[branches]; index into the operations of the space
    gates: jax.Array | None  # float32[branches, operations]

    @property
    def edge(self) -> Any:
        """Numbers of the edges, int[branches]."""
        return edges_before(self.target) + self.source


def edges_before(node: Any) -> Any:
    """The number of edges to earlier nodes."""
    return node * (node + 3) // 2


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
                pairs = tuple(f"{i}, {j}" for i, j in _pairs(node + INPUTS))
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
                found += [_pair(i, j), best[edges[0] + i], best[edges[0] + j]]
        return jnp.stack(found).astype(jnp.int32)

    def _group_of_inputs(self, kind: int, node: int) -> int:
        return len(KINDS) * self._edges + kind * self.num_nodes + node

    def _branches(self, architecture: Architecture, kind: int) -> Branches:
        """Two edges a node of a child, or with gates all edges."""
        nodes = np.arange(self.num_nodes)
        if architecture.gates is not None:
            gates = architecture.gates[kind * self._edges :][: self._edges]
            gates = gates[:, : len(self.operations)]
            target = np.repeat(nodes, nodes + INPUTS)
            every = np.concatenate([np.arange(node + INPUTS) for node in nodes])
            operation = jnp.argmax(gates, 1).astype(jnp.int32)
            return Branches(every, target, operation, gates)
        choice = jnp.reshape(architecture.choice, (len(KINDS), self.num_nodes, 3))[kind]
        pairs = jnp.asarray(_pairs(self.num_nodes + 1))
        first = self.operations.index(OPERATIONS[1])
        source, operation = pairs[choice[:, 0]], choice[:, 1:] + first
        return Branches(source.ravel(), np.repeat(nodes, 2), operation.ravel(), None)

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
        nodes = np.arange(self.num_nodes)
        source = np.concatenate([np.arange(node + INPUTS) for node in nodes])
        target = np.repeat(nodes, nodes + INPUTS)
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
            return self._choose(
                place, architecture, weights, inputs, given, noise, axis
            )
        return self._mix(place, architecture, weights, inputs, given, axis)

    def _choose(self, place, architecture, weights, inputs, given, noise, axis):
        """A cell with one operation on each of some edges, one after the other."""
        branches = self._branches(architecture, place.kind)
        halves = place.kind == REDUCTION
        alternatives = self._alternatives(halves, axis)
        states = jnp.stack(
            [partial_channels.split(x, self.channel_parts)[0] for x in inputs]
        )
        rest = jnp.stack([self._rest(x, halves) for x in inputs])
        shape = len(inputs[0]), *place.size, place.channels
        nodes = jnp.zeros((self.num_nodes, *shape), inputs[0].dtype)
        of_skip = self.operations.index(SKIP)

        def add(nodes, each):
            source, target, operation, gates, weights, given, kept = each
            of_input = source < INPUTS
            node = nodes[jnp.maximum(source - INPUTS, 0)]
            part, unchanged = partial_channels.split(node, self.channel_parts)
            state = jnp.minimum(source, INPUTS - 1)
            unchanged = jnp.where(of_input, rest[state], unchanged)
            if halves:
                index = operation + jnp.where(of_input, 0, len(self.operations))
                images = [states[state], part]
            else:
                index, images = operation, [jnp.where(of_input, states[state], part)]
            y, found = switch(index, alternatives, images, weights, given)
            if gates is not None:
                gates = gates.astype(y.dtype)
                own = gates[operation]
                # Gates of other choices have the gradient that they would have if
                # their operations returned ones (the code of Dong and Yang).
                y = own * y + (jnp.sum(gates) - own)
            if kept is not None:
                identity = (operation == of_skip) & ~(of_input & halves)
                kept = jnp.where(identity, 1, kept).astype(y.dtype)
                y = y * kept[:, None, None, None]
            y = partial_channels.join(y, unchanged)
            if self.edge_weights:
                y = y / INPUTS
            return nodes.at[target].add(y), found

        number = len(branches.target)
        each = (
            jnp.asarray(branches.source),
            jnp.asarray(branches.target),
            branches.operation,
            branches.gates,
            weights,
            given,
            drop_path_factors(noise, number, len(inputs[0]), axis),
        )
        nodes, found = jax.lax.scan(add, nodes, each)
        return list(nodes), found

    def _alternatives(self, halves: bool, axis):
        """What a branch may compute: each operation, at both strides if ``halves``."""

        def alternative(name, place, stride):
            def run(images, weights, given):
                y, found = apply_operation(
                    name,
                    images[place],
                    weights,
                    stride,
                    given,
                    axis,
                    self.normalize_pools,
                )
                return y, jax.lax.stop_gradient(found)

            return run

        forms = [(0, 2), (1, 1)] if halves else [(0, 1)]
        return [
            alternative(name, place, stride)
            for place, stride in forms
            for name in self.operations
        ]

    def _rest(self, x, halves):
        """The channels that operations leave unchanged."""
        _, rest = partial_channels.split(x, self.channel_parts)
        if not halves:
            return rest
        batch, height, width, channels = rest.shape
        pixels = rest.reshape(batch, height // 2, 2, width // 2, 2, channels)
        return jnp.max(pixels, (2, 4))

    def _mix(self, place, architecture, weights, inputs, given, axis):
        """A cell with the weighted sum of all operations on each edge."""
        table = architecture.weights[place.kind * self._edges :][: self._edges]
        states: list[Any] = [*inputs, *[0.0] * self.num_nodes]
        found = []
        for source in range(INPUTS + self.num_nodes - 1):
            targets = np.arange(max(source - INPUTS + 1, 0), self.num_nodes)
            edges = edges_before(targets) + source
            halves = place.kind == REDUCTION and source < INPUTS
            part, _ = partial_channels.split(states[source], self.channel_parts)
            rest = self._rest(states[source], halves)
            rows = dict.fromkeys(weights, edges)
            if place.kind == REDUCTION:
                rows[SKIP] = INPUTS * targets + source
            own = {
                name: jax.tree.map(lambda w, r=rows[name]: w[r], of_operation)
                for name, of_operation in weights.items()
                if name != SKIP or halves
            }
            weights_of = dict(zip(self.operations, table[edges].T, strict=False))
            y, moments = self._mix_edges(
                part, own, weights_of, halves, given and given[source], axis
            )
            found.append(moments)
            for target, of_edge in zip(
                targets, jnp.split(y, len(edges), -1), strict=True
            ):
                share = 1.0
                if self.edge_weights:
                    group = self._group_of_inputs(place.kind, int(target))
                    share = architecture.weights[group, source].astype(y.dtype)
                joined = partial_channels.join(of_edge, rest)
                states[INPUTS + target] += joined * share
        return states[INPUTS:], found

    def _mix_edges(self, x, own, weights_of, halves, given, axis):
        """All edges from one state, side by side, and their batch statistics."""
        stride = 2 if halves else 1
        edges = len(weights_of[SKIP])
        terms = Terms([], [], [], [])
        moments: dict[str, list[Moments]] = {}
        active = jax.nn.relu(x)
        tiled = jnp.tile(active, edges)
        for name, of_operation in own.items():
            before: list[Moments] = []
            if name == SKIP:
                y = halving_skip(active, of_operation["kernel"])
            else:
                y, before = CONVOLUTIONS[name].apply(
                    tiled, of_operation, stride, given and given[name], axis
                )
            terms.convolved.append(y)
            terms.of_convolved.append(weights_of[name])
            moments[name] = before
        for name, pool in POOLS.items():
            y = pool(x)[:, ::stride, ::stride]
            if self.normalize_pools:
                own_given = given and jax.tree.map(lambda m: m[0], given[name])
                y, of_pool = normalize_once(y, own_given, axis)
                moments[name] = [of_pool]
            terms.images.append(y)
            terms.of_images.append(weights_of[name])
        if not halves:
            terms.images.append(x)
            terms.of_images.append(weights_of[SKIP])
        last = given and [jax.tree.map(lambda m: m[-1], given[name]) for name in own]
        y, found = mix(terms, last, axis)
        for name, of_last in zip(own, found, strict=True):
            moments[name].append(of_last)
        stacked = {
            name: jax.tree.map(lambda *m: jnp.stack(m), *each)
            for name, each in moments.items()
        }
        return y, stacked

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
        genotype = parse(text)
        whole = tuple(range(INPUTS, self.num_nodes + INPUTS))
        found = []
        for kind, cell, concat in (
            ("normal", genotype.normal, genotype.normal_concat),
            ("reduce", genotype.reduce, genotype.reduce_concat),
        ):
            if len(cell) != 2 * self.num_nodes or concat != whole:
                raise _not_of(self, kind, f"nodes {concat} of {len(cell) // 2}")
            for pair in zip(cell[::2], cell[1::2], strict=True):
                (a, i), (b, j) = sorted(pair, key=lambda each: each[1])
                known = OPERATIONS[1:]
                if i == j or a not in known or b not in known:
                    raise _not_of(self, kind, f"a node of {pair}")
                found += [_pair(i, j), known.index(a), known.index(b)]
        return np.array(found, np.int32)

    def genotype(self, choice: Any) -> Genotype:
        """The architecture in the notation of DARTS.

        Args:
          choice: ``int[num_decisions]``.
        """
        chosen = np.reshape(choice, (len(KINDS), self.num_nodes, 3))
        pairs = _pairs(self.num_nodes + 1)
        cells = [
            tuple(
                (OPERATIONS[1 + operation], state)
                for pair, *operations in of_kind.tolist()
                for state, operation in zip(pairs[pair], operations, strict=True)
            )
            for of_kind in chosen
        ]
        whole = tuple(range(INPUTS, self.num_nodes + INPUTS))
        return Genotype(cells[0], whole, cells[1], whole)

    def network(self, choice: Any, child: Any, statistics: Any) -> Network | None:
        """The cells and the rest of the network, without its auxiliary head."""
        return darts_blocks.network(
            self,
            self._segments,
            self.genotype(choice),
            child,
            statistics,
            self._weights_of_branch,
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


def _not_of(space, kind, found):
    return UserError(
        f"The {kind} cell has {found}, but {space.name} has {space.num_nodes} nodes "
        f"that are all concatenated, and two different inputs of each, with "
        f"{', '.join(OPERATIONS[1:])}. The space 'genotype' trains any genotype from "
        "scratch (config.space.name='genotype', config.space.genotype.cell)."
    )


@functools.cache
def _pairs(states: int) -> list[tuple[int, int]]:
    """All pairs of states, those of the first states at first."""
    return [(i, j) for j in range(states) for i in range(j)]


def _pair(i: Any, j: Any) -> Any:
    """The index of a pair in :func:`_pairs`."""
    return j * (j - 1) // 2 + i
