"""The ENAS micro space: two cells, stacked to a network that classifies images.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (2018),
section 2.4, as its official code builds the network of the search. A normal and a
reduction cell have the same form: ``num_nodes`` nodes, each the sum of two branches,
each an operation on an earlier node or on one of the cell's two inputs, which are the
outputs of the two cells before. The network is a stem and three stages of normal
cells; the second and third begin with a reduction cell, which sees two reductions of
the previous stage's output and has twice the filters. What comes out of a cell are
the nodes that nobody uses, mixed to the cell's number of filters by a pointwise
convolution with weights for each node.

Every cell of the stack has weights of its own, for each node, branch, input and
convolution: these are what children share.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from wpl_jax.common.settings import MOST_NODES, check_bool, check_int, require
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces.cell_graph import (
    CONVOLUTIONS,
    OPERATIONS,
    Mix,
    Separable,
    Weights,
    Wiring,
    normalize,
    run_cells,
    used,
)
from wpl_jax.spaces.depthwise import shifts
from wpl_jax.supernet import ALL, PAD, Architecture, Decision, Graph, Space

Params = dict[str, Any]

CELLS = ("normal", "reduction")
STAGES = 3
STEM_FACTOR = 3  # The stem has so many times the filters.


class Outputs(NamedTuple):
    """What a child makes of images."""

    logits: jax.Array  # float[batch, classes]
    auxiliary: jax.Array | None  # float[batch, classes]; of the auxiliary head
    batch_stats: Any  # what was normalized with: a tree of Moments


class Noise(NamedTuple):
    """What training adds to a child; see :meth:`MicroCell.apply`."""

    key: jax.Array
    dropout: float = 0.0  # of the classifier's input
    drop_path: jax.Array | float = 0.0  # of the branches of the last cell


@dataclasses.dataclass(frozen=True)
class MicroCell(Space):
    """The supernet of networks for images.

    Attributes:
      image_shape: Height, width and channels.
      num_classes: Of the classifier.
      num_nodes: Nodes of a cell.
      filters: Of the first stage; the second has twice as many, the third four times.
      layers: Normal cells, a multiple of 3; two reduction cells come on top.
      affine: Whether normalization has a scale and an offset of its own.
      auxiliary: Whether there is a second classifier, behind the second reduction
        cell, for training.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_nodes: int = 5
    filters: int = 20
    layers: int = 6
    affine: bool = True
    auxiliary: bool = False

    name = "micro_cell"

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in ("filters", "layers", "num_classes"):
            check_int(self, name, 1)
        check_int(self, "num_nodes", 1, most=MOST_NODES)
        require(self, "layers", self.layers % STAGES == 0, "a multiple of 3")
        require(self, "filters", self.filters % 2 == 0, "an even number")
        check_bool(self, "affine", "auxiliary")
        valid = min(self.image_shape[:2]) >= 4
        expected = "at least 4 rows and columns, which are halved twice"
        require(self, "image_shape", valid, expected)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Of each cell and node: the inputs of its branches, then their operations."""
        found = []
        for cell in CELLS:
            for node in range(self.num_nodes):
                states = tuple(f"input_{i}" for i in (1, 2))
                states += tuple(f"node_{i}" for i in range(node))
                for side in "ab":
                    name = f"{cell}_{node}_input_{side}"
                    found.append(Decision(name, states, ordered=True))
                for side in "ab":
                    name = f"{cell}_{node}_operation_{side}"
                    found.append(Decision(name, OPERATIONS))
        return tuple(found)

    def wirings(self, choice: jax.Array) -> Wiring:
        """The graphs of both cells, ``int32[2, nodes, 2]`` each, the normal first."""
        chosen = jnp.reshape(choice, (len(CELLS), self.num_nodes, 2, 2))
        return Wiring(chosen[:, :, 0], chosen[:, :, 1])

    # What a stage is made of.

    def _cells(self, stage: int) -> list[int]:
        """Which of ``CELLS`` each of a stage's is."""
        return ([] if stage == 0 else [1]) + [0] * (self.layers // STAGES)

    def _wirings_of_stage(self, stage: int, wirings: Wiring) -> Wiring:
        kinds = jnp.array(self._cells(stage))
        return jax.tree.map(lambda w: w[kinds], wirings)

    def _size(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage."""
        height, width, _ = self.image_shape
        return math.ceil(height / 2**stage), math.ceil(width / 2**stage)

    @property
    def _pairs(self) -> int:
        """Of a node and one of the states that it can choose."""
        return self.num_nodes * (self.num_nodes + 3) // 2

    def init(self, key: jax.Array) -> Params:
        """The shared parameters.

        He's initialization (2015); normalization starts as none.

        Args:
          key: PRNG key.

        Returns:
          ``stem``, the three ``stage``s, ``classifier`` and, where there is one, the
          ``auxiliary`` head. In each stage ``first`` and ``second`` make the inputs
          of its first cell, and ``cells`` are what the children share, stacked: the
          kernels by (cell, branch, node, input), pointwise convolutions and their
          normalization by (cell, branch, node, input, convolution), the ``output``'s
          by (cell, node).
        """
        shapes = self._shapes()
        leaves, tree = jax.tree.flatten_with_path(shapes, is_leaf=_is_shape)
        keys = jax.random.split(key, len(leaves))
        return jax.tree.unflatten(
            tree,
            [
                _initial(k, path[-1].key, shape)
                for k, (path, shape) in zip(keys, leaves, strict=True)
            ],
        )

    def _shapes(self) -> dict[str, Any]:
        """The shapes of all parameters."""
        channels = STEM_FACTOR * self.filters
        shapes: dict[str, Any] = {
            "stem": self._product((9 * self.image_shape[2], channels)),
            "classifier": {
                "kernel": (4 * self.filters, self.num_classes),
                "bias": (self.num_classes,),
            },
        }
        for stage in range(STAGES):
            filters = self.filters * 2**stage
            shapes[f"stage_{stage}"] = {
                "first": self._product((channels, filters)),
                "second": self._product((channels, filters)),
                "cells": self._stacks(len(self._cells(stage)), filters),
            }
            channels = filters
        if self.auxiliary:
            pooled = math.prod(len(r) for r in self._auxiliary_windows())
            shapes["auxiliary"] = {
                "first": self._product((channels, 128)),
                "second": self._product((128 * pooled, 768)),
                "classifier": {
                    "kernel": (768, self.num_classes),
                    "bias": (self.num_classes,),
                },
            }
        return shapes

    def _product(self, shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
        """A matrix, and the normalization of what it makes."""
        return {"kernel": shape} | self._affine((shape[1],))

    def _affine(self, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        return {"scale": shape, "offset": shape} if self.affine else {}

    def _stacks(self, cells: int, filters: int) -> dict[str, Any]:
        branches = cells * 2 * self._pairs
        halves = (branches * CONVOLUTIONS, 2)
        return {
            "depthwise_3x3": (branches, 2, 3, 3, filters),
            "depthwise_5x5": (branches, 2, 5, 5, filters),
            "pointwise": (*halves, filters, filters),
            **self._affine((*halves, filters)),
            "output": {
                "kernel": (cells * self.num_nodes, filters, filters),
                **self._affine((cells, filters)),
            },
        }

    def rows(self, architecture: Architecture) -> Any:
        """What the chosen branches use of the stacks, and all of everything else."""
        wirings = self.wirings(architecture.choice)
        rows = jax.tree.map(lambda _: ALL, self._shapes(), is_leaf=_is_shape)
        for stage in range(STAGES):
            stacks = rows[f"stage_{stage}"]["cells"]
            found = self._rows_of_stage(self._wirings_of_stage(stage, wirings))
            output = stacks["output"] | {"kernel": found.pop("output")}
            stacks |= {k: v for k, v in found.items() if k in stacks}
            stacks["output"] = output
        return rows

    def _rows_of_stage(self, wirings: Wiring) -> dict[str, jax.Array]:
        cells, nodes = wirings.inputs.shape[:2]
        cell, node, side = np.ogrid[:cells, :nodes, :2]
        before = node * (node + 3) // 2  # pairs of the nodes before
        branch = (cell * 2 + side) * self._pairs + before + wirings.inputs
        operations = wirings.operations
        convolved = branch * CONVOLUTIONS + operations
        there = used(wirings)
        return {
            "depthwise_3x3": _where(operations == 0, branch),
            "depthwise_5x5": _where(operations == 1, branch),
            **dict.fromkeys(
                ("pointwise", "scale", "offset"),
                _where(operations < CONVOLUTIONS, convolved),
            ),
            "output": _where(~there, np.arange(cells * nodes).reshape(cells, nodes)),
        }

    def apply(
        self,
        child: Params,
        architecture: Architecture,
        images: jax.Array,
        *,
        noise: Noise | None = None,
        batch_stats: Any = None,
        axis: Axis = NO_AXIS,
    ) -> Outputs:
        """One child on a batch of images.

        Args:
          child: Its parameters.
          architecture: The child.
          images: ``float[batch, height, width, channels]``.
          noise: For training: dropout before the classifier, and drop-path (Larsson
            et al., "FractalNet", 2017), which leaves a branch out of a cell for an
            image, with a probability that grows linearly with the cell's depth.
          batch_stats: To normalize with, as :class:`Outputs` has them; None for those
            of the batch.
          axis: Devices of which each has its share of a batch.

        Returns:
          The scores of the classes.
        """
        wirings, found = self.wirings(architecture.choice), {}
        given = batch_stats or {}
        x, found["stem"] = _normalized_product(
            _patches(images), child["stem"], given.get("stem"), axis
        )
        auxiliary = None
        for stage in range(STAGES):
            name = f"stage_{stage}"
            x, behind_first, found[name] = self._run_stage(
                stage, child[name], wirings, x, noise, given.get(name), axis
            )
        if self.auxiliary:
            auxiliary, found["auxiliary"] = self._run_auxiliary(
                child["auxiliary"], behind_first, given.get("auxiliary"), axis
            )
        features = jnp.mean(jax.nn.relu(x), (1, 2))
        if noise is not None and noise.dropout:
            shape = len(features) * axis.size, features.shape[1]
            kept = jax.random.bernoulli(noise.key, 1 - noise.dropout, shape)
            kept = axis.shard(kept)
            features = jnp.where(kept, features / (1 - noise.dropout), 0)
        return Outputs(_linear(features, child["classifier"]), auxiliary, found)

    def _run_stage(self, stage, child, wirings, x, noise, given, axis):
        """All cells of a stage: its output, that of its first cell, and statistics."""
        given = given or {}
        found: dict[str, Any] = {}
        inputs = []
        for name in ("first", "second"):
            y = x if stage and name == "second" else jax.nn.relu(x)
            multiply = _halved_product if stage else jnp.matmul
            y = multiply(y, child[name]["kernel"])
            y, found[name] = _normalize(y, child[name], given.get(name), axis)
            inputs.append(y)
        kept = axis.shard(self._kept(stage, noise, len(x) * axis.size), axis=3)
        (first, last), found["cells"] = run_cells(
            tuple(inputs),
            self._weights(stage, child["cells"]),
            self._wirings_of_stage(stage, wirings),
            kept,
            given.get("cells"),
            axis,
        )
        return last, first, found

    def _kept(self, stage: int, noise: Noise | None, batch: int) -> jax.Array:
        """Factors of a stage's branches, ``float[cells, nodes, 2, batch]``."""
        cells, shape = len(self._cells(stage)), (self.num_nodes, 2, batch)
        if noise is None:
            return jnp.ones((cells, *shape))
        before = sum(len(self._cells(s)) for s in range(stage))
        depth = (before + 1 + jnp.arange(cells)) / (self.layers + STAGES - 1)

        def of_cell(key, rate):
            return jax.random.bernoulli(key, 1 - rate, shape) / (1 - rate)

        keys = jax.random.split(jax.random.fold_in(noise.key, stage), cells)
        return jax.vmap(of_cell)(keys, depth * noise.drop_path)

    def _weights(self, stage: int, stacks: Params) -> Weights:
        """A child's rows, by cell, node and branch."""
        cells, nodes = len(self._cells(stage)), self.num_nodes
        output, pointwise = stacks["output"], stacks["pointwise"]

        def affine(child, shape):
            # Without weights of its own, a normalization multiplies by 1 and adds 0.
            dtype = pointwise.dtype
            scale = child.get("scale", jnp.ones(shape, dtype))
            return scale, child.get("offset", jnp.zeros(shape, dtype))

        branches = Separable(
            stacks["depthwise_3x3"],
            stacks["depthwise_5x5"],
            pointwise,
            *affine(stacks, pointwise.shape[:-1]),
        )
        kernel = output["kernel"]
        mix = Mix(
            kernel.reshape(cells, nodes, *kernel.shape[1:]),
            *affine(output, (cells, kernel.shape[-1])),
        )
        branches = jax.tree.map(
            lambda x: x.reshape(cells, nodes, 2, *x.shape[1:]), branches
        )
        return Weights(branches, mix)

    def _run_auxiliary(self, child, x, given, axis):
        given = given or {}
        x, found = jax.nn.relu(x), {}
        rows, columns = self._auxiliary_windows()
        pooled = jnp.stack(
            [
                jnp.mean(x[:, r.start : r.stop, c.start : c.stop], (1, 2))
                for r in rows
                for c in columns
            ],
            axis=1,
        )
        y, found["first"] = _normalized_product(
            pooled[:, :, None], child["first"], given.get("first"), axis
        )
        y = jax.nn.relu(y).reshape(len(y), 1, 1, -1)
        y, found["second"] = _normalized_product(
            y, child["second"], given.get("second"), axis
        )
        return _linear(jax.nn.relu(y[:, 0, 0]), child["classifier"]), found

    def _auxiliary_windows(self) -> tuple[list[range], list[range]]:
        """Rows and columns of windows of 5x5, three apart, or of all that there is."""
        rows, columns = (
            [range(i, min(i + 5, size)) for i in range(0, max(size - 4, 1), 3)]
            for size in self._size(STAGES - 1)
        )
        return rows, columns

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """Both cells, from the two cells before, ``h[-2]`` and ``h[-1]``."""
        wirings = jax.device_get(self.wirings(jnp.asarray(choice)))
        return {
            cell: self._graph(Wiring(*(w[kind] for w in wirings)))
            for kind, cell in enumerate(CELLS)
        }

    def _graph(self, wiring: Wiring) -> Graph:
        """Operations are nodes of their own, in between those that add them up."""
        states = ["h[-2]", "h[-1]", *map(str, range(self.num_nodes))]
        nodes, edges = {name: name for name in states[:2]}, []
        for node, (inputs, operations) in enumerate(zip(*wiring, strict=True)):
            for side, i, operation in zip("ab", inputs, operations, strict=True):
                name = f"{node}{side}"
                nodes[name] = OPERATIONS[operation].replace("_", " ")
                edges += [(states[i], name, ""), (name, str(node), "")]
            nodes[str(node)] = f"+ {node}"
        nodes["out"] = "concatenated"
        there = jax.device_get(used(wiring))
        edges += [(str(n), "out", "") for n in range(self.num_nodes) if not there[n]]
        return Graph(nodes, tuple(edges))


def _where(there: jax.Array, rows: ArrayLike) -> jax.Array:
    """The rows, flat, and ``PAD`` where they are not there."""
    nothing = PAD + jnp.arange(there.size).reshape(there.shape)
    return jnp.where(there, rows, nothing).reshape(-1)


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def _initial(key: jax.Array, name: str, shape: tuple[int, ...]) -> jax.Array:
    if name in ("offset", "bias"):
        return jnp.zeros(shape)
    if name == "scale":
        return jnp.ones(shape)
    # Of a product what it sums over, of a depthwise kernel its rows and columns.
    fan_in = math.prod(shape[2:4]) if name.startswith("depthwise") else shape[-2]
    return jax.random.normal(key, shape) * math.sqrt(2 / fan_in)


def _normalized_product(x, child, given, axis):
    return _normalize(x @ child["kernel"], child, given, axis)


def _normalize(x, child, given, axis):
    """Batch normalization, with scale and offset if there are, and the statistics."""
    x, _, found = normalize(x, given, axis)
    if "scale" in child:
        x = x * child["scale"] + child["offset"]
    return x, jax.lax.stop_gradient(found)


def _linear(x, child):
    return x @ child["kernel"] + child["bias"]


def _patches(images):
    """Each pixel with its neighbours, ``float[batch, height, width, 9 channels]``."""
    return jnp.concatenate([shifted for *_, shifted in shifts(images, 3, 0)], -1)


def _halved_product(x, kernel):
    """A factorized reduction: half of the filters see every other pixel, half others.

    The others lie between, one row and one column further; beyond the image they are
    zero.
    """
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
    half = kernel.shape[1] // 2
    return jnp.concatenate(
        [x[:, ::2, ::2] @ kernel[:, :half], padded[:, 1::2, 1::2] @ kernel[:, half:]],
        -1,
    )
