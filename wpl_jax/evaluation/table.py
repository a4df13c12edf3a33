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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.common.paths import as_path
from wpl_jax.errors import UserError, shorten
from wpl_jax.spaces.nasbench201_architectures import OPERATIONS, to_string

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
          UserError: If they are not whole numbers of that shape, or the table lacks one
            of them.

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
        if wanted.dtype.kind not in "iu" or np.any(wanted != wanted.astype(np.int32)):
            raise UserError(
                f"The choices are {shorten(wanted.tolist())} ({wanted.dtype}), "
                f"expected numbers of the choices of {self.space}."
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
    file_path = as_path(path, "the path of a table")
    try:
        with file_path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file, strict=True) if line]
        header, *rows = lines or [[]]
        if not rows or not {"space", "choice"} <= set(header):
            raise ValueError(f"{len(rows)} rows, columns {', '.join(header)}")
        if len(set(header)) < len(header):
            raise ValueError(f"two columns of one name among {', '.join(header)}")
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
    except (OSError, UnicodeError, csv.Error, ValueError, OverflowError) as error:
        raise UserError(
            f"{path} cannot be read as a table ({error}), {expected}"
        ) from error


def _keys(choices: np.ndarray) -> np.ndarray:
    """Each row as one value that can be sorted and compared, ``void[n]``."""
    rows = np.ascontiguousarray(choices, ">i4")
    return rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1])))[:, 0]
