"""The choice of alpha: enough of the old task is kept, at the least cost of the new."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from wpl_jax.common.checks import check_range
from wpl_jax.common.settings import LARGEST

# Of a Fisher with mean 1: from hardly any penalty to nearly frozen weights.
ALPHAS = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)


def _pair(found: Any) -> tuple[Any, Any]:
    try:
        old, new = found
    except (TypeError, ValueError) as error:
        raise ValueError(
            "evaluate must return a pair (old, new) of accuracies or losses, got "
            f"{found!r:.80}."
        ) from error
    return old, new


def _warn_of_choice(
    alphas: Sequence[float], best: int, finite: np.ndarray, kept: np.ndarray
) -> None:
    """Warns of a choice that another grid of alphas might change."""
    if not finite.any():
        said = "No alpha has finite results: each training has diverged."
    elif not kept.any():
        said = (
            "No alpha keeps as much of the old task as was asked for, so the one that "
            "keeps most was chosen. Are `before` and the results in the same units?"
        )
    elif len(alphas) > 1 and alphas[best] == max(alphas):
        said = "The highest alpha was chosen: higher ones may be better."
    elif len(alphas) > 1 and 0 < alphas[best] == min(alphas):
        said = "The lowest alpha was chosen: lower ones may be better."
    else:
        return
    warnings.warn(said, UserWarning, stacklevel=3)


class Calibration(NamedTuple):
    """The choice of alpha, and what it was made from."""

    alpha: float
    within: bool  # whether it keeps as much as was asked for
    alphas: np.ndarray  # float[n]; those that were tried
    old: np.ndarray  # float[n]; accuracies, or losses, of the old task
    new: np.ndarray  # float[n]; the same of the new task


def calibrate(
    evaluate: Callable[[float], tuple[Any, Any]],
    before: Any,
    *,
    keep: float = 0.95,
    lower: bool = False,
    alphas: Sequence[float] = ALPHAS,
) -> Calibration:
    """Chooses the alpha that keeps enough of the old task at the least cost of the new.

    Among the alphas with which the old task keeps ``keep`` of its accuracy, it is the
    one with the best accuracy of the new task. If there is none, it is the alpha with
    the best accuracy of the old task. The accuracies have to be of held-out examples:
    neither those that models are trained on, nor those of a final test.

    With ``lower=True`` they are losses. The old one is then at most ``before / keep``,
    and the new one as small as possible. A log-likelihood in nats has no zero that a
    share of it could refer to: take its perplexity, ``exp(loss)``. It chooses the same
    as ``exp(-loss)``, the geometric mean of the probabilities, as an accuracy.

    Args:
      evaluate: ``evaluate(alpha) -> (old, new)``: trains the new task under the penalty
        of this strength and returns the accuracies of both tasks after it. Arrays, as
        of several seeds, are averaged.
      before: Accuracy of the old task before the new one is trained, at least 0; with
        ``lower`` its loss, above 0.
      keep: Share of it that is to be kept, in [0, 1].
      lower: Whether lower is better: losses, perplexities or error rates.
      alphas: Strengths to try, numbers of at least 0, by default decades for a Fisher
        of mean 1 (:func:`wpl_jax.normalize`).

    Returns:
      The chosen alpha, and the accuracies or losses of all.

    Raises:
      ValueError: If ``keep`` is not in [0, 1], ``before`` is not in its range,
        ``lower`` is no bool, an alpha is not a number of at least 0, there are none, or
        ``evaluate`` does not return a pair.

    Warns:
      UserWarning: If no alpha keeps enough, or the choice is an end of the grid.

    Examples:
      >>> import wpl_jax
      >>> accuracies = {0.1: (0.5, 0.9), 1.0: (0.86, 0.8), 10.0: (0.9, 0.4)}
      >>> chosen = wpl_jax.calibrate(
      ...     accuracies.get, before=0.9, keep=0.95, alphas=list(accuracies))
      >>> print(chosen.alpha, chosen.within)
      1.0 True
      >>> perplexities = {0.1: (9.0, 2.0), 1.0: (4.1, 3.0), 10.0: (4.0, 6.0)}
      >>> chosen = wpl_jax.calibrate(
      ...     perplexities.get, 4.0, lower=True, alphas=list(perplexities))
      >>> print(chosen.alpha, chosen.within)
      1.0 True
    """
    check_range("keep", keep, 0, 1, "a number in [0, 1]")
    if not isinstance(lower, bool):
        raise ValueError(f"lower must be True or False, got {lower!r}.")
    if not len(alphas):
        raise ValueError("alphas is empty, expected at least one number.")
    for alpha in alphas:
        check_range("Each of alphas", alpha, 0, LARGEST, "a number of at least 0")
    level = np.mean(np.asarray(before, np.float64))
    if not np.isfinite(level) or level < 0 or (lower and level == 0):
        expected = "a finite loss above 0" if lower else "a finite accuracy, at least 0"
        raise ValueError(
            f"before must be {expected}, got {before!r}. Where log-likelihoods are to "
            "be kept, take perplexities, exp(loss), and lower=True."
        )
    pairs = [_pair(evaluate(alpha)) for alpha in alphas]
    old, new = (
        np.array([np.mean(np.asarray(pair[i], np.float64)) for pair in pairs])
        for i in range(2)
    )
    # What is not finite is of a training that diverged.
    finite = np.isfinite(old) & np.isfinite(new)
    found = np.where(finite, old, 0)
    kept = finite & (keep * found <= level if lower else found >= keep * level)
    gain_old, gain_new = (-old, -new) if lower else (old, new)
    gain, counted = (gain_new, kept) if kept.any() else (gain_old, finite)
    best = int(np.argmax(np.where(counted, gain, -np.inf)))
    _warn_of_choice(alphas, best, finite, kept)
    return Calibration(
        float(alphas[best]), bool(kept.any()), np.asarray(alphas), old, new
    )
