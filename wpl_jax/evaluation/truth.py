"""What architectures are truly worth, to which a search's ranking is compared."""

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
    """A judge of architectures.

    A class that inherits from this one has the defaults.

    Attributes:
      epochs: Of the training from scratch that it asks for; None if it asks for none.
    """

    epochs: int | None = None

    def check(self, space: Space) -> None:
        """Refuses a space whose architectures it cannot judge; the default accepts all.

        Args:
          space: The space of the search.

        Raises:
          UserError: If it refuses.
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
        """The way and the length."""
        return f"trained from scratch for {self.epochs} epochs"


# By name: dataclasses with the methods of :class:`Truth`.
TRUTHS = Registry(
    "wpl_jax.truths",
    {"from_scratch": FromScratch, "table": "wpl_jax.evaluation.table:FromTable"},
)
