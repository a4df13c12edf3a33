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
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import MOST_NODES, check_bool, check_int, require
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces import image_parts, micro_cell_network, micro_cell_parts
from wpl_jax.spaces.auxiliary_head import AuxiliaryHead
from wpl_jax.spaces.cell_graph import OPERATIONS, run_cells
from wpl_jax.spaces.cell_layout import Wiring, used
from wpl_jax.spaces.cell_stacks import CellStacks
from wpl_jax.spaces.images import (
    Noise,
    Outputs,
    classify,
    halved_product,
    init,
    is_parameter,
    linear_parameters,
    normalized,
    product_parameters,
    stem,
    stem_parameters,
)
from wpl_jax.spaces.network import Network
from wpl_jax.supernet import ALL, Architecture, Decision, Exchange, Graph, Space

Params = dict[str, Any]

CELLS = ("normal", "reduction")
STAGES = 3
STEM_FACTOR = 3  # The stem has so many times the filters.


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

    @property
    def exchanges(self) -> tuple[Exchange, ...]:
        """The two branches of each node."""
        firsts = range(0, 4 * self.num_nodes * len(CELLS), 4)
        return tuple(((i, i + 2), (i + 1, i + 3)) for i in firsts)

    def wirings(self, choice: jax.Array) -> Wiring:
        """The graphs of both cells, ``int32[2, nodes, 2]`` each, the normal first."""
        chosen = jnp.reshape(choice, (len(CELLS), self.num_nodes, 2, 2))
        return Wiring(chosen[:, :, 0], chosen[:, :, 1])

    # What a stage is made of.

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's output."""
        return STEM_FACTOR * self.filters

    @property
    def kinds_of_cells(self) -> list[list[int]]:
        """Of each stage, which of ``CELLS`` each of its cells is."""
        return [self.cells_of_stage(stage) for stage in range(STAGES)]

    def cells_of_stage(self, stage: int) -> list[int]:
        """Which of ``CELLS`` each of a stage's is."""
        return ([] if stage == 0 else [1]) + [0] * (self.layers // STAGES)

    def _wirings_of_stage(self, stage: int, wirings: Wiring) -> Wiring:
        kinds = jnp.array(self.cells_of_stage(stage))
        return jax.tree.map(lambda w: w[kinds], wirings)

    def size_of_stage(self, stage: int) -> tuple[int, int]:
        """Height and width of a stage."""
        height, width, _ = self.image_shape
        return math.ceil(height / 2**stage), math.ceil(width / 2**stage)

    def init(self, key: jax.Array) -> Params:
        """The shared parameters.

        He's initialization (2015); normalization starts as none.

        Args:
          key: PRNG key.

        Returns:
          ``stem``, the three ``stage``s, ``classifier`` and, where there is one, the
          ``auxiliary`` head. In each stage ``first`` and ``second`` make the inputs
          of its first cell, and ``cells`` are what the children share, stacked; see
          :meth:`wpl_jax.spaces.cell_stacks.CellStacks.parameters`.
        """
        return init(key, self._parameters())

    def _parameters(self) -> dict[str, Any]:
        """What all parameters are, to be drawn."""
        channels = self.stem_channels
        found: dict[str, Any] = {
            "stem": stem_parameters(self.image_shape[2], channels, self.affine),
            "classifier": linear_parameters(4 * self.filters, self.num_classes),
        }
        for stage in range(STAGES):
            stacks = self.stacks(stage)
            product = product_parameters(channels, stacks.filters, self.affine)
            found[f"stage_{stage}"] = {
                "first": product,
                "second": product,
                "cells": stacks.parameters(),
            }
            channels = stacks.filters
        if self.auxiliary:
            found["auxiliary"] = self.auxiliary_head.parameters()
        return found

    def stacks(self, stage: int) -> CellStacks:
        """The parameters of a stage's cells."""
        cells, filters = len(self.cells_of_stage(stage)), self.filters * 2**stage
        return CellStacks(cells, self.num_nodes, filters, self.affine)

    @property
    def auxiliary_head(self) -> AuxiliaryHead:
        """Behind the first cell of the last stage."""
        size, channels = (
            self.size_of_stage(STAGES - 1),
            self.filters * 2 ** (STAGES - 1),
        )
        return AuxiliaryHead(size, channels, self.num_classes, self.affine)

    def rows(self, architecture: Architecture) -> Any:
        """What the chosen branches use of the stacks, and all of everything else."""
        wirings = self.wirings(architecture.choice)
        rows = jax.tree.map(lambda _: ALL, self._parameters(), is_leaf=is_parameter)
        for stage in range(STAGES):
            stacks = rows[f"stage_{stage}"]["cells"]
            found = self.stacks(stage).rows(self._wirings_of_stage(stage, wirings))
            output = stacks["output"] | {"kernel": found.pop("output")}
            stacks |= {k: v for k, v in found.items() if k in stacks}
            stacks["output"] = output
        return rows

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
        x, found["stem"] = stem(images, child["stem"], given.get("stem"), axis)
        auxiliary = None
        for stage in range(STAGES):
            name = f"stage_{stage}"
            x, behind_first, found[name] = self._run_stage(
                stage, child[name], wirings, x, noise, given.get(name), axis
            )
        if self.auxiliary:
            auxiliary, found["auxiliary"] = self.auxiliary_head.apply(
                child["auxiliary"], behind_first, given.get("auxiliary"), axis
            )
        logits = classify(x, child["classifier"], noise, axis)
        return Outputs(logits, auxiliary, found)

    def _run_stage(self, stage, child, wirings, x, noise, given, axis):
        """All cells of a stage: its output, that of its first cell, and statistics."""
        given = given or {}
        found: dict[str, Any] = {}
        inputs = []
        for name in ("first", "second"):
            y = x if stage and name == "second" else jax.nn.relu(x)
            multiply = halved_product if stage else jnp.matmul
            y = multiply(y, child[name]["kernel"])
            y, found[name] = normalized(y, child[name], given.get(name), axis)
            inputs.append(y)
        kept = axis.shard(self._kept(stage, noise, x.shape[0] * axis.size), axis=3)
        (first, last), found["cells"] = run_cells(
            tuple(inputs),
            self.stacks(stage).weights(child["cells"]),
            self._wirings_of_stage(stage, wirings),
            kept,
            given.get("cells"),
            axis,
        )
        return last, first, found

    def _kept(self, stage: int, noise: Noise | None, batch: int) -> jax.Array:
        """Factors of a stage's branches, ``float[cells, nodes, 2, batch]``."""
        cells, shape = len(self.cells_of_stage(stage)), (self.num_nodes, 2, batch)
        if noise is None:
            return jnp.ones((cells, *shape))
        before = sum(len(self.cells_of_stage(s)) for s in range(stage))
        depth = (before + 1 + jnp.arange(cells)) / (self.layers + STAGES - 1)

        def of_cell(key, rate):
            return jax.random.bernoulli(key, 1 - rate, shape) / (1 - rate)

        keys = jax.random.split(jax.random.fold_in(noise.key, stage), cells)
        return jax.vmap(of_cell)(keys, depth * noise.drop_path)

    @functools.cached_property
    def parts(self):
        """The stem, inputs, operations and outputs of stages, and the classifier."""
        return micro_cell_parts.parts(self)

    def uses(self, architecture):
        """Operations of all cells, and nodes without a successor."""
        return micro_cell_parts.uses(self, architecture)

    def program(self, choice, batch):
        """The network on a batch of images."""
        return image_parts.program(self, choice, batch)

    def network(self, choice: Any, child: Any, statistics: Any) -> Network:
        """The network without its auxiliary head."""
        return micro_cell_network.network(self, choice, child, statistics)

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
