"""Next words of text that no data set holds: the text of a model's user."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.data.text.folder import normalized
from wpl_jax.data.text.levels import END, LEVELS, UNKNOWN
from wpl_jax.data.text.source import TextSplit
from wpl_jax.errors import UserError, for_caller, printable, shorten
from wpl_jax.spaces.words import RecurrentSpace
from wpl_jax.supernet import Architecture, Space
from wpl_jax.tasks.predictor import Table

_AT_ONCE = 16  # lines of a compiled call


@dataclasses.dataclass(frozen=True)
class TextPredictor:
    """How text is prepared for a model.

    Attributes:
      vocabulary: The word, or character, of each number.
      level: ``"word"`` or ``"character"``.
    """

    vocabulary: tuple[str, ...]
    level: str

    name = "text"

    @property
    def labels(self) -> tuple[str, ...]:
        """The vocabulary."""
        return self.vocabulary

    def prepare(self, inputs: Any) -> np.ndarray:
        """Numbers of words, ``int32[batch, time]``.

        Args:
          inputs: The same, without the batch for one sequence; or text. A word that is
            not in the vocabulary is ``<unk>``. At word level each end of a line is
            ``<eos>``.

        Raises:
          UserError: If there are no words, or a word or number is not in the
            vocabulary.
        """
        is_text = isinstance(inputs, str)
        numbers = self.encode(inputs) if is_text else np.asarray(inputs)
        if numbers.ndim == 1:
            numbers = numbers[None]
        if numbers.ndim != 2 or 0 in numbers.shape or numbers.dtype.kind not in "iu":
            raise UserError(
                f"The text is {shorten(inputs)}, expected words, or their numbers as "
                "whole numbers of shape [batch, time]."
            )
        outside = numbers[(numbers < 0) | (numbers >= len(self.vocabulary))]
        if outside.size:
            raise UserError(
                f"The text has the number {outside[0]}, expected numbers from 0 to "
                f"{len(self.vocabulary) - 1}, those of the vocabulary."
            )
        return numbers.astype(np.int32)

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text's words, ``int32[words]``.

        Raises:
          UserError: If a word is not in the vocabulary, which has no ``<unk>``.
        """
        tokens = LEVELS[self.level].split(TextSplit(text, "the text"))
        if self.level == "word" and not text.endswith("\n"):
            tokens = tokens[:-1]  # Its end is not that of a line.
        known = self._numbers
        unknown = [token for token in tokens if token not in known]
        if unknown and UNKNOWN not in known:
            how = for_caller(
                "config.task.data.min_count=2", "load_text(..., min_count=2)"
            )
            raise UserError(
                f"{shorten(unknown[0])} is not in the model's vocabulary of "
                f"{len(known):,} {self.level}s, which has no {UNKNOWN} to stand for "
                f"it: replace it, or train with {how}."
            )
        other = known.get(UNKNOWN, -1)
        return np.array([known.get(token, other) for token in tokens], np.int32)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.vocabulary)}

    def to_network(self, inputs: jax.Array) -> jax.Array:
        """The words as they are."""
        return inputs

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """Log-probabilities, from scores of the vocabulary."""
        return jax.nn.log_softmax(outputs.astype(jnp.float32))

    def apply(
        self,
        space: Space,
        child: Any,
        architecture: Architecture,
        statistics: Any,
        inputs: jax.Array,
    ) -> jax.Array:
        """Log-probabilities of the next words, ``float32[batch, time, vocabulary]``.

        The hidden state is zero before the first word.
        """
        del statistics
        of_words = cast(RecurrentSpace, space)
        state = of_words.initial_state(inputs.shape[0])
        hidden = of_words.apply(child, architecture, inputs, state=state)
        logits = of_words.logits(child, hidden.raw)
        return self.predictions(logits)

    def statistics_form(
        self, space: Space, child: Any, architecture: Architecture
    ) -> Any:
        """None: the model has no batch statistics."""
        del space, child, architecture

    def form(self) -> tuple[tuple[int | str, ...], np.dtype]:
        """Any number of sequences, and any length."""
        return ("batch", "time"), np.dtype(np.int32)

    def source(self) -> tuple[str, str]:
        """Words or characters as numbers."""
        split = 'text.replace("\\n", " <eos> ").split()'
        if self.level == "character":
            split = "text"
        other = f'.get(token, number["{UNKNOWN}"])'
        if UNKNOWN not in self.vocabulary:
            other = "[token]"
        return "text", (
            'LABELS = ABOUT["predictor"]["settings"]["vocabulary"]\n\n\n'
            "def prepare(text):\n"
            f'    """The {self.level}s of a text as numbers, int32[1, n]."""\n'
            "    number = {token: i for i, token in enumerate(LABELS)}\n"
            f"    return jnp.array([[number{other} for token in {split}]])\n"
        )

    def table(self, path: Path, predict: Callable[[np.ndarray], np.ndarray]) -> Table:
        """A row for each line of a file of text, each from a zero state.

        The columns are the number of the line, its words, those that are not in the
        vocabulary, the mean nats and the perplexity of the words and the end of the
        line, and the most probable word after the line with its probability.
        """
        if path.is_dir():
            raise UserError(f"{path} is a folder, expected a file of text.")
        try:
            text = normalized(path.read_bytes().decode())
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is no text: byte {error.start} is not UTF-8."
            ) from error
        if not text:
            raise UserError(f"{path} is empty, expected lines of text.")
        # As in the training text, no other character ends a line.
        lines = text.removesuffix("\n").split("\n")
        columns = ("line", "tokens", "unknown", "loss", "perplexity", "next")
        rows = self._rows(path, lines, predict)
        return Table((*columns, "probability"), rows)

    def _rows(self, path, lines, predict) -> Iterator[tuple[Any, ...]]:
        for first in range(0, len(lines), _AT_ONCE):
            some = lines[first : first + _AT_ONCE]
            try:
                numbers = [self.encode(line) for line in some]
            except UserError as error:
                raise UserError(f"{path}: {error}") from error
            yield from self._rows_of(some, numbers, first, predict)

    def _rows_of(self, lines, numbers, first, predict):
        ends = [self._end] if self._end is not None else []
        # The line is read after the end of one, which a model has often seen.
        inputs = [np.array([*ends, *each], np.int32) for each in numbers]
        longest = max(1, *map(len, inputs))
        width = 2 ** int(np.ceil(np.log2(longest)))  # Few widths are compiled.
        batch = np.zeros((_AT_ONCE, width), np.int32)
        for row, each in zip(batch, inputs, strict=False):
            row[: len(each)] = each
        found = predict(batch)
        unknown = self._numbers.get(UNKNOWN)
        for i, (given, each) in enumerate(zip(inputs, numbers, strict=True)):
            targets = [*given[1:], *ends] if len(given) else []
            losses = [-found[i, t, word] for t, word in enumerate(targets)]
            loss = float(np.mean(losses)) if losses else float("nan")
            best, probability = "", ""
            if len(given):
                last = found[i, len(given) - 1]
                word = int(np.argmax(last))
                best = printable(repr(self.vocabulary[word])[1:-1])
                probability = f"{np.exp(last[word]):.6g}"
            yield (
                first + i + 1,
                len(each),
                int(np.sum(each == unknown)) if unknown is not None else 0,
                f"{loss:.6g}",
                f"{np.exp(loss):.6g}",
                best,
                probability,
            )

    @property
    def _end(self) -> int | None:
        """The number of the end of a line, None if the vocabulary has none."""
        return self._numbers.get(END if self.level == "word" else "\n")
