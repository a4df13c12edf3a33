"""The layout in which language models are trained: parallel streams of text."""

import numpy as np
from numpy.typing import ArrayLike

from wpl_jax.common.counted import counted
from wpl_jax.data.arguments import require_int
from wpl_jax.data.errors import DataError


def batchify(
    tokens: ArrayLike, batch_size: int, length: int | None = None, name: str = "tokens"
) -> np.ndarray:
    """Cuts a text into as many equal, contiguous streams as a batch has rows.

    Stream i is the i-th part of the text, so that the hidden state of step t is
    the one that step t + 1 goes on from. The at most ``batch_size - 1`` tokens at
    the text's end that would make the streams unequal are left out.

    Args:
      tokens: The text in numbers, int[tokens].
      batch_size: The number of streams.
      length: The number of steps that are trained at once (truncated
        backpropagation through time); None for 1. It takes one token more, as
        each step predicts the next one's.
      name: What the text is, for the message.

    Returns:
      int32[batch_size, rows], a copy, where ``rows = tokens // batch_size``.

    Raises:
      DataError: The text is shorter than ``batch_size * (length + 1)`` tokens, or
        an argument is wrong.

    Examples:
      >>> batchify([0, 1, 2, 3, 4, 5, 6], batch_size=2)
      array([[0, 1, 2],
             [3, 4, 5]], dtype=int32)
    """
    batch_size = require_int(batch_size, "batch_size", 1)
    length = 1 if length is None else require_int(length, "length", 1)
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        found = f"an array of {array.dtype} and shape {array.shape}"
        remedy = "give for instance the train of a TextDataset"
        raise DataError(name, found, "integers of shape (tokens,)", remedy)
    _check_size(array.size, batch_size, length, name)
    rows = array.size // batch_size
    return array[: batch_size * rows].reshape(batch_size, rows).astype(np.int32)


def _check_size(size: int, batch_size: int, length: int, name: str) -> None:
    """The text is long enough for one batch."""
    needed = batch_size * (length + 1)
    if size >= needed:
        return
    expected = (
        f"at least {needed:,} for one batch:"
        f" batch_size * (length + 1) = {batch_size} * {length + 1}"
    )
    largest = size // (length + 1)
    options = [f"set batch_size={largest} or lower"] if largest else []
    options += ["set a smaller length"] if length > 1 else []
    remedy = ", or ".join([*options, "take a longer text"])
    raise DataError(name, counted(size, "token"), expected, remedy)
