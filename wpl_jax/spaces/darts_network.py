"""The network that DARTS stacks of a normal and a reduction cell.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019), and its
code. A stem is followed by cells, each on the outputs of the two before. Those at one
and two thirds of the depth are reduction cells, which halve the image and double the
channels. Two products bring the inputs of a cell to its channels. Its output is the
concatenation of nodes. The means over the pixels of the last cell are classified.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.parts import Part
from wpl_jax.common.settings import check_bool, check_int, require
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces import darts_parts, image_parts, images
from wpl_jax.spaces.auxiliary_head import AuxiliaryHead
from wpl_jax.spaces.genotypes import Cell
from wpl_jax.spaces.images import Noise, Outputs, UniformKernel, affine_parameters
from wpl_jax.spaces.nasbench201_operations import (
    affine_convolution,
    convolve_channels_last,
)
from wpl_jax.supernet import ALL, Architecture, Graph, Space

Params = dict[str, Any]

KINDS = ("normal", "reduction")
NORMAL, REDUCTION = range(2)
INPUTS = 2  # of a cell, and of a child's node
STEM_FACTOR = 3  # The stem has so many times the channels of the first cell.


class Place(NamedTuple):
    """One cell of the stack."""

    kind: int  # index into KINDS
    channels: int  # of a node
    size: tuple[int, int]  # height and width of its nodes
    first: int  # channels of its first input, the output of the cell before the last
    second: int  # channels of its second input
    halves: bool  # whether its first input has twice the size of the second

    def inputs(self, affine: bool) -> Params:
        """The parameters that bring both inputs to the channels of the cell."""
        widths = {"first": self.first, "second": self.second}
        return {
            name: {
                "kernel": UniformKernel((width, self.channels), width),
                **affine_parameters((self.channels,), affine),
            }
            for name, width in widths.items()
        }


class Segment(NamedTuple):
    """Equal cells, one after the other."""

    place: Place
    cells: int
    before: int  # cells before them


@dataclasses.dataclass(frozen=True)
class DartsNetwork(Space):
    """The network around cells that a subclass describes.

    Attributes:
      image_shape: Height, width and channels.
      num_classes: Of the classifier.
      channels: Of a node of the first cell; each reduction cell doubles them.
      cells: Number of cells.
      affine: Whether normalization in cells has a scale and an offset: no in the search
        of DARTS, yes in its retraining.
      normalize_pools: Whether a normalization follows pooling: yes in the search of
        DARTS, no in its retraining.
      auxiliary: Whether there is a second classifier, behind the second reduction
        cell, for training.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: int = 16
    cells: int = 8
    affine: bool = False
    normalize_pools: bool = True
    auxiliary: bool = False

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in ("channels", "num_classes"):
            check_int(self, name, 1)
        check_int(self, "cells", 3, "two of them are reduction cells")
        require(self, "channels", self.channels % 2 == 0, "an even number")
        check_bool(self, "affine", "auxiliary", "normalize_pools")
        valid = all(size >= 4 and size % 4 == 0 for size in self.image_shape[:2])
        expected = "rows and columns that are multiples of 4, as they are halved twice"
        require(self, "image_shape", valid, expected)

    # What a subclass describes.

    def _nodes_out(self, kind: int) -> Sequence[int]:
        """Which nodes a cell returns, counted from 0."""
        raise NotImplementedError

    def _of_cells(self, place: Place, cells: int) -> Params:
        """The parameters of some equal cells, but for those of their inputs."""
        raise NotImplementedError

    def _rows_of_cells(
        self, architecture: Architecture, place: Place, cells: int
    ) -> Params:
        """Rows of these parameters that are not all of them, as in ``rows``."""
        raise NotImplementedError

    def _parts_of_cell(self, name: str, place: Place) -> list[Part]:
        """The operations of a cell, at both strides where there are two."""
        raise NotImplementedError

    def _uses_in_cell(self, architecture: Architecture, place: Place) -> jax.Array:
        """How often a cell uses each of its operations, ``float32[parts]``."""
        raise NotImplementedError

    def _run_cell(
        self,
        place: Place,
        architecture: Architecture,
        weights: Params,
        inputs: tuple[jax.Array, jax.Array],
        given: Any,
        noise: Noise | None,
        axis: Axis,
    ) -> tuple[list[jax.Array], Any]:
        """The nodes of one cell, and its batch statistics.

        Args:
          place: Of the cell.
          architecture: The child or the mixture.
          weights: Its own of the parameters, rows of one cell.
          inputs: Two images with the channels of the cell; of a reduction cell, they
            have twice the size of its nodes.
          given: Batch statistics to normalize with; None for those of the batch.
          noise: Of training, with a key of this cell; None for none.
          axis: Devices that divide the batch.
        """
        raise NotImplementedError

    @functools.cached_property
    def _segments(self) -> list[Segment]:
        found: list[Segment] = []
        height, width, _ = self.image_shape
        channels, size = self.channels, (height, width)
        first = second = STEM_FACTOR * channels
        before = NORMAL
        for number in range(self.cells):
            kind = self._kind(number)
            if kind == REDUCTION:
                channels, size = 2 * channels, (size[0] // 2, size[1] // 2)
            place = Place(kind, channels, size, first, second, before == REDUCTION)
            if found and found[-1].place == place:
                last = found.pop()
                found.append(last._replace(cells=last.cells + 1))
            else:
                found.append(Segment(place, 1, number))
            first, second = second, channels * len(self._nodes_out(kind))
            before = kind
        return found

    def _kind(self, number: int) -> int:
        return int(number in (self.cells // 3, 2 * self.cells // 3))

    def init(self, key: jax.Array) -> Params:
        """The shared parameters.

        Kernels start uniformly within ``1 / sqrt(inputs)``, as in PyTorch.

        Args:
          key: PRNG key.

        Returns:
          ``stem``; for each run of equal cells ``cells_I`` with the parameters of the
          inputs, ``first`` and ``second``, and of the operations, all with a leading
          axis; ``classifier``, and ``auxiliary`` where there is one.
        """
        return images.init(key, self._parameters())

    def _parameters(self) -> Params:
        found: Params = {
            "stem": affine_convolution(
                9 * self.image_shape[2], STEM_FACTOR * self.channels
            )
        }
        for number, (place, cells, _) in enumerate(self._segments):
            inputs = jax.tree.map(
                lambda p, n=cells: p._replace(shape=(n, *p.shape)),
                place.inputs(self.affine),
                is_leaf=images.is_parameter,
            )
            found[f"cells_{number}"] = inputs | self._of_cells(place, cells)
        features = place.channels * len(self._nodes_out(place.kind))
        found["classifier"] = images.linear_parameters(features, self.num_classes)
        if self.auxiliary:
            found["auxiliary"] = self._auxiliary_head.parameters()
        return found

    @property
    def _last_reduction(self) -> Place:
        places = [segment.place for segment in self._segments]
        return [place for place in places if place.kind == REDUCTION][-1]

    @property
    def _auxiliary_head(self) -> AuxiliaryHead:
        place = self._last_reduction
        channels = place.channels * len(self._nodes_out(REDUCTION))
        return AuxiliaryHead(place.size, channels, self.num_classes, affine=True)

    @functools.cached_property
    def parts(self):
        """The stem, inputs and operations of equal cells, and the classifier."""
        found = [darts_parts.stem_part(self, STEM_FACTOR * self.channels)]
        for number, (place, _, _) in enumerate(self._segments):
            name = f"cells_{number}"
            found.append(darts_parts.inputs_part(name, place, self.affine))
            found += self._parts_of_cell(name, place)
        features = place.channels * len(self._nodes_out(place.kind))
        found.append(darts_parts.head_part(self, place, features))
        if self.auxiliary:  # It is for training alone.
            parameters = image_parts.size_of(self._auxiliary_head.parameters())
            found.append(Part("auxiliary", parameters, 0))
        return tuple(found)

    def uses(self, architecture):
        """Those of all cells; see ``_uses_in_cell``."""
        once = jnp.ones(1)
        found = [once]
        for place, cells, _ in self._segments:
            of_cell = self._uses_in_cell(architecture, place)
            found.append(cells * jnp.concatenate([once, of_cell]))
        return jnp.concatenate([*found, once, *[once] * self.auxiliary])

    def program(self, choice, batch):
        """The network on a batch of images."""
        return image_parts.program(self, choice, batch)

    def rows(self, architecture: Architecture) -> Any:
        """The rows of the operations that are used, and all other parameters."""
        rows = jax.tree.map(
            lambda _: ALL, self._parameters(), is_leaf=images.is_parameter
        )
        for number, (place, cells, _) in enumerate(self._segments):
            rows[f"cells_{number}"] |= self._rows_of_cells(architecture, place, cells)
        return rows

    def apply(
        self,
        child: Params,
        architecture: Architecture,
        inputs: jax.Array,
        *,
        noise: Noise | None = None,
        batch_stats: Any = None,
        axis: Axis = NO_AXIS,
    ) -> Outputs:
        """One child, or the mixture, on a batch of images.

        Args:
          child: Its parameters.
          architecture: The child or the mixture.
          inputs: ``float[batch, height, width, channels]``.
          noise: For training: dropout before the classifier, and drop-path in cells,
            with the same probability in each.
          batch_stats: Batch statistics to normalize with, as in :class:`Outputs`; None
            for those of the batch.
          axis: Devices that divide the batch.

        Returns:
          The scores of the classes.
        """
        given: dict[str, Any] = batch_stats or {}
        found: dict[str, Any] = {}
        x, found["stem"] = convolve_channels_last(
            inputs, child["stem"], given.get("stem"), axis
        )
        states, auxiliary = (x, x), None
        for number, segment in enumerate(self._segments):
            name = f"cells_{number}"
            states, found[name] = self._run_segment(
                segment, architecture, child[name], states, given.get(name), noise, axis
            )
            if self.auxiliary and segment.place == self._last_reduction:
                auxiliary, found["auxiliary"] = self._auxiliary_head.apply(
                    child["auxiliary"], states[1], given.get("auxiliary"), axis
                )
        features = jnp.mean(states[1], (1, 2))
        logits = images.classify_features(features, child["classifier"], noise, axis)
        return Outputs(logits, auxiliary, found)

    def _run_segment(self, segment, architecture, child, states, given, noise, axis):
        """All cells of a segment, by one compiled body."""
        place, cells, before = segment
        numbers = before + jnp.arange(cells)

        def run(states, each):
            weights, given, number = each
            own = noise
            if noise is not None:
                own = noise._replace(key=jax.random.fold_in(noise.key, 1 + number))
            inputs, found = _inputs(place, weights, states, given, axis)
            of_nodes = given and given["nodes"]
            nodes, found["nodes"] = self._run_cell(
                place, architecture, weights, inputs, of_nodes, own, axis
            )
            out = jnp.concatenate([nodes[i] for i in self._nodes_out(place.kind)], -1)
            return (states[1], out), found

        each = jax.tree.map(lambda k: k.reshape(cells, -1, *k.shape[1:]), child)
        for name in ("first", "second"):
            each[name] = child[name]
        if cells == 1:  # XLA compiles a scan of one step as a loop, too.
            one = jax.tree.map(lambda x: x[0], (each, given, numbers))
            states, found = run(states, one)
            return states, jax.tree.map(lambda m: m[None], found)
        return jax.lax.scan(run, states, (each, given, numbers))


def _inputs(place, weights, states, given, axis):
    """The inputs of a cell with its channels, and their batch statistics."""
    found: dict[str, Any] = {}
    inputs = []
    for name, x in zip(("first", "second"), states, strict=True):
        halves = place.halves and name == "first"
        multiply = images.halved_product if halves else jnp.matmul
        own, own_given = weights[name], given and given[name]
        y = multiply(jax.nn.relu(x), own["kernel"])
        y, found[name] = images.normalized(y, own, own_given, axis)
        inputs.append(y)
    return tuple(inputs), found


def drop_path_factors(
    noise: Noise | None, branches: int, batch: int, axis: Axis
) -> jax.Array | None:
    """Factors of drop-path (Larsson et al., 2017), ``float[branches, batch]``.

    Args:
      noise: Of training; None for no noise, and no factors.
      branches: Operations of a cell.
      batch: Images on this device.
      axis: Devices that divide the batch.
    """
    if noise is None:
        return None
    rate = noise.drop_path
    shape = branches, batch * axis.size
    kept = jax.random.bernoulli(noise.key, 1 - rate, shape) / (1 - rate)
    return axis.shard(kept, axis=1)


def graph(cell: Cell, concat: Sequence[int]) -> Graph:
    """A cell of a genotype as a picture, in which operations are nodes of their own.

    Args:
      cell: The cell.
      concat: The states that it returns.
    """
    states = ["h[-2]", "h[-1]", *(str(n) for n in range(len(cell) // 2))]
    nodes, edges = {name: name for name in states[:INPUTS]}, []
    for place, (operation, state) in enumerate(cell):
        node, side = divmod(place, 2)
        name = f"{node}{'ab'[side]}"
        nodes[name] = operation.replace("_", " ")
        edges += [(states[state], name, ""), (name, str(node), "")]
        if side:
            nodes[str(node)] = f"+ {node}"
    nodes["out"] = "concatenated"
    edges += [(states[state], "out", "") for state in concat]
    return Graph(nodes, tuple(edges))
