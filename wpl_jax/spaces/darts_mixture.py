"""A cell of DARTS as a mixture: the weighted sum of all operations on all edges.

All edges from one state are computed at once, side by side as if they were channels of
one image (:mod:`wpl_jax.spaces.darts_operations`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.devices.axis import Axis
from wpl_jax.spaces import partial_channels
from wpl_jax.spaces.batch_normalization import Moments, normalize_once
from wpl_jax.spaces.darts_branches import edges_before
from wpl_jax.spaces.darts_network import INPUTS, REDUCTION, Params, Place
from wpl_jax.spaces.darts_operations import CONVOLUTIONS, POOLS, SKIP, halving_skip
from wpl_jax.spaces.mixed_edges import Terms, mix


class Mixture(NamedTuple):
    """The weights of one cell."""

    operations: jax.Array  # float32[edges, operations]
    inputs: jax.Array | None  # float32[nodes, states]; None: each input counts once


def run(
    space: Any,
    place: Place,
    mixture: Mixture,
    weights: Params,
    inputs: tuple[jax.Array, jax.Array],
    given: Any,
    axis: Axis,
) -> tuple[list[jax.Array], Any]:
    """A cell with the weighted sum of all operations on each edge.

    Args:
      space: A :class:`wpl_jax.spaces.darts_cell.DartsCell`.
      place: Of the cell.
      mixture: Its weights.
      weights: Parameters of the operations, by name, with a row for each edge.
      inputs: Of the cell.
      given: Moments to normalize with, of each state and operation; None for those of
        the batch.
      axis: Devices that divide the batch.

    Returns:
      The nodes, and the moments.
    """
    states: list[Any] = [*inputs, *[0.0] * space.num_nodes]
    found = []
    for source in range(INPUTS + space.num_nodes - 1):
        targets = np.arange(max(source - INPUTS + 1, 0), space.num_nodes)
        edges = edges_before(targets) + source
        halves = place.kind == REDUCTION and source < INPUTS
        part, _ = partial_channels.split(states[source], space.channel_parts)
        rest = partial_channels.unchanged(states[source], space.channel_parts, halves)
        rows = dict.fromkeys(weights, edges)
        if place.kind == REDUCTION:
            rows[SKIP] = INPUTS * targets + source
        own = {
            name: jax.tree.map(lambda w, r=rows[name]: w[r], of_operation)
            for name, of_operation in weights.items()
            if name != SKIP or halves
        }
        weights_of = dict(
            zip(space.operations, mixture.operations[edges].T, strict=False)
        )
        y, moments = _mix_edges(
            space, part, own, weights_of, halves, given and given[source], axis
        )
        found.append(moments)
        for target, of_edge in zip(targets, jnp.split(y, len(edges), -1), strict=True):
            share: Any = 1.0
            if mixture.inputs is not None:
                share = mixture.inputs[int(target), source].astype(y.dtype)
            joined = partial_channels.join(of_edge, rest)
            states[INPUTS + target] += joined * share
    return states[INPUTS:], found


def _mix_edges(space, x, own, weights_of, halves, given, axis):
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
        if space.normalize_pools:
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
