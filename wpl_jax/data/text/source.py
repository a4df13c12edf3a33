"""What a reader of one format of text hands over."""

from collections.abc import Callable
from typing import NamedTuple


class TextSplit(NamedTuple):
    """One split, as it is read: decoded, its lines ended by a newline each."""

    text: str
    where: str  # the file it was read from, for messages


class TextSource(NamedTuple):
    """The three splits of a text, before they are cut into tokens."""

    train: TextSplit
    valid: TextSplit
    test: TextSplit
    name: str  # where it was read from, for messages and reports


# Called with the path (or None) and the format's own options as keywords.
TextReader = Callable[..., TextSource]
