"""True errors of architectures, with which the ranking of a search is compared."""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from wpl_jax.common.settings import check_int
from wpl_jax.registry import Registry
from wpl_jax.supernet import Space

# Trains architectures, int32[n, decisions], from scratch; returns their errors on the
# validation data to the primary process.
Train = Callable[[np.ndarray], list[float]]


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
        return f"trained from scratch for {self.epochs} epochs"


# By name: dataclasses with the methods of :class:`Truth`.
TRUTHS = Registry(
    "wpl_jax.truths",
    {"from_scratch": FromScratch, "table": "wpl_jax.evaluation.table:FromTable"},
)
