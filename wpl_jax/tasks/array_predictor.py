"""Predictions for arrays that no data set holds: those of a model's user."""

import csv
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.data.arguments import require_array
from wpl_jax.errors import UserError, shorten
from wpl_jax.tasks.array_data import to_inputs
from wpl_jax.tasks.example_predictor import ExamplePredictor
from wpl_jax.tasks.kinds import KINDS
from wpl_jax.tasks.network_call import standardized
from wpl_jax.tasks.predictor import Table

_AT_ONCE = 64  # examples of a compiled call


@dataclasses.dataclass(frozen=True)
class ArrayPredictor(ExamplePredictor):
    """How arrays are prepared for a model.

    Attributes:
      shape: Of an input.
      dtype: Of inputs, ``"float32"`` or ``"int32"``.
      kind: Of the targets, as in :func:`wpl_jax.task`.
      classes: Name of each class; None if targets are no classes.
      mean: Of each feature over the training inputs; None without standardization.
      deviation: Standard deviation of each feature, the same.
    """

    shape: tuple[int, ...]
    dtype: str
    kind: str | None = None
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None

    name = "arrays"

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes; without classes there are none."""
        return self.classes or ()

    def prepare(self, inputs: Any) -> np.ndarray:
        """Inputs as a batch, ``[batch, ...]``.

        Args:
          inputs: The same, or one input.

        Raises:
          UserError: If they have another size, or are not finite.
        """
        found = require_array(inputs, "inputs")
        if found.shape == self.shape:
            found = found[None]
        if found.ndim != len(self.shape) + 1 or found.shape[1:] != self.shape:
            raise UserError(
                f"The inputs have shape {found.shape}, expected "
                f"[n, {', '.join(map(str, self.shape))}], that of the training inputs."
            )
        if self.dtype == "float32" and np.issubdtype(found.dtype, np.integer):
            found = found.astype(np.float64)  # Beyond int32 they are numbers as well.
        found = to_inputs(found, "inputs")
        if self.dtype == "int32" and found.dtype != np.int32:
            raise UserError(
                f"The inputs are {found.dtype}, expected whole numbers, as the "
                "training inputs were."
            )
        return found.astype(self.dtype)

    def to_network(self, inputs: jax.Array) -> jax.Array:
        """Inputs as the network takes them."""
        if self.mean is None or self.deviation is None:
            return inputs
        mean, deviation = jnp.float32(self.mean), jnp.float32(self.deviation)
        return standardized(inputs, mean, deviation)

    def predictions(self, outputs: jax.Array) -> jax.Array:
        """By the kind of targets: log-probabilities, or the outputs themselves."""
        return KINDS[self.kind].predictions(outputs)

    def form(self) -> tuple[tuple[int | str, ...], np.dtype]:
        """Any number of inputs."""
        return ("batch", *self.shape), np.dtype(self.dtype)

    def source(self) -> tuple[str, str]:
        """As :meth:`to_network`."""
        body = "    return jnp.asarray(inputs)\n"
        if self.mean is not None:
            body = (
                '    mean, deviation = SETTINGS["mean"], SETTINGS["deviation"]\n'
                "    return (inputs - jnp.array(mean)) / jnp.array(deviation)\n"
            )
        shape = ", ".join(map(str, self.shape))
        return "inputs", (
            'SETTINGS = ABOUT["predictor"]["settings"]\n'
            'LABELS = SETTINGS["classes"]\n\n\n'
            "def prepare(inputs):\n"
            f'    """Inputs, {self.dtype}[n, {shape}], standardized."""\n'
            f"{body}"
        )

    def table(self, path: Path, predict: Callable[[np.ndarray], np.ndarray]) -> Table:
        """A row for each example of a ``.npy`` or ``.csv`` file.

        A ``.csv`` file has a row for each example and a column for each feature. A
        first row without a number has their names, and is skipped. So has one with the
        numbers of the columns, 0, 1, 2, ..., above a row that is not of whole numbers,
        as data frames without names are written. The note of the table says what the
        first row was taken for. The columns of the
        table are the number of the example and, of classes, the class, its probability
        and the probabilities of all; otherwise the outputs.
        """
        inputs, note = self._read(path)
        if self.classes:
            columns: tuple[str, ...] = (
                "example",
                "class",
                "probability",
                *self.classes,
            )
        else:
            count = int(np.prod(self._run(inputs[:1], predict).shape[1:]))
            outputs = [f"output_{i}" for i in range(count)]
            columns = ("example", *(outputs if count > 1 else ["output"]))
        return Table(columns, self._rows(inputs, predict), note)

    def _rows(self, inputs, predict) -> Iterator[tuple[Any, ...]]:
        for first in range(0, len(inputs), _AT_ONCE):
            found = self._run(inputs[first : first + _AT_ONCE], predict)
            for number, row in enumerate(found.reshape(len(found), -1), first):
                if not self.classes:
                    yield (number, *(f"{x:.6g}" for x in row))
                    continue
                probabilities = np.exp(row)
                best = int(np.argmax(row))
                each = (f"{p:.6g}" for p in probabilities)
                yield (number, self.classes[best], f"{probabilities[best]:.6g}", *each)

    def _run(self, some, predict):
        padding = np.zeros((_AT_ONCE - len(some), *self.shape), some.dtype)
        return predict(np.concatenate([some, padding]))[: len(some)]

    def _read(self, path: Path) -> tuple[np.ndarray, str]:
        """The inputs, and a note about what they were taken for."""
        try:
            if path.suffix.lower() == ".csv":
                found, note = self._read_csv(path)
                return self._checked(path, found), f"{path}: {note}"
            return self._checked(path, np.load(path, allow_pickle=False)), ""
        except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{path} cannot be read: {error}.") from error
        except UserError:
            raise
        except ValueError as error:
            raise UserError(
                f"{path} cannot be read as numbers: {error}. Give a .npy file, or a "
                ".csv file with a row for each example."
            ) from error

    def _checked(self, path: Path, inputs: np.ndarray) -> np.ndarray:
        try:
            return self.prepare(inputs)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def _read_csv(self, path: Path) -> tuple[np.ndarray, str]:
        # With the mark that spreadsheets begin a file with, or without.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            lines = [(reader.line_num, row) for row in reader if row]
        note = "the first line is an example"
        if lines and _has_names([row for _, row in lines[:2]]):
            note = "the first line has the names of the columns, and is skipped"
            lines = lines[1:]
        if not lines:
            raise ValueError("it has no line of numbers")
        rows = [self._numbers(number, row) for number, row in lines]
        return np.array(rows).reshape(len(rows), *self.shape), note

    def _numbers(self, line: int, row: list[str]) -> list[Any]:
        """The numbers of a line; a ValueError about what is none."""
        size = math.prod(self.shape)
        if len(row) != size:
            raise ValueError(
                f"line {line} has {counted(len(row), 'value')}, expected {size}, those "
                "of one input, separated by commas and without an index"
            )
        wrong = [cell for cell in row if not _is_number(cell)]
        if wrong:
            raise ValueError(f"line {line} has {shorten(wrong[0])} among its numbers")
        dtype = np.int64 if self.dtype == "int32" else np.float64
        return [dtype(cell) for cell in row]


def _has_names(rows: list[list[str]]) -> bool:
    """Whether the first of two lines has the names of columns.

    It does without numbers, and with those of the columns above a line with other than
    whole numbers.
    """
    first, *others = ([cell.strip() for cell in row] for row in rows)
    if not any(map(_is_number, first)):
        return True
    counted_up = first == [str(i) for i in range(len(first))]
    return counted_up and not all(cell.isdecimal() for row in others for cell in row)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
