"""What spaces of language models share: interface, dropout and softmax."""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from wpl_jax.common.settings import check_number
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces.highway_scan import flat
from wpl_jax.supernet import Space


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Rates in [0, 1), each mask drawn once for a whole sequence.

    The names and places are those of Merity et al., "Regularizing and Optimizing
    LSTM Language Models" (2017).

    Attributes:
      embedding: Of whole words.
      input: Of the cell's input.
      output: Of the cell's output.
      recurrent: Of the weights of the recurrent kernel.
    """

    embedding: float = 0.0
    input: float = 0.0
    output: float = 0.0
    recurrent: float = 0.0

    def __post_init__(self) -> None:
        """Checks the rates."""
        for name in ("embedding", "input", "output", "recurrent"):
            check_number(self, name, least=0, below=1)


class Hidden(NamedTuple):
    """What a language model computes before the softmax."""

    raw: jax.Array  # float[batch, time, hidden]; outputs of the cell
    dropped: jax.Array  # float[batch, time, hidden]; with dropout
    state: jax.Array  # float[batch, n]; to go on from, of as many numbers as it takes


class RecurrentSpace(Space, Protocol):
    """A space of recurrent language models."""

    @property
    def vocabulary_size(self) -> int:
        """The number of words."""

    def logits(self, params: Any, hidden: jax.Array) -> jax.Array:
        """Scores of the words, ``float[..., vocabulary]``."""

    def initial_state(self, batch: int) -> jax.Array:
        """The state before the first word."""


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """``kernel x + bias`` of the last axis of ``x``."""
    return (flat(x) @ kernel.T + bias).reshape(*x.shape[:-1], -1)


def drop(
    key: jax.Array,
    x: jax.Array,
    rate: float,
    shape: tuple[int, ...],
    axis: Axis = NO_AXIS,
) -> jax.Array:
    """Inverted dropout with one mask along the axes where ``shape`` is 1.

    Args:
      key: PRNG key of the mask.
      x: Of which some are replaced with 0, and the others divided by ``1 - rate``.
      rate: Their share.
      shape: Of the mask: 1, or -1 for the size of ``x``.
      axis: Devices of which each has its share of the second axis, the batch.
    """
    if rate == 0:
        return x
    sizes = [x.shape[i] if size == -1 else size for i, size in enumerate(shape)]
    sizes[1:2] = [size * axis.size for size in sizes[1:2]]
    kept = axis.shard(jax.random.bernoulli(key, 1 - rate, sizes), 1)
    return jnp.where(kept, x / (1 - rate), 0)
