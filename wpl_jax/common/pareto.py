"""The Pareto front: what nothing else is better than in two respects."""

import numpy as np


def front(costs: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Numbers of the points that no other point is better than in both.

    Args:
      costs: ``float[n]``, lower is better.
      errors: ``float[n]``, lower is better; points that are not finite are left out.

    Returns:
      ``int[m]``, by rising cost and falling error; of equal points the first.

    Examples:
      >>> front(np.array([3.0, 1, 2]), np.array([5.0, 7, 9])).tolist()
      [1, 0]
    """
    order = np.lexsort((errors, costs))
    order = order[np.isfinite(errors[order])]
    lowest = np.minimum.accumulate(np.concatenate([[np.inf], errors[order]]))
    return order[errors[order] < lowest[:-1]]
