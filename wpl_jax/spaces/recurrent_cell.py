"""The ENAS recurrent cell for language models.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (2018),
section 2.1. A cell of ``num_nodes`` nodes; each after the first chooses an earlier
node as its parent and one of four activations, the first only an activation. Each
ordered pair (node, parent) has weights of its own, shared by all activations. The
cell's output is the mean of its leaves, the nodes that are nobody's parent.

With ``output="all"``, the mean of all nodes, there are mixtures as in DARTS (Liu,
Simonyan, Yang, ICLR 2019): each earlier node is a parent of a node, with a weight for
each activation (``wpl_jax.spaces.highway_mixture``).
"""

import dataclasses
import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import MOST_NODES, check_choice, check_int, check_number
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces import recurrent_cell_network, recurrent_cell_parts
from wpl_jax.spaces.highway_mixture import edge, mixed_highway_scan
from wpl_jax.spaces.highway_scan import (
    ACTIVATIONS,
    Carry,
    Wiring,
    highway_scan,
)
from wpl_jax.spaces.network import Network
from wpl_jax.spaces.words import Dropout, Hidden, drop, linear
from wpl_jax.supernet import ALL, EVERY_ROW, Architecture, Decision, Graph, Space

Params = dict[str, jax.Array]

_NONE = "none"  # no edge, in a mixture


@dataclasses.dataclass(frozen=True)
class RecurrentCell(Space):
    """The supernet of recurrent cells over a tied embedding.

    Attributes:
      vocabulary_size: Number of words.
      hidden: Units of a node, and of the embedding.
      num_nodes: Nodes of the cell.
      output: ``"leaves"``, the mean of the leaves, or ``"all"`` nodes. With the latter
        there are mixtures.
      carry: What the next time step gets: the ``"output"``, or the ``"last"`` node.
      max_norm: Limit of the recurrent state's norm, None for none.
      init_scale: Parameters start uniformly within plus and minus this.
    """

    vocabulary_size: int
    hidden: int
    num_nodes: int = 12
    output: Literal["leaves", "all"] = "leaves"
    carry: Carry = "output"
    max_norm: float | None = 25.0
    init_scale: float = 0.04

    name = "recurrent_cell"
    word_rows = ("embedding", "output_bias")

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "vocabulary_size", 1)
        check_int(self, "hidden", 1)
        least = 2  # of one node, there is no edge
        check_int(self, "num_nodes", least, most=MOST_NODES)
        check_choice(self, "output", ("all", "leaves"))
        check_choice(self, "carry", ("last", "output"))
        check_number(self, "max_norm", optional=True, above=0)
        check_number(self, "init_scale", least=0)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """The first activation, then a parent and an activation for each node."""
        found = [Decision("activation_0", ACTIVATIONS)]
        for node in range(1, self.num_nodes):
            parents = tuple(f"node_{i}" for i in range(node))
            found.append(Decision(f"parent_{node}", parents, ordered=True))
            found.append(Decision(f"activation_{node}", ACTIVATIONS))
        return tuple(found)

    @property
    def mixes(self) -> bool:  # type: ignore[override]
        """Whether there are mixtures: their nodes are all part of the output."""
        return self.output == "all"

    @property
    def draws(self) -> bool:
        """There are no gates."""
        return False

    @property
    def groups(self) -> tuple[Decision, ...]:
        """The activation of the first node, and those of each edge, with ``none``.

        Edges are ordered by node, then by parent.
        """
        edges = (
            Decision(f"edge_{parent}_{node}", (_NONE, *ACTIVATIONS))
            for node in range(1, self.num_nodes)
            for parent in range(node)
        )
        return (Decision("activation_0", ACTIVATIONS), *edges)

    def discretize(self, weights: jax.Array) -> jax.Array:
        """The strongest activation of the first node and edge of each other node.

        ``none`` is excluded (the code of DARTS).

        Args:
          weights: ``float32[num_groups, max_choices]``.

        Returns:
          ``int32[num_decisions]``.
        """
        count = len(ACTIVATIONS)
        found = [jnp.argmax(weights[0, :count])]
        for node in range(1, self.num_nodes):
            edges = 1 + edge(0, node) + jnp.arange(node)
            best = jnp.argmax(weights[edges, 1 : 1 + count])
            found += divmod(best, count)
        return jnp.stack(found).astype(jnp.int32)

    def init(self, key: jax.Array) -> Params:
        """The shared parameters.

        Args:
          key: PRNG key.

        Returns:
          ``embedding[vocabulary, hidden]``, tied to the softmax, with
          ``output_bias[vocabulary]``; ``input[2 hidden, hidden]``, ``bias[2 hidden]``
          and ``recurrent[2 hidden, hidden]`` of the first node; ``edges[nodes *
          (nodes - 1) / 2, 2 hidden, hidden]``, the kernel of node ``j`` with parent
          ``i`` at ``j (j - 1) / 2 + i``. The first half of the rows is the gate's.
        """
        shapes, scale = self._shapes(), self.init_scale
        keys = jax.random.split(key, len(shapes))
        return {
            name: jnp.zeros(shape)
            if name in ("bias", "output_bias")
            else jax.random.uniform(k, shape, minval=-scale, maxval=scale)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        h = self.hidden
        return {
            "embedding": (self.vocabulary_size, h),
            "input": (2 * h, h),
            "recurrent": (2 * h, h),
            "edges": (self.num_nodes * (self.num_nodes - 1) // 2, 2 * h, h),
            "bias": (2 * h,),
            "output_bias": (self.vocabulary_size,),
        }

    def apply(
        self,
        child: Params,
        architecture: Architecture,
        tokens: jax.Array,
        *,
        state: jax.Array,
        dropout: Dropout | None = None,
        key: jax.Array | None = None,
        axis: Axis = NO_AXIS,
    ) -> Hidden:
        """One child, or the mixture, over a batch of sequences.

        Args:
          child: Its parameters, ``edges[nodes - 1, 2 hidden, hidden]`` among them; of
            the mixture all.
          architecture: The child or the mixture.
          tokens: ``int32[batch, time]``.
          state: Recurrent state to start from, ``float[batch, hidden]``.
          dropout: Rates, for training; None for evaluation.
          key: PRNG key of the dropout masks.
          axis: Devices of which each has its share of a batch.

        Returns:
          The hidden states; :meth:`logits` makes words of them.

        Raises:
          ValueError: If ``dropout`` comes without a ``key``.
        """
        rates = dropout or Dropout()
        if dropout is not None and key is None:
            raise ValueError("dropout draws masks: pass key=jax.random.key(...).")
        keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
        table = drop(keys[0], child["embedding"], rates.embedding, (-1, 1))
        x = jnp.take(table, tokens.T, axis=0)  # [time, batch, hidden]
        x = drop(keys[1], x, rates.input, (1, -1, -1), axis)
        arguments = (
            linear(x, child["input"], child["bias"]),
            state,
            drop(keys[2], child["recurrent"], rates.recurrent, (-1, -1)),
            child["edges"],
        )
        if architecture.weights is None:
            wiring = self.wiring(architecture.choice)
            outputs, state = highway_scan(*arguments, wiring, self.carry, self.max_norm)
        else:
            first = architecture.weights[0, : len(ACTIVATIONS)]
            of_edges = architecture.weights[1:, 1:]
            outputs, state = mixed_highway_scan(
                *arguments, first, of_edges, self.carry, self.max_norm
            )
        dropped = drop(keys[3], outputs, rates.output, (1, -1, -1), axis)
        return Hidden(outputs.swapaxes(0, 1), dropped.swapaxes(0, 1), state)

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Scores of the words, ``float[..., vocabulary]``."""
        return linear(hidden, params["embedding"], params["output_bias"])

    def initial_state(self, batch: int) -> jax.Array:
        """Zeros, ``float[batch, hidden]``."""
        return jnp.zeros((batch, self.hidden))

    def rows(self, architecture: Architecture) -> dict[str, Any]:
        """The edges that the child uses, and all of everything else."""
        whole = dict.fromkeys(self._shapes(), ALL)
        if architecture.weights is not None:
            return whole | {"edges": EVERY_ROW}
        node = jnp.arange(1, self.num_nodes)
        edges = node * (node - 1) // 2 + architecture.choice[1::2]
        return whole | {"edges": edges}

    @functools.cached_property
    def parts(self):
        """Embedding and softmax, and the cell: all children cost the same."""
        return recurrent_cell_parts.parts(self)

    def uses(self, architecture):
        """Each part is used once."""
        del architecture
        return recurrent_cell_parts.uses(self)

    def program(self, choice, batch):
        """The language model on sequences of words."""
        return recurrent_cell_parts.program(self, choice, batch)

    def network(self, choice: Any, child: Any, statistics: Any) -> Network:
        """The cell over time, the embedding and the softmax."""
        return recurrent_cell_network.network(self, choice, child, statistics)

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """The nodes with their activations, from ``x[t], h[t-1]`` to ``h[t]``."""
        index = np.asarray(choice)
        activations = [ACTIVATIONS[i] for i in index[0::2]]
        parents = [int(i) for i in index[1::2]]
        nodes = {"in": "x[t], h[t-1]"}
        nodes |= {str(i): f"{i}  {name}" for i, name in enumerate(activations)}
        nodes["out"] = "h[t], mean"
        edges = [("in", "0", "")]
        edges += [(str(i), str(j), "") for j, i in enumerate(parents, 1)]
        last = [
            j for j in range(self.num_nodes) if self.output == "all" or j not in parents
        ]
        edges += [(str(j), "out", "") for j in last]
        return {"cell": Graph(nodes, tuple(edges))}

    def wiring(self, choice: jax.Array) -> Wiring:
        """The data flow of an architecture's choice."""
        # decisions: a0, (p1, a1), (p2, a2), ...
        activations, parents = choice[0::2], choice[1::2]
        weights = jnp.ones(self.num_nodes)
        if self.output == "leaves":
            weights = weights.at[parents].set(0)
        return Wiring(parents, activations, weights / weights.sum())
