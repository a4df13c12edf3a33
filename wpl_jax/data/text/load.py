"""Text for language models: one type, one function, many formats."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from wpl_jax.data.arguments import check_options, choose, require_int
from wpl_jax.data.errors import DataError
from wpl_jax.data.files import PathLike
from wpl_jax.data.repeats import check_text, share_repeated
from wpl_jax.data.text.formats import TEXT_FORMATS
from wpl_jax.data.text.levels import LEVELS, Level
from wpl_jax.data.text.source import TextSource, TextSplit
from wpl_jax.data.text.vocabulary import build_vocabulary, encode
from wpl_jax.errors import printable, shorten

_SPLITS = ("train", "valid", "test")


@dataclasses.dataclass(frozen=True, eq=False)
class TextDataset:
    """A text in numbers, in three splits.

    Attributes:
      train: Tokens to learn the weights from, int32[tokens].
      valid: Tokens to choose architectures by, int32[tokens].
      test: Tokens to report on, once, int32[tokens].
      vocabulary: The token of number i at position i, the most frequent first.
      source: Where the data is from, for messages and reports.
      unknown: For each of "train", "valid" and "test" the number of tokens that
        are not in the vocabulary and became ``<unk>``. A literal ``<unk>`` in the
        training text is not counted. That of train is 0 unless max_vocabulary or
        min_count cut words.
      level: A key of ``LEVELS``: "word" or "character".
      repeated: For "valid" and "test" the share of tokens that are in passages of
        training text too, of at least 50 words or 250 characters.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    vocabulary: tuple[str, ...]
    source: str
    unknown: dict[str, int]
    level: str
    repeated: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens V that have a number, which is in 0..V-1."""
        return len(self.vocabulary)

    def to_text(self, ids: ArrayLike) -> str:
        """Turns numbers back into text.

        Args:
          ids: int[tokens], in [0, V).

        Returns:
          The text. At word level words are separated by single spaces, and each
          ``<eos>`` is a newline; at character level it is the text as it was.

        Raises:
          DataError: ``ids`` is not like that.
        """
        array = np.asarray(ids)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            found = f"an array of {array.dtype} and shape {array.shape}"
            remedy = "give one stream of numbers at a time"
            raise DataError("argument ids", found, "integers, of shape (n,)", remedy)
        outside = array[(array < 0) | (array >= self.vocabulary_size)]
        if outside.size:
            expected = f"numbers in 0..{self.vocabulary_size - 1}"
            remedy = f"give numbers of the vocabulary of {self.source}"
            raise DataError("argument ids", str(outside[0]), expected, remedy)
        return LEVELS[self.level].join([self.vocabulary[i] for i in array.tolist()])


def load_text(
    format: str,
    path: PathLike | None = None,
    *,
    level: str = "word",
    max_vocabulary: int | None = None,
    min_count: int = 1,
    **options: Any,
) -> TextDataset:
    r"""Loads a text into memory, in numbers.

    At word level tokens are what is between whitespace, and an ``<eos>`` ends each
    line, also an empty one; at character level they are the characters, newlines
    included. The vocabulary is that of the training split, by falling frequency
    and then by the order of the characters. A token outside it becomes ``<unk>``,
    which is in the vocabulary only if it is needed or in the text itself. If no
    training token becomes ``<unk>``, a model cannot learn when to predict it: set
    min_count=2 where valid or test have unknown words.

    Args:
      format: A key of ``TEXT_FORMATS``: "folder" or "pydoc", which needs no path
        and no download.
      path: The folder; for "pydoc" none.
      level: "word" or "character".
      max_vocabulary: The largest number of tokens in the vocabulary, with
        ``<eos>`` and ``<unk>``; None for no limit.
      min_count: How often a token has to occur in the training split to be in the
        vocabulary.
      **options: The format's own, see its reader.

    Returns:
      The data set.

    Raises:
      DataError: The source cannot be read, a split is the text of another or a part
        of the training text, or an argument is wrong. The message says where, what
        and how to mend it.

    Examples:
      >>> data = load_text("pydoc", min_count=2)
      >>> text = data.to_text(data.train)
      >>> len(text.split()) + text.count("\n") == len(data.train)
      True
    """
    reader = choose(TEXT_FORMATS, format, "format", about=str(path) if path else "")
    cut = choose(LEVELS, level, "level")
    own = ("level", "max_vocabulary", "min_count")
    check_options(format, reader, options, own)
    _check_vocabulary_size(max_vocabulary, level, cut)
    min_count = require_int(min_count, "min_count", 1)
    return _in_numbers(reader(path, **options), level, max_vocabulary, min_count)


def text_of_strings(
    train: str,
    valid: str,
    test: str,
    *,
    level: str = "word",
    max_vocabulary: int | None = None,
    min_count: int = 1,
) -> TextDataset:
    r"""A text that is in memory, in numbers.

    Args:
      train: The text to learn from.
      valid: The text to choose architectures by.
      test: The text to report on, once.
      level: As of :func:`load_text`.
      max_vocabulary: As of :func:`load_text`.
      min_count: As of :func:`load_text`.

    Raises:
      DataError: As :func:`load_text` does.

    Examples:
      >>> text_of_strings("a b a\n", "b a\n", "a a\n").vocabulary
      ('a', '<eos>', 'b')
    """
    cut = choose(LEVELS, level, "level")
    _check_vocabulary_size(max_vocabulary, level, cut)
    min_count = require_int(min_count, "min_count", 1)
    splits = {"train": train, "valid": valid, "test": test}
    for name, text in splits.items():
        if not isinstance(text, str):
            expected, remedy = "text", "join its lines, or decode its bytes"
            raise DataError(f"argument {name}", shorten(text), expected, remedy)
    source = TextSource(
        **{name: TextSplit(text, f"text of {name}") for name, text in splits.items()},
        name="strings",
    )
    return _in_numbers(source, level, max_vocabulary, min_count)


def _in_numbers(
    source: TextSource, level: str, max_vocabulary: int | None, min_count: int
) -> TextDataset:
    cut = LEVELS[level]
    _check_distinct(source)
    tokens = {name: cut.split(getattr(source, name)) for name in _SPLITS}
    counts = {name: Counter(tokens[name]) for name in _SPLITS}
    repeated = _find_repeated(tokens, counts, cut.passage)
    check_text(repeated, {name: getattr(source, name).where for name in _SPLITS})
    vocabulary = build_vocabulary(
        counts["train"],
        counts["valid"].keys() | counts["test"].keys(),
        max_vocabulary=max_vocabulary,
        min_count=min_count,
        where=source.train.where,
    )
    return TextDataset(
        **{name: encode(tokens[name], vocabulary) for name in _SPLITS},
        vocabulary=vocabulary,
        source=printable(source.name),
        unknown={name: _count_unknown(counts[name], vocabulary) for name in _SPLITS},
        level=level,
        repeated=repeated,
    )


def _check_vocabulary_size(size: int | None, level: str, cut: Level) -> None:
    """The vocabulary has room for one token besides the special ones."""
    if size is not None:
        why = f"for {', '.join(cut.specials)} and one {level}"
        require_int(size, "max_vocabulary", len(cut.specials) + 1, why)


def _check_distinct(source: TextSource) -> None:
    """No split is another's text: its perplexity would say nothing."""
    splits = (source.train, source.valid, source.test)
    for first, second in itertools.combinations(splits, 2):
        if first.text.strip() == second.text.strip():
            found = f"the same text as in {first.where}"
            expected = "splits that are different parts of the text"
            remedy = "copy the right file there; a split that is another one leaks it"
            raise DataError(second.where, found, expected, remedy)


def _find_repeated(
    tokens: dict[str, Sequence[str]], counts: dict[str, Counter[str]], length: int
) -> dict[str, float]:
    """The share of valid and test that is in passages of train too."""
    # All words have numbers of their own here, also those outside the vocabulary.
    every = tuple(counts["train"] | counts["valid"] | counts["test"])
    numbers = {name: encode(tokens[name], every) for name in _SPLITS}
    return {
        name: share_repeated(numbers[name], numbers["train"], length)
        for name in ("valid", "test")
    }


def _count_unknown(counts: Counter[str], vocabulary: tuple[str, ...]) -> int:
    """The number of tokens that are not in the vocabulary."""
    known = set(vocabulary)
    return sum(n for token, n in counts.items() if token not in known)
