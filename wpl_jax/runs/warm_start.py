"""Weights that training starts from: those of another search or training.

What fits by its path and shape is taken. Of parameters with a row for each word
(:attr:`wpl_jax.supernet.Space.word_rows`) the rows of words are taken that both
vocabularies have. All else stays as it is initialized, and is listed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.checks import leaves_by_path
from wpl_jax.errors import UserError
from wpl_jax.runs.checkpoint_reader import read_arrays
from wpl_jax.runs.run_directory import CHECKPOINTS
from wpl_jax.runs.run_files import TEXT, list_of, read_json, to_json, write_atomically
from wpl_jax.supernet import Architecture, Space, gather, num_choices, scatter

WORDS_FILE = "words.json"
_OF_SEARCH, _OF_CHILD = "shared/params/", "best/"
_MOST_LISTED = 20


class Source(NamedTuple):
    """The weights of another search or training."""

    folder: Path
    step: int  # of the checkpoint
    arrays: dict[str, np.ndarray]  # by path, such as "classifier/kernel"
    choice: np.ndarray | None  # of a training of one architecture; None of a search
    words: tuple[str, ...] | None  # the vocabulary, where it is known


class Taken(NamedTuple):
    """Parameters with the weights of a source, and what was taken."""

    params: Any  # of numpy arrays
    fitting: list[str]  # paths
    partly: list[str]  # of what fits for some words, a line each
    fresh: list[str]  # of what does not fit, a line each

    @property
    def is_empty(self) -> bool:
        """Whether nothing fits."""
        return not self.fitting and not self.partly

    def describe(self) -> str:
        """How many arrays fit, and a line for each that does not."""
        number = len(self.fitting) + len(self.partly)
        total = number + len(self.fresh)
        lines = [f"{number} of {total} arrays fit.", *self.partly, *self.fresh]
        left = len(lines) - _MOST_LISTED
        if left > 0:
            lines = [*lines[:_MOST_LISTED], f"and {left} more"]
        return "\n  ".join(lines)


def write_words(folder: Path, words: Sequence[str]) -> None:
    """Keeps the vocabulary of a search or a training, for who starts from it."""
    write_atomically(folder / WORDS_FILE, to_json({"words": list(words)}))


def read_source(folder: Path) -> Source:
    """The weights in a folder of a search, or of a training from scratch.

    Those of a search are the shared weights of its newest checkpoint; those of a
    training the ones with the lowest validation error.

    Args:
      folder: With ``checkpoints``.

    Raises:
      UserError: If there is no checkpoint, or it holds no such weights.
    """
    step, every = read_arrays(folder / CHECKPOINTS)
    kind = _OF_SEARCH if any(p.startswith(_OF_SEARCH) for p in every) else _OF_CHILD
    arrays = {p.removeprefix(kind): a for p, a in every.items() if p.startswith(kind)}
    if not arrays:
        raise UserError(
            f"The checkpoint {step} in {folder} is neither that of a search nor that "
            "of a training from scratch. Give the folder of one."
        )
    choice = np.asarray(every["choice"]) if kind == _OF_CHILD else None
    path, words = folder / WORDS_FILE, None
    if path.exists():
        remedy = "Restore it from a copy, or delete it to start without its words."
        words = tuple(read_json(path, {"words": list_of(TEXT)}, remedy)["words"])
    return Source(folder, step, arrays, choice, words)


def start_from(
    source: Source, space: Space, params: Any, words: Sequence[str] | None
) -> Taken:
    """The shared parameters of a space, with those of a source that fit.

    The weights of one architecture go to the rows that it uses.

    Args:
      source: The weights.
      space: The space.
      params: Its initial parameters.
      words: Its vocabulary; None of a space without one.
    """
    choice = source.choice
    if choice is None:
        return _take(source, space, params, words)
    params = jax.tree.map(jnp.asarray, params)
    counts = num_choices(space.decisions)
    if len(choice) != len(counts) or np.any(choice >= np.array(counts, int)):
        # Of another space: its rows cannot be those of this one.
        rows = jax.tree.map(lambda _: slice(None), params)
    else:
        rows = space.rows(Architecture(jnp.asarray(choice, jnp.int32)))
    taken = _take(source, space, gather(params, rows), words)
    return taken._replace(params=jax.device_get(scatter(params, rows, taken.params)))


def _take(
    source: Source, space: Space, params: Any, words: Sequence[str] | None
) -> Taken:
    """What fits of a source, and lines about what does not."""
    fitting: list[str] = []
    partly: list[str] = []
    fresh: list[str] = []
    leaves, tree = jax.tree.flatten(params)
    found = []
    for (path, leaf), own in zip(leaves_by_path(params), leaves, strict=True):
        del leaf
        new = np.array(own)
        found.append(new)
        there = source.arrays.get(path)
        if there is None:
            fresh.append(f"{path}: {_shape(new)} here, nothing there")
        elif path in space.word_rows and words is not None:
            same = _take_words(new, there, words, source.words)
            if same:
                partly.append(f"{path}: {same:,} of {len(words):,} words are taken")
            else:
                fresh.append(f"{path}: {_why_no_words(new, there, source)}")
        elif there.shape == new.shape:
            new[...] = there
            fitting.append(path)
        else:
            fresh.append(f"{path}: {_shape(new)} here, {_shape(there)} there")
    return Taken(jax.tree.unflatten(tree, found), fitting, partly, fresh)


def _take_words(new, there, words, their_words) -> int:
    """Copies the rows of words that both have; how many there are."""
    if their_words is None or len(their_words) != len(there):
        return 0
    if there.shape[1:] != new.shape[1:]:
        return 0
    places = {word: i for i, word in enumerate(their_words)}
    pairs = [(i, places[word]) for i, word in enumerate(words) if word in places]
    for here, other in pairs:
        new[here] = there[other]
    return len(pairs)


def _why_no_words(new, there, source) -> str:
    shapes = f"{_shape(new)} here, {_shape(there)} there"
    if source.words is None:
        return f"{shapes}; {source.folder} has no {WORDS_FILE}"
    return f"{shapes}; no row can be taken by its word"


def _shape(array) -> str:
    return f"{array.dtype}{list(array.shape)}"
