"""Cells as arrays to loop over: their graphs, their weights, where their states lie.

The states of a cell are its two inputs and then its nodes. All states of all cells lie
in one array, and so do their gradients: a cell's inputs are outputs of earlier cells,
and are not copied.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.separable import Separable


class Wiring(NamedTuple):
    """The graphs of cells; the last axis are the two branches of a node."""

    inputs: jax.Array  # int32[cells, nodes, 2]; a state, at most node + 1
    operations: jax.Array  # int32[cells, nodes, 2]; index into OPERATIONS


class Mix(NamedTuple):
    """Weights that make a cell's output of its nodes."""

    kernel: jax.Array  # float[cells, nodes, channels, channels]
    scale: jax.Array  # float[cells, channels]; of the normalization
    offset: jax.Array  # float[cells, channels]


class Weights(NamedTuple):
    """Of cells."""

    branches: Separable
    output: Mix


class CellMoments(NamedTuple):
    """Of cells."""

    branches: Moments  # float[cells, nodes, 2, 2, channels]
    output: Moments  # float[cells, channels]


class Branch(NamedTuple):
    """What belongs to one branch, or to many."""

    input: jax.Array  # its place in the array of states
    operation: jax.Array
    weights: Separable
    kept: jax.Array
    batch_stats: Moments | None


class Node(NamedTuple):
    """What belongs to one node, or to many."""

    place: jax.Array  # in the array of states
    unused: jax.Array  # bool; whether it is part of the output
    kernel: jax.Array  # of the mix
    branches: Branch


class Cell(NamedTuple):
    """What belongs to one cell, or to many."""

    place: jax.Array  # of its output in the array of states
    nodes: Node
    output: Mix
    batch_stats: Moments | None  # of its output


class GradientPlaces(NamedTuple):
    """Where a cell's gradients lie in an array of gradients."""

    output: jax.Array
    nodes: jax.Array  # int[nodes]
    inputs: jax.Array  # int32[nodes, 2]; of its branches
    first: jax.Array  # bool[nodes, 2]; whether what lies there is of another cell


def used(wiring: Wiring) -> jax.Array:
    """Which nodes are somebody's input, ``bool[..., nodes]``."""
    nodes = wiring.inputs.shape[-2]
    states = jnp.arange(2, nodes + 2)
    return jnp.any(wiring.inputs[..., None] == states, (-3, -2))


def state_places(cells: int, nodes: int) -> np.ndarray:
    """Where states lie, ``int[cells, 2 + nodes + 1]``: inputs, nodes and output.

    The inputs of a cell are outputs of the two before, or of all.
    """
    starts = 2 + np.arange(cells) * (nodes + 1)
    outputs = np.concatenate([[0, 1], starts + nodes])
    own = starts[:, None] + np.arange(nodes + 1)
    return np.column_stack([outputs[:-2], outputs[1:-1], own])


def gradient_places(cells: int, nodes: int) -> np.ndarray:
    """The same of gradients; the nodes of all cells share their places."""
    outputs = np.arange(cells + 2)
    own = np.broadcast_to(cells + 2 + np.arange(nodes), (cells, nodes))
    return np.column_stack([outputs[:-2], outputs[1:-1], own, outputs[2:]])


def places_of_inputs(places: np.ndarray, wiring: Wiring) -> jax.Array:
    """The places of the branches' inputs."""
    return jnp.asarray(places)[np.arange(len(places))[:, None, None], wiring.inputs]


def all_cells(places, weights, wiring, kept, batch_stats) -> Cell:
    """All cells, to go through."""
    branches = Branch(
        places_of_inputs(places, wiring),
        wiring.operations,
        weights.branches,
        kept,
        batch_stats and batch_stats.branches,
    )
    nodes = Node(
        jnp.asarray(places[:, 2:-1]), ~used(wiring), weights.output.kernel, branches
    )
    output = jnp.asarray(places[:, -1])
    return Cell(output, nodes, weights.output, batch_stats and batch_stats.output)


def is_first(wiring: Wiring) -> jax.Array:
    """Whether a branch's input is a node, and the backward pass comes to it first."""
    cells, nodes, _ = wiring.inputs.shape
    inputs = wiring.inputs.reshape(cells, -1)
    # It goes from the last node to the first, of each through one branch and the other.
    turn = (np.arange(nodes)[::-1, None] * 2 + np.arange(2)).ravel()
    same = inputs[:, :, None] == inputs[:, None, :]
    before = jnp.any(same & (turn[:, None] > turn), -1)
    return ((inputs >= 2) & ~before).reshape(wiring.inputs.shape)
