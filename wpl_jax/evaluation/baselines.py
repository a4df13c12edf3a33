"""What a table of architectures gives without a search, to compare searches with."""

from collections.abc import Mapping, Sequence

import numpy as np

from wpl_jax.evaluation.table import Table

EPOCHS, SHORT = 200, 12  # of the trainings in a table: those of its seconds, short ones
_SECONDS = "cifar10_seconds"
_VALID, _VALID_SHORT = "cifar10_valid", "cifar10_valid_12_epochs"


def random_search(
    table: Table, seconds: float, trials: int = 1000, seed: int = 0
) -> np.ndarray:
    """Random searches that train architectures briefly until their time is over.

    Each trial draws architectures and trains them on CIFAR-10 for 12 epochs with a
    learning rate that falls to 0. It returns the one with the best validation accuracy
    after that (Dong and Yang, 2020, give this search 12,000 seconds).

    Args:
      table: With the columns of :func:`wpl_jax.evaluation.table.nasbench201`.
      seconds: Budget, as the table counts seconds. The first architecture is trained
        even if it takes longer.
      trials: Number of searches.
      seed: Of the drawing.

    Returns:
      The row that each search finds, ``int[trials]``.

    Raises:
      UserError: If the table lacks a column.

    Examples:
      >>> from wpl_jax.evaluation.table import nasbench201
      >>> found = random_search(nasbench201(), seconds=12_000)
      >>> print(f"{nasbench201().columns['cifar10_valid'][found].mean():.1f}")
      91.0
    """
    costs = table.values(_SECONDS) * SHORT / EPOCHS
    scores = table.values(_VALID_SHORT)
    most = 1 + int(seconds / costs.min())
    random, found = np.random.default_rng(seed), []
    for _ in range(trials):
        drawn = random.integers(len(costs), size=most)
        trained = max(1, np.searchsorted(np.cumsum(costs[drawn]), seconds, "right"))
        found.append(drawn[np.argmax(scores[drawn[:trained]])])
    return np.array(found)


def baselines(
    table: Table, columns: Sequence[str], budgets: Sequence[float]
) -> dict[str, Mapping[str, np.ndarray]]:
    """Accuracies of architectures that no search has found.

    Args:
      table: Of the architectures.
      columns: Accuracies of the table.
      budgets: Seconds of random searches.

    Returns:
      By baseline and column, accuracies of all architectures or trials. A random search
      needs trainings of 12 epochs and their seconds. The best by validation needs the
      validation accuracy on CIFAR-10. A table without these columns lacks the baseline.
    """

    def at(rows):
        return {column: table.values(column)[rows] for column in columns}

    found = {"random architecture": at(slice(None))}
    if {_SECONDS, _VALID_SHORT} <= table.columns.keys():
        for seconds in budgets:
            title = f"random search, {seconds:,.0f} s"
            found[title] = at(random_search(table, seconds))
    if _VALID in table.columns:
        found["best by validation"] = at([int(np.nanargmax(table.values(_VALID)))])
    found["best there is"] = {
        column: np.array([np.nanmax(table.values(column))]) for column in columns
    }
    return found
