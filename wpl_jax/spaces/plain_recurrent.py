"""A plain LSTM or GRU language model, with which recurrent cells are compared.

Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997), with forget gates (Gers et
al., 2000), and Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder"
(2014), with the reset gate after the product, as in cuDNN. One layer. Embedding,
softmax and places of dropout are those of :mod:`wpl_jax.spaces.recurrent_cell`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import check_choice, check_int
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces.words import Dropout, Hidden, drop, linear
from wpl_jax.supernet import ALL, Architecture, Decision, Graph, Space

Params = dict[str, jax.Array]

_EMBEDDING = (
    0.1  # It starts uniformly within plus and minus this (Merity et al., 2017).
)


class _Cell(NamedTuple):
    """A recurrent cell.

    Attributes:
      gates: Rows of its kernels, in units of ``hidden``.
      states: Columns of its state, in units of ``hidden``, the output first.
      open_at_first: Gates whose bias starts at 1.
      has_inner_bias: Whether the product with the state has a bias in the last gate.
      step: A function of the state, the input's share of the pre-activations, and the
        state's share of them. It returns the next state.
    """

    gates: int
    states: int
    open_at_first: tuple[int, ...]
    has_inner_bias: bool
    step: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def _lstm(state, of_input, of_state):
    _, memory = jnp.split(state, 2, -1)
    i, f, g, o = jnp.split(of_input + of_state, 4, -1)
    memory = jax.nn.sigmoid(f) * memory + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jnp.concatenate([jax.nn.sigmoid(o) * jnp.tanh(memory), memory], -1)


def _gru(state, of_input, of_state):
    (r, z, n), (r_h, z_h, n_h) = (jnp.split(x, 3, -1) for x in (of_input, of_state))
    n = jnp.tanh(n + jax.nn.sigmoid(r + r_h) * n_h)
    z = jax.nn.sigmoid(z + z_h)
    return z * state + (1 - z) * n


# The forget gate starts open (Jozefowicz et al., "An Empirical Exploration of Recurrent
# Network Architectures", 2015).
_CELLS = {
    "gru": _Cell(3, 1, (), True, _gru),
    "lstm": _Cell(4, 2, (1,), False, _lstm),
}


@dataclasses.dataclass(frozen=True)
class PlainRecurrent(Space):
    """One recurrent network, and so a space without decisions.

    Attributes:
      vocabulary_size: Number of words.
      hidden: Units of the cell, and of the embedding.
      cell: ``"lstm"`` or ``"gru"``.
    """

    vocabulary_size: int
    hidden: int
    cell: Literal["lstm", "gru"] = "lstm"

    name = "plain_recurrent"
    word_rows = ("embedding", "output_bias")

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "vocabulary_size", 1)
        check_int(self, "hidden", 1)
        check_choice(self, "cell", _CELLS)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """There are none."""
        return ()

    def init(self, key: jax.Array) -> Params:
        """The parameters.

        Args:
          key: PRNG key.

        Returns:
          ``embedding[vocabulary, hidden]``, tied to the softmax, with
          ``output_bias[vocabulary]``; ``input[gates hidden, hidden]``, ``bias[gates
          hidden]`` and ``recurrent[gates hidden, hidden]``; of a GRU also
          ``inner_bias[hidden]``, which is added to the state's share of the candidate.
          Gates of an LSTM are those of the input and of forgetting, the candidate and
          the output gate; of a GRU reset, update and candidate, as in PyTorch. Kernels
          start uniformly within ``1 / sqrt(hidden)``, as in PyTorch.
        """
        bound = 1 / math.sqrt(self.hidden)
        ranges = {"embedding": _EMBEDDING, "input": bound, "recurrent": bound}
        shapes = self._shapes()
        keys = dict(zip(ranges, jax.random.split(key, len(ranges)), strict=True))
        params = {name: jnp.zeros(shape) for name, shape in shapes.items()}
        for name, most in ranges.items():
            params[name] = jax.random.uniform(
                keys[name], shapes[name], minval=-most, maxval=most
            )
        for gate in self._cell.open_at_first:
            first = gate * self.hidden
            params["bias"] = params["bias"].at[first : first + self.hidden].set(1)
        return params

    @property
    def _cell(self) -> _Cell:
        return _CELLS[self.cell]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        h, rows = self.hidden, self._cell.gates * self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "embedding": (self.vocabulary_size, h),
            "input": (rows, h),
            "recurrent": (rows, h),
            "bias": (rows,),
            "output_bias": (self.vocabulary_size,),
        }
        return shapes | ({"inner_bias": (h,)} if self._cell.has_inner_bias else {})

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
        """The network over a batch of sequences.

        Args:
          child: The parameters.
          architecture: Not used: there is one.
          tokens: ``int32[batch, time]``.
          state: To start from, as :meth:`initial_state` describes it.
          dropout: Rates, for training; None for evaluation.
          key: PRNG key of the dropout masks.
          axis: Devices of which each has its share of a batch.

        Returns:
          The hidden states; :meth:`logits` makes words of them.

        Raises:
          ValueError: If ``dropout`` comes without a ``key``.
        """
        del architecture
        rates = dropout or Dropout()
        if dropout is not None and key is None:
            raise ValueError("dropout draws masks: pass key=jax.random.key(...).")
        keys = jax.random.split(jax.random.key(0) if key is None else key, 4)
        table = drop(keys[0], child["embedding"], rates.embedding, (-1, 1))
        x = jnp.take(table, tokens.T, axis=0)  # [time, batch, hidden]
        x = drop(keys[1], x, rates.input, (1, -1, -1), axis)
        of_inputs = linear(x, child["input"], child["bias"])
        kernel = drop(keys[2], child["recurrent"], rates.recurrent, (-1, -1))
        shift = jnp.zeros(len(kernel), kernel.dtype)
        if "inner_bias" in child:
            shift = shift.at[-self.hidden :].set(child["inner_bias"])

        def step(state, of_input):
            of_state = state[:, : self.hidden] @ kernel.T + shift
            state = self._cell.step(state, of_input, of_state)
            return state, state[:, : self.hidden]

        state, outputs = jax.lax.scan(step, state, of_inputs)
        dropped = drop(keys[3], outputs, rates.output, (1, -1, -1), axis)
        return Hidden(outputs.swapaxes(0, 1), dropped.swapaxes(0, 1), state)

    def logits(self, params: Params, hidden: jax.Array) -> jax.Array:
        """Scores of the words, ``float[..., vocabulary]``."""
        return linear(hidden, params["embedding"], params["output_bias"])

    def initial_state(self, batch: int) -> jax.Array:
        """Zeros: ``float[batch, hidden]``, followed by the memory of an LSTM."""
        return jnp.zeros((batch, self._cell.states * self.hidden))

    def rows(self, architecture: Architecture) -> dict[str, Any]:
        """All parameters."""
        del architecture
        return dict.fromkeys(self._shapes(), ALL)

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """The cell as one node."""
        del choice
        nodes = {"in": "x[t], h[t-1]", "cell": self.cell.upper(), "out": "h[t]"}
        return {"cell": Graph(nodes, (("in", "cell", ""), ("cell", "out", "")))}
