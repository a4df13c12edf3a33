"""The protocol of a section of the report of searches, and statistics over seeds."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from wpl_jax.reports.page import COLORS, Page
from wpl_jax.reports.searched import Columns, Searched
from wpl_jax.strategies import Strategy


class Report(NamedTuple):
    """The searches that a report shows.

    Attributes:
      workdir: Folder of the run.
      config: Of the run.
      arms: Finished searches of each arm, one for each seed. The first arm is the main
        one.
      about: A line about the data.
      start_epoch: First epoch whose children leave a Fisher; None if none do.
      strategies: Of each arm, or of none.
      ranks: What :func:`wpl_jax.evaluation.rank_files.read_ranks` read; None if no
        architectures have been ranked.
      flags: Of the command line, that choose the configuration and its fields.
    """

    workdir: Path
    config: dict[str, Any]
    arms: dict[str, list[Searched]]
    about: str
    start_epoch: int | None
    strategies: Mapping[str, Strategy] = MappingProxyType({})
    ranks: dict[str, Any] | None = None
    flags: Sequence[str] = ()

    @property
    def searches(self) -> list[Searched]:
        """The searches of all arms."""
        return [one for seeds in self.arms.values() for one in seeds]

    @property
    def error_name(self) -> str:
        """Name of the task's error."""
        return self.searches[0].results["error_name"]

    @property
    def loss_name(self) -> str:
        """What the task calls its loss: its unit, or "loss"."""
        # Earlier runs did not write it; theirs were cross-entropies.
        return self.searches[0].results.get("loss_name", "nats")

    def colored(self) -> Iterator[tuple[str, list[Searched], str]]:
        """The arms, each with a color."""
        for (arm, seeds), color in zip(
            self.arms.items(), itertools.cycle(COLORS), strict=False
        ):
            yield arm, seeds, color

    def recording(self, column: str) -> Iterator[tuple[str, list[Searched], str]]:
        """The arms whose searches record a column of the metrics, each with a color."""
        for arm, seeds, color in self.colored():
            if all(column in one.metrics[0] for one in seeds):
                yield arm, seeds, color

    @property
    def has_others(self) -> bool:
        """Whether an epoch trains other children after a child, so that it can forget.

        Where it trains one, err2 is err1.
        """
        lasts = (one.metrics[-1]["children/err1"] for one in self.searches)
        return any(len(errors) > 1 for errors in lasts)

    def of_search(self, name: str, arms: Iterable[str] | None = None) -> set[int]:
        """The values of a field of ``config.search``, which arms may change.

        Args:
          name: Of the field.
          arms: The arms that count; None for all.
        """
        common, changes = self.config["search"], self.config["arms"]
        of_arms = (changes.get(arm, {}).get("search", {}) for arm in arms or self.arms)
        return {{**common, **own}[name] for own in of_arms}

    def under_penalty(self, curve: np.ndarray) -> np.ndarray:
        """The epochs in which penalties are on; all if no arm has a penalty."""
        start = self.start_epoch
        first = 0 if start is None else min(start + 1, len(curve) - 1)
        return curve[first:]


class Section(NamedTuple):
    """A section of the report.

    Attributes:
      show: Adds the section to the page, or nothing if no search has what it shows.
      columns: Of the metrics, that it reads beside those of the children.
    """

    show: Callable[[Page, Report], None]
    columns: Columns = Columns()


def span(values: Iterable[int]) -> str:
    """Numbers as their range.

    Examples:
      >>> span([50, 1, 8]), span([50, 50])
      ('1 to 50', '50')
    """
    found = list(values)
    return " to ".join(map(str, sorted({min(found), max(found)})))


def mean(values: np.ndarray) -> float:
    """The mean of the finite values, nan if there are none."""
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")


def spread(values: Sequence[float], digits: int) -> str:
    """The mean, and its standard error if there are several values."""
    average = f"{np.mean(values):.{digits}f}"
    if len(values) == 1:
        return average
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{average} ± {error:.{digits}f}"
