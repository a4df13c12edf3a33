"""Multi-model forgetting: what an architecture loses while others are trained.

Benyahia et al. (2019), section 4.2: ``err1`` is an architecture's validation error
right after its own training, ``err2`` the same at the end of the epoch, after the
training of other architectures changed the weights that they share. Forgetting is
``err2 - err1``. If it changes the order of the architectures, a search may select the
wrong one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.rank_correlations import kendall_tau, spearman_rho

_BEST = 5  # how many architectures of lowest err1 count for ``best_mean``


class Forgetting(NamedTuple):
    """One epoch's forgetting, in the unit of the errors; above 0 is forgotten."""

    mean: jax.Array  # float[]
    best_mean: jax.Array  # float[]; over the five architectures of lowest err1
    max: jax.Array  # float[]
    std: jax.Array  # float[]
    kendall: jax.Array  # float[]; tau-b between err1 and err2
    spearman: jax.Array  # float[]


def forgetting(err1: jax.Array, err2: jax.Array) -> Forgetting:
    """Summarises an epoch.

    Args:
      err1: Error of each architecture right after its training, ``float[n]``.
      err2: The same at the end of the epoch, ``float[n]``.

    Returns:
      The summary. Correlations are those of the architectures whose errors are finite,
      and nan where all errors are the same.

    Raises:
      ValueError: If the two differ in shape, or are not vectors of at least one.
    """
    if err1.shape != err2.shape or err1.ndim != 1 or not err1.size:
        raise ValueError(
            "err1 and err2 must be vectors of the same length of at least 1, got "
            f"shapes {err1.shape} and {err2.shape}."
        )
    lost = err2 - err1
    return Forgetting(
        mean=jnp.mean(lost),
        best_mean=jnp.mean(lost[jnp.argsort(err1)[:_BEST]]),
        max=jnp.max(lost),
        std=jnp.std(lost),
        kendall=kendall_tau(err1, err2),
        spearman=spearman_rho(err1, err2),
    )
