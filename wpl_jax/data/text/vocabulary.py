"""The vocabulary of a text, and the text in its numbers."""

from collections import Counter
from collections.abc import Sequence, Set

import numpy as np

from wpl_jax.data.errors import DataError
from wpl_jax.data.text.levels import END, UNKNOWN


def build_vocabulary(
    train: Counter[str],
    elsewhere: Set[str],
    *,
    max_vocabulary: int | None,
    min_count: int,
    where: str,
) -> tuple[str, ...]:
    """The tokens that get a number of their own, the most frequent first.

    Tokens of equal frequency are in the order of their characters. ``<eos>`` is
    always among them if the text has it. ``<unk>`` is if any token of any split
    is not; its frequency is that of all training tokens that it stands for.

    Args:
      train: How often each token occurs in the training split.
      elsewhere: The tokens of the other splits.
      max_vocabulary: The largest number of tokens, ``<eos>`` and ``<unk>``
        included; None for no limit.
      min_count: How often a token has to occur in the training split.
      where: The training split's file, for the message.

    Returns:
      The tokens; their positions are their numbers.

    Raises:
      DataError: No token occurs ``min_count`` times.
    """
    counts = {w: n for w, n in train.items() if w not in (END, UNKNOWN)}
    kept = sorted(
        (word for word, n in counts.items() if n >= min_count),
        key=lambda word: (-counts[word], word),
    )
    if not kept:
        raise _nothing_kept(max(counts.values(), default=0), min_count, where)
    ends = [END] if END in train else []
    lacks = len(train.keys() | elsewhere) > len(kept) + len(ends)
    size = len(kept) + len(ends) + lacks
    if max_vocabulary is not None and size > max_vocabulary:
        kept = kept[: max_vocabulary - len(ends) - 1]
        lacks = True
    final = {word: train[word] for word in (*kept, *ends)}
    if lacks:
        final[UNKNOWN] = train.total() - sum(final.values())
    return tuple(sorted(final, key=lambda word: (-final[word], word)))


def _nothing_kept(most: int, min_count: int, where: str) -> DataError:
    """The error for a vocabulary without a single word."""
    found = f"no token but {END} and {UNKNOWN} that occurs more than {most} times"
    expected = f"at least one that occurs min_count={min_count} times"
    if not most:
        return DataError(where, found, expected, "put other text there")
    remedy = f"set min_count={most} or lower"
    return DataError(where, found, expected, remedy, "min_count")


def encode(tokens: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """The numbers of tokens.

    Args:
      tokens: The tokens of a text.
      vocabulary: The tokens by number, with ``<unk>`` if any token is not in it.

    Returns:
      int32[tokens], in [0, len(vocabulary)).
    """
    number = {token: i for i, token in enumerate(vocabulary)}
    unknown = number.get(UNKNOWN, -1)
    numbers = (number.get(token, unknown) for token in tokens)
    return np.fromiter(numbers, np.int32, len(tokens))
