"""Text on devices as parallel streams, and the windows that a model reads of them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.data import TextDataset, batchify

# The share of a split in training text that is told; of the Penn Treebank's it is .9 %.
_TOLD = 0.01


class Data(NamedTuple):
    """The text as parallel streams."""

    train: jax.Array  # int32[batch_size, words]
    valid: jax.Array  # int32[batch_size, words]
    test: jax.Array  # int32[batch_size, words]


def streams_of(text: TextDataset, number: int, length: int) -> Data:
    """Each split as so many streams, of at least a batch of this length."""

    def streams(split: str) -> jax.Array:
        name = f"{split} of {text.source}"
        return jnp.asarray(batchify(getattr(text, split), number, length, name=name))

    return Data(*map(streams, Data._fields))


def describe(text: TextDataset) -> str:
    """Sizes of a text, and how much of it is not in the vocabulary."""
    sizes = ", ".join(
        f"{getattr(text, split).size:,} {split}"
        + (f" ({count:,} unknown)" if (count := text.unknown[split]) else "")
        for split in Data._fields
    )
    repeated = "".join(
        f"; {share:.1%} of {split} is also in train"
        for split, share in text.repeated.items()
        if share >= _TOLD
    )
    return (
        f"{text.source}: tokens {sizes}; vocabulary {text.vocabulary_size:,}, "
        f"{text.level} level{repeated}"
    )


def count_predicted(streams: jax.Array) -> int:
    """How many words of each stream are predicted: all but the first."""
    return streams.shape[1] - 1


def padded(streams: jax.Array, length: int) -> jax.Array:
    """The streams with zeros at the end, up to a whole number of windows."""
    missing = -count_predicted(streams) % length
    return jnp.pad(streams, ((0, 0), (0, missing)))


def window(
    streams: jax.Array, index: jax.Array, length: int
) -> tuple[jax.Array, jax.Array]:
    """Inputs and targets of a window, ``int32[batch_size, length]`` each.

    Args:
      streams: Of a split.
      index: Number of the window, ``int32[]``.
      length: Words of a window.
    """
    words = jax.lax.dynamic_slice_in_dim(streams, index * length, length + 1, axis=1)
    return words[:, :-1], words[:, 1:]
