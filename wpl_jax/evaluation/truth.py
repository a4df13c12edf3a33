"""True errors of architectures, with which the ranking of a search is compared."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.common.registry import Registry
from wpl_jax.common.settings import check_int
from wpl_jax.supernet import Space

# Trains architectures, int32[n, decisions], from scratch; returns their errors on the
# validation data to the primary process.
Train = Callable[[np.ndarray], list[float]]


class RandomSearch(NamedTuple):
    """Random search, which trains random architectures and selects the best.

    The best is that of the highest validation accuracy after the training. Numbers are
    means over all such searches.
    """

    epochs: int | None  # of each training; None if unknown
    trainings: float | None  # that the time of the search pays for; None if unknown
    error: float | None  # true error of the best of them, and of one if they are fewer
    equal_trainings: float  # until it has the true error of the search; inf for never
    equal_seconds: float  # that they take


class Truth(Protocol):
    """A source of the true errors of architectures.

    A class that inherits from this one has the defaults.

    Attributes:
      epochs: Length of the training from scratch that it needs; None for no training.
    """

    epochs: int | None = None

    def check(self, space: Space) -> None:
        """Raises if it has no errors for the space's architectures; by default, never.

        Args:
          space: The space of the search.

        Raises:
          UserError: If it has none.
        """
        return None

    def of(self, space: Space, choices: np.ndarray, train: Train | None) -> list[float]:
        """The errors of architectures, lower is better, to the primary process.

        Args:
          space: The space of the search.
          choices: ``int32[n, decisions]``.
          train: Trains for :attr:`epochs`; None if these are None.
        """

    def cheaper(self, space: Space, choices: np.ndarray) -> dict[str, np.ndarray]:
        """Estimates of the errors that need no search; by default, none.

        Args:
          space: The space of the search.
          choices: ``int32[n, decisions]``.

        Returns:
          By name ``float64[n]``, lower is better.
        """
        del space, choices
        return {}

    def random_search(
        self, space: Space, seconds: float | None, error: float
    ) -> list[RandomSearch]:
        """What random search reaches that trains architectures; by default, nothing.

        Args:
          space: The space of the search.
          seconds: That a search took; None if unknown.
          error: True error of what the search selected.
        """
        del space, seconds, error
        return []

    @property
    def about(self) -> str:
        """In words, as in "trained from scratch for 10 epochs"."""


@dataclasses.dataclass(frozen=True)
class FromScratch(Truth):
    """Trains each architecture from scratch, equally long.

    Attributes:
      epochs: Passes over the training data.
    """

    epochs: int | None = 10

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_int(self, "epochs", 1)

    def of(self, space, choices, train):
        """The errors after training."""
        del space
        return train(choices)

    @property
    def about(self):
        """The method and its length."""
        return f"trained from scratch for {counted(str(self.epochs), 'epoch')}"


# By name: dataclasses with the methods of :class:`Truth`.
TRUTHS = Registry(
    "wpl_jax.truths",
    {
        "from_scratch": FromScratch,
        "table": "wpl_jax.evaluation.truth_from_table:FromTable",
    },
)
