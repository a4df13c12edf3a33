"""The levels at which a text is cut into tokens: words or characters."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from wpl_jax.data.errors import DataError
from wpl_jax.data.text.source import TextSplit

END = "<eos>"  # the end of a line, at word level
UNKNOWN = "<unk>"  # what stands for every token outside the vocabulary


class Level(NamedTuple):
    """How a text becomes tokens, and tokens a text."""

    # A str is a sequence of characters, and faster than a list of them.
    split: Callable[[TextSplit], Sequence[str]]
    join: Callable[[Sequence[str]], str]
    specials: tuple[str, ...]  # tokens that the smallest vocabulary has to hold
    passage: int  # tokens in a row that are in two texts only by copying


def split_words(split: TextSplit) -> list[str]:
    """The words of a text, between whitespace, and an ``<eos>`` at each line's end.

    An empty line is an ``<eos>`` alone. A last line without a newline ends as any
    other (Mikolov's convention for the Penn Treebank).

    Args:
      split: The text.

    Returns:
      The tokens.

    Raises:
      DataError: The text itself has a word ``<eos>``: ends of lines would count
        twice, or those of sentences could not be told from them.
    """
    text, where = split
    lines = text.count("\n") + (not text.endswith("\n"))
    words = text.replace("\n", f" {END} ").split()
    if not text.endswith("\n"):
        words.append(END)
    if words.count(END) != lines:
        number = _line_of(END, text)
        found = f"the word {END} in line {number}"
        expected = f"text without {END}, which is added at each line's end"
        raise DataError(where, found, expected, f"remove every {END} from the file")
    return words


def _line_of(word: str, text: str) -> int:
    """The number, from 1, of the first line that has a word."""
    lines = enumerate(text.split("\n"), start=1)
    return next(number for number, line in lines if word in line.split())


def join_words(tokens: Sequence[str]) -> str:
    """The text of words: single spaces between them, a newline for ``<eos>``."""
    # Words hold no whitespace: every newline here is the end of a line.
    text = " ".join("\n" if token == END else token for token in tokens)
    return text.replace(" \n", "\n").replace("\n ", "\n")


def split_characters(split: TextSplit) -> str:
    """The characters of a text, newlines and all other whitespace included."""
    return split.text


LEVELS = {
    "word": Level(split_words, join_words, (END, UNKNOWN), passage=50),
    "character": Level(split_characters, "".join, (UNKNOWN,), passage=250),
}
