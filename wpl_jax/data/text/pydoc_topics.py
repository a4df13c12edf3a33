"""A small English text that needs no download: the topics of Python's help()."""

import hashlib
import platform
import re
from collections.abc import Mapping

from wpl_jax.data.errors import DataError
from wpl_jax.data.files import PathLike
from wpl_jax.data.text.source import TextSource, TextSplit

# A word with its contracted ending ("isn't"), or one mark.
_TOKEN = re.compile(r"\w+(?:'(?:s|t|d|m|re|ve|ll)\b)?|[^\w\s]")
# Underlines of headings and rules of tables, which are drawings, not language.
_RULE = re.compile(r"^ *[^\w\s(){}\[\]]{4,} *$", re.MULTILINE)
_STRAIGHT_QUOTES = str.maketrans("\u2018\u2019\u201c\u201d", "''\"\"")

_SHARE = 0.1  # of all tokens, for each of test and valid
# The largest part of such a share that one topic may take, so that each has
# several topics and not mostly one.
_LARGEST = 0.25


def read_pydoc(path: PathLike | None = None) -> TextSource:
    """Reads the documentation that Python carries for ``help("topics")``.

    It is the language reference and a part of the library reference, some 80,000
    tokens about Python's syntax and types. **It differs a little between Python
    versions**, and so do results on it: compare those of one version.

    The text is lower-cased, and curly quotes are made straight. Underlines of
    headings and rules of tables are dropped. A token is a run of letters, digits
    and underscores with a contracted ending ("isn't"), or one mark of punctuation;
    a line is a paragraph, its tokens separated by single spaces.

    Many topics are also a part of a longer one. A paragraph is kept once, in the
    shortest topic that has it: no paragraph is in two splits. Whole topics then go
    to a split, in an order given by the SHA-256 of their names: to test while it
    has less than a tenth of the tokens, else to valid likewise, else to train.

    Args:
      path: None; the text is inside Python.

    Returns:
      The three splits, about 10 % of the tokens in each of valid and test.

    Raises:
      DataError: A path was given, or this Python comes without the text.
    """
    if path is not None:
        expected = "no path: the text comes with Python"
        remedy = "leave it out, or change the format"
        raise DataError("path", str(path), expected, remedy, "path")
    name = f"pydoc topics of Python {platform.python_version()}"
    parts = _own_paragraphs(_import_topics(name))
    names = _divide({topic: _count(lines) for topic, lines in parts.items()})
    train, valid, test = (
        TextSplit(
            "".join(f"{line}\n" for topic in names[split] for line in parts[topic]),
            f"{name}, {split}",
        )
        for split in ("train", "valid", "test")
    )
    return TextSource(train, valid, test, name)


def _import_topics(name: str) -> Mapping[str, str]:
    """The topics; some systems leave them out to save space."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        found = f"a Python without its help texts ({error})"
        remedy = "install Python with its full standard library, or use another format"
        raise DataError(name, found, "the module pydoc_data.topics", remedy) from error
    return topics


def _own_paragraphs(topics: Mapping[str, str]) -> dict[str, list[str]]:
    """The tokenised paragraphs of each topic, none of them in two topics."""
    seen: set[str] = set()
    own = {}
    for topic in sorted(topics, key=lambda topic: (len(topics[topic]), topic)):
        paragraphs = [p for p in _paragraphs(topics[topic]) if p not in seen]
        own[topic] = list(dict.fromkeys(paragraphs))
        seen.update(paragraphs)
    return {topic: own[topic] for topic in sorted(own) if own[topic]}


def _paragraphs(text: str) -> list[str]:
    """The paragraphs of a topic, one line each, tokens separated by spaces."""
    text = _RULE.sub("", text.lower().translate(_STRAIGHT_QUOTES))
    lines = (" ".join(_TOKEN.findall(part)) for part in re.split(r"\n\s*\n", text))
    return [line for line in lines if line]


def _count(lines: list[str]) -> int:
    """The number of words in lines, with one end of line for each."""
    return sum(len(line.split()) + 1 for line in lines)


def _divide(sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """The topics of each split, in alphabetical order.

    Python's own hash of a str is another in each process, SHA-256 is not. A
    topic's place depends little on what others there are, so that the splits of
    different Python versions have most of their topics in common.
    """
    share = _SHARE * sum(sizes.values())
    names: dict[str, list[str]] = {"test": [], "valid": [], "train": []}
    for topic in sorted(sizes, key=lambda t: hashlib.sha256(t.encode()).digest()):
        fits = (
            split
            for split in ("test", "valid")
            if sizes[topic] <= _LARGEST * share
            and sum(sizes[t] for t in names[split]) + sizes[topic] <= share
        )
        names[next(fits, "train")].append(topic)
    return {split: sorted(topics) for split, topics in names.items()}
