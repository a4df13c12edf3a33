"""The search space of NAS-Bench-201: cells of four nodes and six edges.

Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture
Search" (ICLR 2020). A node is the sum of the edges from all earlier nodes, and an edge
applies one of five operations. The network is a stem, three stages of equal cells, and
a residual block that halves the image between the stages. A convolution is preceded by
ReLU and followed by batch normalization without scale and offset, as in the searches of
the benchmark's authors.

``channel_parts`` and ``edge_weights`` are the options of PC-DARTS (Xu et al., ICLR
2020): operations on a part of the channels, and weights of a node's inputs in a
mixture.

An architecture is one child, a child with gates, or a mixture of all operations. All
three apply the same functions to an edge. Edges from the same node share the ReLU, the
patches of pixels and the pooled image. A mixture computes these once for each node, and
multiplies the patches with the kernels of all of these edges in one product.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import check_bool, check_int, require
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.errors import UserError, shorten
from wpl_jax.spaces import (
    image_parts,
    images,
    nasbench201_network,
    nasbench201_parts,
    partial_channels,
)
from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.branches import switch
from wpl_jax.spaces.depthwise import average_pool
from wpl_jax.spaces.images import Noise, Outputs, UniformKernel
from wpl_jax.spaces.mixed_edges import Terms, mix
from wpl_jax.spaces.nasbench201_architectures import (
    EDGES,
    NODES,
    OPERATIONS,
    all_architectures,
    canonical_form,
    from_string,
    to_string,
)
from wpl_jax.spaces.nasbench201_operations import (
    CHANNELS,
    ON_ONE_EDGE,
    PRODUCTS,
    affine_convolution,
    channels_first,
    channels_last,
    convolve,
    reduce,
    side_by_side,
)
from wpl_jax.spaces.network import Network
from wpl_jax.supernet import (
    ALL,
    EVERY_ROW,
    PAD,
    Architecture,
    Decision,
    Graph,
    Space,
    first_of_each_class,
)

STAGES = 3

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class NasBench201(Space):
    """The supernet.

    Attributes:
      image_shape: Height, width and channels.
      num_classes: Of the classifier.
      channels: Of the first stage; the second has twice as many, the third four times.
      cells: In each stage.
      exclude_none: Whether ``none`` is no choice, as in GAEA's search.
      channel_parts: Number of parts into which an edge divides its channels. Operations
        work on the first part, the others pass unchanged, and all are shuffled
        (PC-DARTS, with 4).
      edge_weights: Whether a mixture also has a distribution over the inputs of each
        node, which multiplies them (PC-DARTS). The inputs of a child then have equal
        weights that add up to 1.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: int = 16
    cells: int = 5
    exclude_none: bool = False
    channel_parts: int = 1
    edge_weights: bool = False

    name = "nasbench201"
    mixes = True

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in ("channels", "cells", "num_classes"):
            check_int(self, name, 1)
        check_int(self, "channel_parts", 1)
        for name in ("exclude_none", "edge_weights"):
            check_bool(self, name)
        divided = self.channels % self.channel_parts == 0
        require(self, "channel_parts", divided, "a divisor of the channels")
        valid = all(size >= 4 and size % 4 == 0 for size in self.image_shape[:2])
        expected = "rows and columns that are multiples of 4, as they are halved twice"
        require(self, "image_shape", valid, expected)

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations that an edge chooses from."""
        return OPERATIONS[1:] if self.exclude_none else OPERATIONS

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The operation of each edge, in the benchmark's order."""
        return tuple(Decision(f"edge_{s}_{t}", self.operations) for s, t in EDGES)

    @property
    def groups(self) -> tuple[Decision, ...]:
        """The decisions, and with ``edge_weights`` the inputs of nodes 2 and 3."""
        if not self.edge_weights:
            return self.decisions
        inputs = (
            Decision(f"inputs_of_{t}", tuple(str(s) for s in range(t)))
            for t in range(2, NODES)
        )
        return (*self.decisions, *inputs)

    def benchmark_choice(self, choice: Any) -> np.ndarray:
        """An architecture's choices as indices into the benchmark's operations.

        Args:
          choice: ``int[..., 6]``.
        """
        return np.asarray(choice) + int(self.exclude_none)

    def to_notation(self, choice):
        """The string of the benchmark."""
        return to_string(self.benchmark_choice(choice))

    def from_notation(self, text):
        """The choice of a string of the benchmark."""
        choice = from_string(text) - int(self.exclude_none)
        if np.any(choice < 0):
            raise UserError(
                f"{shorten(text)} has the operation none, which this space excludes "
                "(exclude_none)."
            )
        return choice

    def canonical_form(self, choice):
        """An expression of the cell, equal in each published isomorphism class."""
        return canonical_form(self.benchmark_choice(choice))

    def classes(self):
        """The first architecture of each published isomorphism class."""
        every = all_architectures()
        if self.exclude_none:
            every = every[np.all(every > 0, axis=1)] - 1
        return first_of_each_class(self, every)

    def init(self, key: jax.Array) -> Params:
        """The shared parameters.

        Kernels start uniformly within ``1 / sqrt(inputs)``, as in PyTorch.

        Args:
          key: PRNG key.

        Returns:
          ``stem``; for each stage ``stage_I`` with the stacks ``conv_1x1[cells * 6, c,
          c]`` and ``conv_3x3[cells * 6, 9 c, c]``, where ``c`` is the number of
          channels that operations work on; ``reduction_I`` before the second and the
          third stage; ``normalization`` and ``classifier``.
        """
        return images.init(key, self._parameters())

    def _parameters(self) -> Params:
        inputs, first = self.image_shape[2], self.channels
        found: Params = {"stem": affine_convolution(9 * inputs, first)}
        for stage in range(STAGES):
            c, edges = first * 2**stage, self.cells * len(EDGES)
            part = c // self.channel_parts
            if stage:
                found[f"reduction_{stage}"] = {
                    "first": affine_convolution(9 * c // 2, c),
                    "second": affine_convolution(9 * c, c),
                    "shortcut": {"kernel": UniformKernel((c // 2, c), c // 2)},
                }
            found[f"stage_{stage}"] = {
                "conv_1x1": UniformKernel((edges, part, part), part),
                "conv_3x3": UniformKernel((edges, 9 * part, part), 9 * part),
            }
        found["normalization"] = images.affine_parameters((c,), affine=True)
        found["classifier"] = images.linear_parameters(c, self.num_classes)
        return found

    def rows(self, architecture: Architecture) -> Any:
        """The kernels of the chosen convolutions, and all parameters outside cells."""
        rows = jax.tree.map(
            lambda _: ALL, self._parameters(), is_leaf=images.is_parameter
        )
        for stage in range(STAGES):
            stacks = rows[f"stage_{stage}"]
            for name in stacks:
                stacks[name] = self._rows_of(architecture, f"nor_{name}")
        return rows

    def _rows_of(self, architecture: Architecture, operation: str) -> Any:
        if architecture.weights is not None:
            return EVERY_ROW
        chosen = architecture.choice == self.operations.index(operation)
        places = jnp.arange(self.cells * len(EDGES))
        return jnp.where(jnp.tile(chosen, self.cells), places, PAD + places)

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
          noise: For training: dropout before the classifier. There is no drop-path.
          batch_stats: Batch statistics to normalize with, as in :class:`Outputs`; None
            for those of the batch.
          axis: Devices that divide the batch.

        Returns:
          The scores of the classes.
        """
        given: dict[str, Any] = batch_stats or {}
        found: dict[str, Any] = {}
        x = channels_first(inputs)
        x, found["stem"] = convolve(x, child["stem"], given.get("stem"), axis)
        for stage in range(STAGES):
            if stage:
                name = f"reduction_{stage}"
                x, found[name] = reduce(x, child[name], given.get(name), axis)
            name = f"stage_{stage}"
            x, found[name] = self._run_stage(
                x, child[name], architecture, given.get(name), axis
            )
        name = "normalization"
        own = child[name], given.get(name), axis
        x, found[name] = images.normalized(x, *own, CHANNELS)
        logits = images.classify(channels_last(x), child["classifier"], noise, axis)
        return Outputs(logits, None, found)

    def _run_stage(self, x, stacks, architecture, given, axis):
        """All cells of a stage, by one compiled body."""
        run = self._choose if architecture.weights is None else self._mix
        run = functools.partial(run, architecture, axis)
        cells = jax.tree.map(
            lambda k: k.reshape(self.cells, len(EDGES), *k.shape[1:]), stacks
        )
        if self.cells == 1:  # XLA compiles a scan of one step as a loop, too.
            each = jax.tree.map(lambda k: k[0], (cells, given))
            x, found = run(x, each)
            return x, jax.tree.map(lambda m: m[None], found)
        return jax.lax.scan(run, x, (cells, given))

    def _choose(self, architecture, axis, x, each):
        """A cell with one operation on each edge."""
        (kernels, given), sums, found = each, [x, *[0.0] * (NODES - 1)], []
        for edge, (source, target) in enumerate(EDGES):
            one = jax.tree.map(lambda k, e=edge: k[e], (kernels, given))
            part, rest = self._split(sums[source])
            y, moments = switch(
                architecture.choice[edge],
                [functools.partial(ON_ONE_EDGE[o], axis) for o in self.operations],
                part,
                *one,
            )
            if architecture.gates is not None:
                gates = architecture.gates[edge]
                own = gates[architecture.choice[edge]]
                # Gates of other choices have the gradient that they would have if
                # their operations returned ones (the code of Dong and Yang).
                y = own * y + (jnp.sum(gates) - own)
            y = partial_channels.join(y, rest, CHANNELS)
            sums[target] += self._share(architecture, source, target) * y
            found.append(moments)
        return sums[-1], jax.tree.map(lambda *m: jnp.stack(m), *found)

    def _mix(self, architecture, axis, x, each):
        """A cell with the weighted sum of all operations on each edge."""
        (kernels, given), sums, found = each, [x, *[0.0] * (NODES - 1)], []
        # Rows of the edges; groups of inputs come after them, and may have padding.
        of_edges = architecture.weights[: len(EDGES), : len(self.operations)]
        weights = dict(zip(self.operations, of_edges.T, strict=True))
        for source in range(NODES - 1):
            edges = [e for e, (s, _) in enumerate(EDGES) if s == source]
            places = np.array(edges)
            x, rest = self._split(sums[source])
            active, pooled = jax.nn.relu(x), average_pool(x)
            terms = Terms(
                [
                    p(active, side_by_side(kernels[n][places]))
                    for n, p in PRODUCTS.items()
                ],
                [weights[f"nor_{name}"][places] for name in PRODUCTS],
                [x, pooled],
                [weights[name][places] for name in ("skip_connect", "avg_pool_3x3")],
            )
            own = None
            if given is not None:
                own = [
                    jax.tree.map(lambda m, p=places: m[p].reshape(-1), given[name])
                    for name in PRODUCTS
                ]
            y, moments = mix(terms, own, axis, CHANNELS)
            each_part = jnp.split(y, len(edges), CHANNELS)
            for edge, part in zip(edges, each_part, strict=True):
                target, y = EDGES[edge][1], partial_channels.join(part, rest, CHANNELS)
                sums[target] += self._share(architecture, source, target) * y
            by_edge = [
                Moments(*(m.reshape(len(edges), -1) for m in each)) for each in moments
            ]
            found.append(dict(zip(PRODUCTS, by_edge, strict=True)))
        by_source = sorted(range(len(EDGES)), key=lambda edge: EDGES[edge][0])
        order = np.argsort(by_source)
        found = jax.tree.map(lambda *m: jnp.concatenate(m)[order], *found)
        return sums[-1], found

    def _split(self, x):
        """The channels that operations work on, and the others."""
        return partial_channels.split(x, self.channel_parts, CHANNELS)

    def _share(self, architecture, source, target):
        """The factor of an edge in the sum of its target's inputs."""
        if not self.edge_weights or target == 1:
            return 1.0
        if architecture.weights is None:
            return 1 / target
        return architecture.weights[len(EDGES) + target - 2, source]

    @functools.cached_property
    def parts(self):
        """The stem, reductions, the operations of each stage, and the classifier."""
        return nasbench201_parts.parts(self, STAGES)

    def uses(self, architecture):
        """Operations are used in each cell of a stage."""
        return nasbench201_parts.uses(self, STAGES, architecture)

    def program(self, choice, batch):
        """The network on a batch of images."""
        return image_parts.program(self, choice, batch)

    def network(self, choice: Any, child: Any, statistics: Any) -> Network:
        """The cells and the rest of the network."""
        return nasbench201_network.network(self, choice, child, statistics)

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """The cell as a graph: operations are nodes, and ``none`` is left out."""
        named = [self.operations[int(index)] for index in choice]
        nodes, edges = {"0": "in"}, []
        for (source, target), name in zip(EDGES, named, strict=True):
            if name != "none":
                place = f"{source}{target}"
                nodes[place] = name.removeprefix("nor_").replace("_", " ")
                edges += [(str(source), place, ""), (place, str(target), "")]
            if source == target - 1:
                nodes[str(target)] = "out" if target == NODES - 1 else f"+ {target}"
        return {"cell": Graph(nodes, tuple(edges))}
