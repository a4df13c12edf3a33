"""A cell of DARTS with one operation on an edge, computed one edge after the other.

A child has two edges a node. A single path whose choices need gradients has all of
them, with gates (GDAS; Dong and Yang, CVPR 2019).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.devices.axis import Axis
from wpl_jax.spaces import partial_channels
from wpl_jax.spaces.branches import switch
from wpl_jax.spaces.darts_network import (
    INPUTS,
    REDUCTION,
    Params,
    Place,
    drop_path_factors,
)
from wpl_jax.spaces.darts_operations import SKIP, apply_operation
from wpl_jax.spaces.images import Noise


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


def every_edge(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """The states and the nodes of all edges of a cell, in the order of their numbers.

    Args:
      num_nodes: Nodes of the cell.

    Returns:
      Sources, ``int[edges]``, and targets, counted from 0.
    """
    nodes = np.arange(num_nodes)
    sources = np.concatenate([np.arange(node + INPUTS) for node in nodes])
    return sources, np.repeat(nodes, nodes + INPUTS)


def run(
    space: Any,
    place: Place,
    branches: Branches,
    weights: Params,
    inputs: tuple[jax.Array, jax.Array],
    given: Any,
    noise: Noise | None,
    axis: Axis,
) -> tuple[list[jax.Array], Any]:
    """A cell with one operation on each of some edges, one after the other.

    Args:
      space: A :class:`wpl_jax.spaces.darts_cell.DartsCell`.
      place: Of the cell.
      branches: The edges.
      weights: Of the operations, by name, with a row for each edge.
      inputs: Of the cell.
      given: Moments to normalize with, of each edge; None for those of the batch.
      noise: Of training, for drop-path; None for none.
      axis: Devices that divide the batch.

    Returns:
      The nodes, and the moments.
    """
    halves = place.kind == REDUCTION
    alternatives = _alternatives(space, halves, axis)
    states = jnp.stack(
        [partial_channels.split(x, space.channel_parts)[0] for x in inputs]
    )
    rest = jnp.stack(
        [partial_channels.unchanged(x, space.channel_parts, halves) for x in inputs]
    )
    shape = inputs[0].shape[0], *place.size, place.channels
    nodes = jnp.zeros((space.num_nodes, *shape), inputs[0].dtype)
    of_skip = space.operations.index(SKIP)

    def add(nodes, each):
        source, target, operation, gates, weights, given, kept = each
        of_input = source < INPUTS
        node = nodes[jnp.maximum(source - INPUTS, 0)]
        part, unchanged = partial_channels.split(node, space.channel_parts)
        state = jnp.minimum(source, INPUTS - 1)
        unchanged = jnp.where(of_input, rest[state], unchanged)
        if halves:
            index = operation + jnp.where(of_input, 0, len(space.operations))
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
        if space.edge_weights:
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
        drop_path_factors(noise, number, inputs[0].shape[0], axis),
    )
    nodes, found = jax.lax.scan(add, nodes, each)
    return list(nodes), found


def _alternatives(space, halves, axis):
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
                space.normalize_pools,
            )
            return y, jax.lax.stop_gradient(found)

        return run

    forms = [(0, 2), (1, 1)] if halves else [(0, 1)]
    return [
        alternative(name, place, stride)
        for place, stride in forms
        for name in space.operations
    ]
