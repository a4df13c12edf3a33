"""A folder of text: one file a split."""

import re
from pathlib import Path

from wpl_jax.common.counted import counted
from wpl_jax.data.errors import DataError
from wpl_jax.data.files import (
    PathLike,
    contents,
    entries,
    read_bytes,
    require_folder,
    require_path,
)
from wpl_jax.data.text.source import TextSource, TextSplit

_SPLITS = ("train", "valid", "test")
_LAYOUT = "train.txt, valid.txt and test.txt"
_EXPECTED = "text in UTF-8"
_SOURCE = (
    "for Penn Treebank, take ptb.train.txt, ptb.valid.txt and ptb.test.txt out of "
    "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz"
)
_FILE = re.compile(r"(?P<corpus>(?:.+\.)?)(?P<split>train|valid|test)\.txt")


def read_text_folder(path: PathLike | None = None) -> TextSource:
    """Reads a folder of text files.

    The files are ``train.txt``, ``valid.txt`` and ``test.txt``, or all three with
    the same word and a dot before that, e.g. ``ptb.train.txt``. Other files are
    not looked at. A byte order mark at a file's beginning is dropped, and lines
    may end with any system's newline, as in Python's text files.

    Args:
      path: The folder that holds the three files.

    Returns:
      The text of the files.

    Raises:
      DataError: A file is missing, empty, only whitespace, binary or not UTF-8,
        or it is not clear which files are meant.
    """
    expected = f"a folder with {_LAYOUT}"
    root = require_folder(require_path(path, expected, _SOURCE), expected)
    files = _find_files(root)
    train, valid, test = (
        TextSplit(read_text(files[name]), str(files[name])) for name in _SPLITS
    )
    return TextSource(train, valid, test, str(root))


def read_text(file: Path) -> str:
    r"""The text of one file.

    Args:
      file: The file, in UTF-8.

    Returns:
      Its text without a byte order mark, every newline as ``"\n"``.

    Raises:
      DataError: The file is missing, empty, only whitespace, binary or not UTF-8.
    """
    data = read_bytes(file, _EXPECTED)
    # UTF-8 has a place for NUL, but text does not use it.
    nul = data.find(b"\0")
    if nul >= 0:
        found = f"a NUL byte at {_place(data, nul)}: a binary file or UTF-16,"
        remedy = "unpack it if it is compressed, or convert it to UTF-8"
        raise DataError(file, f"{found} beginning with {data[:8]!r}", _EXPECTED, remedy)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte = f"0x{data[error.start]:02x}"
        found = f"{byte} at {_place(data, error.start)}: that is not UTF-8"
        remedy = "convert the file, for instance with `iconv -f LATIN1 -t UTF-8`"
        raise DataError(file, found, _EXPECTED, remedy) from error
    text = normalized(text)
    if not text.strip():
        found = f"only whitespace ({counted(len(data), 'byte')})"
        raise DataError(file, found, _EXPECTED, "put text into it")
    return text


def normalized(text: str) -> str:
    r"""A file's text without a byte order mark, with every newline as ``"\n"``."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _place(data: bytes, offset: int) -> str:
    """Where a byte is, for a message."""
    line = data.count(b"\n", 0, offset) + 1
    return f"byte offset {offset} (line {line})"


def _find_files(root: Path) -> dict[str, Path]:
    """The file of each split."""
    corpora: dict[str, dict[str, Path]] = {}
    for path in entries(root):
        if match := _FILE.fullmatch(path.name):
            corpora.setdefault(match["corpus"], {})[match["split"]] = path
    complete = [corpus for corpus, files in corpora.items() if len(files) == 3]
    if len(complete) == 1:
        return corpora[complete[0]]
    if complete:
        names = ", ".join(f"{corpus}train.txt" for corpus in complete)
        remedy = "put each text's three files into a folder of their own"
        raise DataError(root, f"several texts ({names})", _LAYOUT, remedy)
    # The most complete one is likely what was meant.
    corpus = max(corpora, key=lambda name: len(corpora[name]), default="")
    raise _missing_split(root, corpus, set(corpora.get(corpus, ())))


def _missing_split(root: Path, corpus: str, present: set[str]) -> DataError:
    """The error for a folder that lacks a split."""
    name = next(name for name in _SPLITS if name not in present)
    file = root / f"{corpus}{name}.txt"
    remedy = f"put the file {file} there, with text that is in no other split"
    for alias in ("val", "validation", "dev"):
        other = root / f"{corpus}{alias}.txt"
        if name == "valid" and other.exists():
            remedy = f"rename {other} to {file}"
    found = f"no {file.name}, but {contents(root, like=file.name)}"
    return DataError(root, found, _LAYOUT, remedy)
