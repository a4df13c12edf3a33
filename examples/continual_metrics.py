"""Measures of continual learning, from the accuracies after each task.

All of them read a matrix ``accuracies``, ``float[T, T]``: row ``i`` has the accuracy on
each task after task ``i`` was learned.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import ArrayLike


def average_accuracy(accuracies: ArrayLike) -> float:
    """Mean accuracy over all tasks after the last one.

    Lopez-Paz and Ranzato, "Gradient Episodic Memory for Continual Learning", 2017,
    equation 2.

    Args:
      accuracies: Accuracy on each task (columns) after each task (rows),
        ``float[T, T]``.
    """
    return float(_square(accuracies)[-1].mean())


def backward_transfer(accuracies: ArrayLike) -> float:
    """Mean change of the earlier tasks since each was learned; negative if forgotten.

    Lopez-Paz and Ranzato, 2017, equation 3: the mean over ``j < T`` of
    ``R[T, j] - R[j, j]``.

    Args:
      accuracies: As in :func:`average_accuracy`, of at least two tasks.
    """
    table = _square(accuracies, least=2)
    return float((table[-1] - np.diag(table))[:-1].mean())


def forgetting(accuracies: ArrayLike) -> float:
    """Mean loss of the earlier tasks since their best accuracy before the last task.

    Chaudhry et al., "Riemannian Walk for Incremental Learning", 2018, section 4: the
    mean over ``j < T`` of ``max_{l < T} R[l, j] - R[T, j]``. It differs from minus the
    backward transfer where a later task improved an earlier one.

    Args:
      accuracies: As in :func:`average_accuracy`, of at least two tasks.
    """
    table = _square(accuracies, least=2)
    return float((table[:-1].max(0) - table[-1])[:-1].mean())


def learning_accuracy(accuracies: ArrayLike) -> float:
    """Mean accuracy on each task right after it was learned: what a penalty costs.

    Args:
      accuracies: As in :func:`average_accuracy`.
    """
    return float(np.diag(_square(accuracies)).mean())


def best_alpha(
    learn: Callable[[float], ArrayLike], alphas: Iterable[float]
) -> tuple[float, dict[float, float]]:
    """The strength with the best average accuracy, and the average accuracies of all.

    Args:
      learn: ``learn(alpha)``, the accuracies with this strength, as in
        :func:`average_accuracy`.
      alphas: The strengths that are tried.
    """
    found = {alpha: average_accuracy(learn(alpha)) for alpha in alphas}
    # Of a training that diverged the accuracy is not a number.
    return max(found, key=lambda alpha: np.nan_to_num(found[alpha])), found


def mean_and_error(values: ArrayLike) -> tuple[float, float]:
    """Mean over seeds, and its standard error; the error of one value is NaN.

    Args:
      values: One for each seed, ``float[seeds]``.
    """
    found = np.asarray(values, np.float64)
    spread = found.std(ddof=1) if found.size > 1 else np.nan
    return float(found.mean()), float(spread / np.sqrt(found.size))


def _square(accuracies: ArrayLike, least: int = 1) -> np.ndarray:
    table = np.asarray(accuracies, np.float64)
    if table.ndim != 2 or len(set(table.shape)) != 1 or len(table) < least:
        raise ValueError(
            f"accuracies has the shape {table.shape}, expected (T, T) of {least} or "
            "more tasks: a row for each task that was learned, a column for each task."
        )
    return table
