"""The truth of a ranking from a table: no architecture is trained."""

import dataclasses
import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wpl_jax.common.settings import SettingError, check_choice, require
from wpl_jax.errors import UserError, shorten
from wpl_jax.evaluation.ranking_metrics import best_of_random, draws_until
from wpl_jax.evaluation.table import Table, nasbench201, read
from wpl_jax.evaluation.truth import RandomSearch, Truth
from wpl_jax.supernet import Space


def is_truth_of(config: Mapping[str, Any]) -> bool:
    """Whether a run's configuration takes a table for the truth (``ranking.truth``).

    A table of the run's space is not enough. On a user's own images an architecture
    has another accuracy than in the table.
    """
    return config.get("ranking", {}).get("truth") == "table"


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
        columns, or the error is nan. Architectures of which the table does not have all
        values are left out.
        """
        table = self._table
        valid, times = f"{self.data_set}_valid", f"{self.data_set}_seconds"
        has_columns = valid in table.columns and times in table.columns
        if not has_columns or not np.isfinite(error):
            return []
        lengths = [(table.epochs, valid)]
        if table.epochs is not None:
            lengths += self._short_trainings
        choices = self._of_space(space)
        true, each = self._errors(self._column, choices), table.values(times, choices)
        found = []
        for epochs, column in lengths:
            estimate = self._errors(column, choices)
            there = np.isfinite([true, estimate, each]).all(0)
            if not there.any():
                continue
            of_all, cost = (true[there], estimate[there]), each[there].mean()
            if epochs is not None and table.epochs is not None:
                cost *= epochs / table.epochs
            number = None if seconds is None else seconds / cost
            reached = None
            if number is not None:
                reached = best_of_random(*of_all, max(number, 1))
            equal = draws_until(*of_all, error)
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
