"""The network of one genotype of DARTS, to be trained from scratch.

It has no decisions. Unlike :mod:`wpl_jax.spaces.darts_cell`, it can have any number of
nodes, two operations on the same state, nodes that are not part of the output, and
operations of published cells that are no choice of that space.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import SettingError
from wpl_jax.errors import UserError
from wpl_jax.spaces import darts_parts
from wpl_jax.spaces.batch_normalization import Moments, normalize_once
from wpl_jax.spaces.darts_network import (
    INPUTS,
    KINDS,
    NORMAL,
    REDUCTION,
    DartsNetwork,
    drop_path_factors,
    graph,
)
from wpl_jax.spaces.darts_operations import (
    CONVOLUTIONS,
    OPERATIONS,
    SKIP,
    apply_operation,
    nth,
    skip_parameters,
)
from wpl_jax.spaces.genotypes import Genotype, parse
from wpl_jax.spaces.images import UniformKernel, affine_parameters
from wpl_jax.supernet import Decision, Graph

_CROSSED = "conv_7x1_1x7"  # of AmoebaNet
_LENGTH = 7


@dataclasses.dataclass(frozen=True)
class GenotypeNetwork(DartsNetwork):
    """The network; the settings of :class:`DartsNetwork` come first.

    Attributes:
      affine: As in the retraining of DARTS.
      normalize_pools: As in the retraining of DARTS.
      cell: The genotype, or the name of a published one
        (:data:`wpl_jax.spaces.genotypes.PUBLISHED`).
    """

    affine: bool = True
    normalize_pools: bool = False
    cell: str = "DARTS_V2"

    name = "genotype"

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        try:
            found = self.genotype
        except UserError as error:
            expected = f"a genotype or a name of one: {error}"
            raise SettingError("cell", self.cell, expected) from error
        known = (*OPERATIONS[1:], "sep_conv_7x7", _CROSSED)
        for operation, _ in (*found.normal, *found.reduce):
            if operation not in known:
                raise SettingError("cell", operation, f"one of {', '.join(known)}")

    @functools.cached_property
    def genotype(self) -> Genotype:
        """The two cells."""
        return parse(self.cell)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """There are none."""
        return ()

    def sample(self, key: jax.Array) -> jax.Array:
        """The choice of nothing, ``int32[0]``."""
        del key
        return jnp.zeros(0, jnp.int32)

    def _cell(self, kind):
        return self.genotype.normal if kind == NORMAL else self.genotype.reduce

    def _concat(self, kind):
        return (self.genotype.normal_concat, self.genotype.reduce_concat)[kind]

    def _nodes_out(self, kind):
        return [state - INPUTS for state in self._concat(kind)]

    def _of_cells(self, place, cells):
        found = {}
        for number, (name, state) in enumerate(self._cell(place.kind)):
            halves = place.kind == REDUCTION and state < INPUTS
            size = place.channels
            if name in CONVOLUTIONS:
                own = CONVOLUTIONS[name].parameters(cells, size, self.affine)
            elif name == _CROSSED:
                own = self._crossed_parameters((cells,), size)
            elif name == SKIP and halves:
                own = skip_parameters(cells, size, self.affine)
            else:
                continue
            found[f"branch_{number}"] = own
        return found

    def _crossed_parameters(self, rows, size):
        kernel = UniformKernel((*rows, _LENGTH * size, size), _LENGTH * size)
        affine = affine_parameters((*rows, size), self.affine)
        return {"first": kernel, "second": kernel, **affine}

    def _rows_of_cells(self, architecture, place, cells):
        del architecture, place, cells
        return {}

    def _operations(self, place):
        """Of each branch the operation, and whether it halves the image."""
        reduction = place.kind == REDUCTION
        cell = self._cell(place.kind)
        return [(name, reduction and state < INPUTS) for name, state in cell]

    def _parts_of_cell(self, name, place):
        found = []
        for operation, halves in sorted(set(self._operations(place))):
            if operation == _CROSSED:
                parameters = self._crossed_parameters((), place.channels)
                part = darts_parts.crossed_part(
                    *(name, operation, place, halves, parameters, _LENGTH, _crossed)
                )
            else:
                part = darts_parts.operation_part(name, operation, place, halves, self)
            found.append(part)
        return found

    def _uses_in_cell(self, architecture, place):
        del architecture
        operations = self._operations(place)
        counts = [operations.count(one) for one in sorted(set(operations))]
        return jnp.asarray(counts, jnp.float32)

    def _run_cell(self, place, architecture, weights, inputs, given, noise, axis):
        del architecture
        states, outputs, found = list(inputs), [], []
        cell = self._cell(place.kind)
        kept = drop_path_factors(noise, len(cell), inputs[0].shape[0], axis)
        for number, (name, state) in enumerate(cell):
            halves = place.kind == REDUCTION and state < INPUTS
            own = jax.tree.map(lambda w: w[0], weights.get(f"branch_{number}"))
            own_given = nth(given, number)
            stride = 2 if halves else 1
            x = states[state]
            if name == _CROSSED:
                y, moments = _crossed(x, own, stride, own_given, axis)
            else:
                y, moments = apply_operation(
                    name, x, {name: own}, stride, own_given, axis, self.normalize_pools
                )
            if kept is not None and (name != SKIP or halves):
                y = y * kept[number].astype(y.dtype)[:, None, None, None]
            found.append(moments)
            outputs.append(y)
            if number % 2:
                states.append(outputs[-2] + y)
        moments = jax.tree.map(lambda *m: jnp.stack(m), *found)
        return states[INPUTS:], moments

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """Both cells, from the two cells before, ``h[-2]`` and ``h[-1]``."""
        del choice
        return {
            name: graph(self._cell(kind), self._concat(kind))
            for kind, name in enumerate(KINDS)
        }


def _crossed(x, weights, stride, given, axis):
    """ReLU, 1x7, 7x1 and normalization, not depthwise."""
    margin = _LENGTH // 2
    x = jax.nn.relu(x)
    for name, along in (("first", 2), ("second", 1)):
        size = x.shape[along]
        padded = jnp.pad(
            x, [(margin, margin) if a == along else (0, 0) for a in range(4)]
        )
        seen = [
            jax.lax.slice_in_dim(padded, i, i + size - stride + 1, stride, along)
            for i in range(_LENGTH)
        ]
        x = jnp.concatenate(seen, -1) @ weights[name]
    x, moments = normalize_once(x, nth(given, 0), axis)
    if "scale" in weights:
        x = x * weights["scale"] + weights["offset"]
    zero = jnp.zeros(x.shape[-1], jnp.float32)
    return x, Moments(*(jnp.stack([m, zero]) for m in moments))
