"""Baselines from a table of architectures, with which searches are compared."""

from collections.abc import Mapping, Sequence

import numpy as np

from wpl_jax.evaluation.table import Table

EPOCHS, SHORT = 200, 12  # of a training in the table; the seconds are those of 200
_SECONDS = "cifar10_seconds"
_VALID, _VALID_SHORT = "cifar10_valid", "cifar10_valid_12_epochs"


def random_search(
    table: Table, seconds: float, trials: int = 1000, seed: int = 0
) -> np.ndarray:
    """Random searches that train architectures briefly until their time is over.

    Each trial draws architectures whose seconds and accuracy are known, and trains them
    on CIFAR-10 for 12 epochs with a learning rate that falls to 0. It returns the one
    with the best validation accuracy after that (Dong and Yang, 2020, give this search
    12,000 seconds).

    Args:
      table: With the columns of :func:`wpl_jax.evaluation.table.nasbench201`.
      seconds: Budget of training time, by the seconds of the table. The first
        architecture is trained even if it takes longer.
      trials: Number of searches.
      seed: Of the random draws.

    Returns:
      The row that each search finds, ``int[trials]``; none if no architecture is known.

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
    known = np.flatnonzero(np.isfinite(costs) & np.isfinite(scores))
    if not known.size:
        return known
    costs, scores = costs[known], scores[known]
    most = 1 + int(seconds / costs.min())
    random, found = np.random.default_rng(seed), []
    for _ in range(trials):
        drawn = random.integers(len(costs), size=most)
        trained = max(1, np.searchsorted(np.cumsum(costs[drawn]), seconds, "right"))
        found.append(drawn[np.argmax(scores[drawn[:trained]])])
    return known[found]


def baselines(
    table: Table, columns: Sequence[str], budgets: Sequence[float]
) -> dict[str, Mapping[str, np.ndarray]]:
    """Accuracies of architectures that no search has found.

    Args:
      table: Of the architectures.
      columns: Names of the table's columns of accuracies.
      budgets: Budgets of random searches, in seconds.

    Returns:
      By baseline and column, accuracies of all architectures or trials. Random search
      needs the columns of seconds and of the validation accuracy after 12 epochs. "best
      by validation" needs that of the validation accuracy on CIFAR-10. Without its
      columns a baseline is left out.
    """

    def at(rows):
        return {column: table.values(column)[rows] for column in columns}

    found = {"random architecture": at(slice(None))}
    if {_SECONDS, _VALID_SHORT} <= table.columns.keys():
        for seconds in budgets:
            title = f"random search, {seconds:,.0f} s"
            if (rows := random_search(table, seconds)).size:
                found[title] = at(rows)
    if np.isfinite(table.columns.get(_VALID, np.nan)).any():
        found["best by validation"] = at([int(np.nanargmax(table.values(_VALID)))])
    found["best there is"] = {
        column: np.array([np.nanmax(table.values(column))]) for column in columns
    }
    return found
