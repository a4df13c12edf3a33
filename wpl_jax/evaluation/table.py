"""Accuracies and costs of architectures from a table, such as that of NAS-Bench-201.

The package contains the table of NAS-Bench-201: 15,625 architectures, each trained two
or three times. Its figures are those of Dong and Yang, "NAS-Bench-201: Extending the
Scope of Reproducible Neural Architecture Search" (2020), and Dong, Liu, Musial and
Gabrys, "NATS-Bench" (2021, MIT licence). ``tools/nasbench201_table.py`` made the file.
Its columns are, of ``cifar10``, ``cifar100`` and ``imagenet16_120``:

* ``DATA_valid``, ``DATA_test``: mean accuracy after 200 epochs, in per cent. Networks
  are trained on half of CIFAR-10's training images for ``cifar10_valid``, on all for
  ``cifar10_test``.
* ``DATA_test_12_epochs``, ``cifar10_valid_12_epochs``: the same after 12 epochs with a
  learning rate that falls to 0 over these.
* ``DATA_seconds``: seconds of training for 200 epochs on the authors' GPUs; for
  CIFAR-10, on half of the training images.
* ``parameters``, ``flops``: of the network for CIFAR-10. A multiplication and the
  addition to it count as one.
* ``seeds``: number of trainings of 200 epochs.

A table of your own is a CSV file with a header. Column ``space`` holds the name of the
space in each row; ``choice`` holds the choice of each decision, numbers from 0 with
spaces between, such as ``3 3 1 0 4 2``. All other columns hold numbers, or ``nan``
where one is unknown. Columns of accuracies are named ``DATA_SPLIT`` and are in per
cent; other names are free. A ranking is compared with random search if the table has
``DATA_valid`` and ``DATA_seconds``, the seconds of a training. It is also compared with
the accuracies after ``N`` epochs in columns ``DATA_valid_N_epochs``.
"""

import csv
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.common.settings import SettingError, check_choice, require
from wpl_jax.errors import UserError, shorten
from wpl_jax.evaluation.ranking_metrics import (
    best_of_random,
    draws_until,
    kendall_tau,
)
from wpl_jax.evaluation.truth import RandomSearch, Truth
from wpl_jax.spaces.nasbench201_architectures import OPERATIONS, to_string
from wpl_jax.supernet import Space

NASBENCH201 = Path(__file__).with_name("nasbench201.npz")


# Titles of NAS-Bench-201's data sets in figures and tables.
TITLES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "imagenet16_120": "ImageNet16-120",
}


def _numbers(choice: Any) -> str:
    """An architecture as a CSV table writes it."""
    return " ".join(str(int(number)) for number in choice)


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Measurements of architectures of one space.

    Attributes:
      space: Its name.
      choices: ``int32[n, decisions]``, each row once. Those of NAS-Bench-201 are in the
        benchmark's own order: a row is an official index.
      columns: ``float64[n]`` by name.
      epochs: Of the training of ``DATA_SPLIT`` and ``DATA_seconds``; None if unknown.
      names: Names of the choices in the order of their numbers, the same for each
        decision. They match a space that has only some of the choices, or another
        order. Empty if the numbers are those of the space.
      to_text: Writes an architecture as text, a function of its row of ``choices``.
    """

    space: str
    choices: np.ndarray
    columns: Mapping[str, np.ndarray]
    epochs: int | None = None
    names: tuple[str, ...] = ()
    to_text: Callable[[Any], str] = _numbers

    def __post_init__(self) -> None:
        """Checks that choices are not negative, and that no architecture is twice."""
        if not self.choices.size or self.choices.min() < 0:
            raise UserError("The table has no decisions, or choices below 0.")
        ordered = self._keys[self._order]
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if twice.size:
            choice = self.choices[self._order[twice[0]]].tolist()
            raise UserError(
                f"The table has more than one row of architecture {choice}."
            )

    def rows(self, choices: Any) -> np.ndarray:
        """The row of each architecture, ``int64[...]``.

        Args:
          choices: ``int[..., decisions]``.

        Raises:
          UserError: If the table lacks one of them.

        Examples:
          The architecture of 3x3 convolutions alone is number 1462 of NAS-Bench-201:

          >>> int(nasbench201().rows([3, 3, 3, 3, 3, 3]))
          1462
        """
        wanted = np.asarray(choices)
        decisions = self.choices.shape[1]
        if wanted.ndim == 0 or wanted.shape[-1] != decisions:
            raise UserError(
                f"The choices have the shape {wanted.shape}, expected {decisions} "
                f"decisions of {self.space} along the last axis."
            )
        keys = _keys(wanted.reshape(-1, decisions))
        places = np.searchsorted(self._keys[self._order], keys)
        found = self._order[np.minimum(places, len(self._order) - 1)]
        absent = np.flatnonzero(self._keys[found] != keys)
        if absent.size:
            choice = wanted.reshape(-1, decisions)[absent[0]].tolist()
            raise UserError(
                f"The table of {self.space} lacks architecture {shorten(choice)}."
            )
        return found.reshape(wanted.shape[:-1])

    def number(self, names: Sequence[str], choice: Sequence[int]) -> int:
        """The row of one architecture, by names if the table has them.

        Args:
          names: Name of the choice in each decision.
          choice: Number of the same choice in the space.

        Raises:
          UserError: If the table lacks the architecture.

        Examples:
          >>> nasbench201().number(["nor_conv_3x3"] * 6, [2] * 6)
          1462
        """
        if self.names:
            if unknown := sorted(set(names) - set(self.names)):
                raise UserError(
                    f"The table of {self.space} lacks the choice {shorten(unknown[0])}."
                )
            choice = [self.names.index(name) for name in names]
        return int(self.rows(choice))

    def values(self, column: str, choices: Any = None) -> np.ndarray:
        """A column, ``float64[...]``.

        Args:
          column: Its name.
          choices: ``int[..., decisions]``; None for all rows of the table.

        Raises:
          UserError: If the table lacks the column or an architecture.

        Examples:
          >>> nasbench201().values("cifar10_test", [[3] * 6, [1] * 6])
          array([93.76 , 54.297])
        """
        if column not in self.columns:
            raise UserError(
                f"The table of {self.space} lacks column {shorten(column)}, it has "
                f"{', '.join(self.columns)}."
            )
        values = self.columns[column]
        return values if choices is None else values[self.rows(choices)]

    @functools.cached_property
    def _keys(self) -> np.ndarray:
        return _keys(self.choices)

    @functools.cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self._keys)


@functools.cache
def nasbench201() -> Table:
    """The table of NAS-Bench-201, which this module describes.

    Choices are in the order of ``wpl_jax.spaces.nasbench201_architectures.EDGES``.
    """
    with np.load(NASBENCH201) as found:
        named = zip(found["names"], found["values"], found["decimals"], strict=True)
        return Table(
            str(found["space"]),
            found["choices"].astype(np.int32),
            {str(name): column / 10.0**decimals for name, column, decimals in named},
            epochs=200,
            names=OPERATIONS,
            to_text=to_string,
        )


def read(path: str | Path) -> Table:
    """A table from a CSV file, in the format that this module describes.

    Raises:
      UserError: If there is no such file, or it has another format.
    """
    expected = (
        "expected a CSV file with a header, columns 'space' and 'choice', and others "
        "of numbers."
    )
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            header, *rows = list(csv.reader(file, strict=True)) or [[]]
        if not rows or not {"space", "choice"} <= set(header):
            raise ValueError(f"{len(rows)} rows, columns {', '.join(header)}")
        columns = dict(zip(header, zip(*rows, strict=True), strict=True))
        (space,) = set(columns.pop("space"))
        choices = [choice.split() for choice in columns.pop("choice")]
        return Table(
            space,
            np.array(choices).astype(np.int32).reshape(len(rows), len(choices[0])),
            {name: np.array(column).astype(float) for name, column in columns.items()},
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, UnicodeError, csv.Error, ValueError) as error:
        raise UserError(
            f"{path} cannot be read as a table ({error}), {expected}"
        ) from error


def tau_without_search(table: Table, column: str = "cifar10_test") -> dict[str, float]:
    """Rank correlations of two baselines that need no supernet.

    Shared weights are useful for ranking only if they rank architectures better than
    the number of parameters does.

    Args:
      table: As :func:`nasbench201` returns it.
      column: Of the true accuracies.

    Returns:
      Kendall's tau with the true accuracies, of ``"parameters"`` and of the validation
      accuracy on CIFAR-10 after ``"12 epochs"`` of training from scratch.

    Examples:
      >>> {by: round(tau, 3) for by, tau in tau_without_search(nasbench201()).items()}
      {'parameters': 0.577, '12 epochs': 0.594}
    """
    columns = {"parameters": "parameters", "12 epochs": "cifar10_valid_12_epochs"}
    true = table.values(column)
    return {by: kendall_tau(table.values(name), true) for by, name in columns.items()}


@dataclasses.dataclass(frozen=True)
class FromTable(Truth):
    """Reads the error of each architecture in a table.

    Attributes:
      data_set: Of the accuracies: the columns ``DATA_SET_SPLIT``.
      split: ``"valid"`` or ``"test"``.
      path: CSV file, which every process can read; None for NAS-Bench-201.
    """

    data_set: str = "cifar10"
    split: str = "valid"
    path: str | None = None

    def __post_init__(self) -> None:
        """Checks the settings, and that the table has the column."""
        valid = self.path is None or isinstance(self.path, str)
        require(self, "path", valid, "the path of a table, or None")
        check_choice(self, "split", ("valid", "test"))
        try:
            columns = self._table.columns
        except UserError as error:
            raise SettingError("path", self.path, f"a table; {error}") from error
        known = [name for name in columns if name.endswith(f"_{self.split}")]
        expected = f"one whose '_{self.split}' is a column ({', '.join(known)})"
        require(self, "data_set", self._column in known, expected)

    def check(self, space):
        """Raises UserError if the table is of another space."""
        table = self._table
        if space.name != table.space:
            raise UserError(
                f"The table is of the space {shorten(table.space)}, the search is of "
                f"{shorten(space.name)}. Search that space, give another table by "
                "config.ranking.table.path, or set "
                'config.ranking.truth="from_scratch".'
            )
        sizes = [len(decision.choices) for decision in space.decisions]
        own = {name for decision in space.decisions for name in decision.choices}
        fits = table.choices.shape[1] == len(sizes) and (
            own <= set(table.names)
            if table.names
            else np.all(table.choices < np.array(sizes))
        )
        if not fits:
            raise UserError(
                f"The table is of {table.choices.shape[1]} decisions between "
                f"{', '.join(table.names) or table.choices.max(0) + 1} choices, the "
                f"space {space.name} has decisions of {sizes} choices: "
                f"{', '.join(sorted(own))}. Give a table of this space."
            )

    def of(self, space, choices, train):
        """The errors of the table, in per cent."""
        del train
        self.check(space)
        return self._errors(self._column, self._numbers(space, choices)).tolist()

    def cheaper(self, space, choices):
        """The errors after shorter trainings, from the table's columns of them."""
        numbers = self._numbers(space, choices)
        return {
            f"{epochs} epochs of training": self._errors(column, numbers)
            for epochs, column in self._short_trainings
        }

    def random_search(self, space, seconds, error):
        """Random search by the table's validation accuracies and its seconds.

        There is one for each length of training in the table. The time of a shorter
        training is proportional to its epochs. The list is empty if the table lacks the
        columns.
        """
        table = self._table
        valid, times = f"{self.data_set}_valid", f"{self.data_set}_seconds"
        if valid not in table.columns or times not in table.columns:
            return []
        lengths = [(table.epochs, valid)]
        if table.epochs is not None:
            lengths += self._short_trainings
        choices = self._of_space(space)
        true, each = self._errors(self._column, choices), table.values(times, choices)
        found = []
        for epochs, column in lengths:
            estimate, cost = self._errors(column, choices), each.mean()
            if epochs is not None and table.epochs is not None:
                cost *= epochs / table.epochs
            number = None if seconds is None else seconds / cost
            reached = None
            if number is not None:
                reached = best_of_random(true, estimate, max(number, 1))
            equal = draws_until(true, estimate, error)
            found.append(RandomSearch(epochs, number, reached, equal, equal * cost))
        return found

    def _errors(self, column: str, numbers: np.ndarray) -> np.ndarray:
        return 100 - self._table.values(column, numbers)

    @property
    def _short_trainings(self) -> list[tuple[int, str]]:
        """Epochs and column of each shorter training in the table."""
        pattern = re.compile(rf"{re.escape(self.data_set)}_valid_(\d+)_epochs")
        matches = (pattern.fullmatch(name) for name in self._table.columns)
        return [(int(found[1]), found[0]) for found in matches if found]

    def _numbers(self, space: Space, choices: np.ndarray) -> np.ndarray:
        """Choices of a space by the table's numbers, ``int[n, decisions]``."""
        columns = [
            known[column]
            for known, column in zip(self._known(space), choices.T, strict=True)
        ]
        return np.stack(columns, axis=1)

    def _of_space(self, space: Space) -> np.ndarray:
        """The table's architectures that the space has, by the table's numbers."""
        choices = self._table.choices
        there = [
            np.isin(column, known)
            for known, column in zip(self._known(space), choices.T, strict=True)
        ]
        return choices[np.all(there, axis=0)]

    def _known(self, space: Space) -> list[np.ndarray]:
        """The table's numbers of the space's choices, for each decision."""
        names = self._table.names
        return [
            np.array([names.index(name) for name in decision.choices])
            if names
            else np.arange(len(decision.choices))
            for decision in space.decisions
        ]

    @property
    def about(self):
        """The table and its column."""
        where = "NAS-Bench-201" if self.path is None else Path(self.path).name
        return f"by {where} on {self.data_set} ({self.split})"

    @property
    def _column(self) -> str:
        return f"{self.data_set}_{self.split}"

    @functools.cached_property
    def _table(self) -> Table:
        return nasbench201() if self.path is None else read(self.path)


def _keys(choices: np.ndarray) -> np.ndarray:
    """Each row as one value that can be sorted and compared, ``void[n]``."""
    rows = np.ascontiguousarray(choices, ">i4")
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
