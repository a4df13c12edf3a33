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


class Forgetting(NamedTuple):
    """One epoch's forgetting, in the unit of the errors; above 0 is forgotten."""

    mean: jax.Array  # float[]
    best_mean: jax.Array  # float[]; over the architectures of lowest err1
    max: jax.Array  # float[]
    std: jax.Array  # float[]
    kendall: jax.Array  # float[]; tau-b between err1 and err2
    spearman: jax.Array  # float[]


def forgetting(err1: jax.Array, err2: jax.Array, best: int = 5) -> Forgetting:
    """Summarises an epoch.

    Args:
      err1: Error of each architecture right after its training, ``float[n]``.
      err2: The same at the end of the epoch, ``float[n]``.
      best: How many architectures of lowest ``err1`` count for ``best_mean``.

    Returns:
      The summary; correlations are nan where all errors are the same.

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
        best_mean=jnp.mean(lost[jnp.argsort(err1)[:best]]),
        max=jnp.max(lost),
        std=jnp.std(lost),
        kendall=kendall_tau(err1, err2),
        spearman=spearman_rho(err1, err2),
    )


def kendall_tau(x: jax.Array, y: jax.Array) -> jax.Array:
    """Kendall's tau-b, the rank correlation that accounts for ties.

    Args:
      x: ``float[n]``.
      y: ``float[n]``.

    Returns:
      In [-1, 1]; nan where ``x`` or ``y`` is constant. All pairs are compared at
      once, which takes ``n^2`` memory.
    """
    dx = jnp.sign(x[:, None] - x[None, :])
    dy = jnp.sign(y[:, None] - y[None, :])
    untied = jnp.sqrt(jnp.sum(dx**2)) * jnp.sqrt(jnp.sum(dy**2))
    return jnp.sum(dx * dy) / untied


def spearman_rho(x: jax.Array, y: jax.Array) -> jax.Array:
    """Spearman's rank correlation, ties with their mean rank.

    Args:
      x: ``float[n]``.
      y: ``float[n]``.

    Returns:
      In [-1, 1]; nan where ``x`` or ``y`` is constant.
    """
    rx, ry = (_ranks(values) - (len(values) - 1) / 2 for values in (x, y))
    return jnp.sum(rx * ry) / jnp.sqrt(jnp.sum(rx**2) * jnp.sum(ry**2))


def _ranks(values: jax.Array) -> jax.Array:
    below = jnp.sum(values[None, :] < values[:, None], axis=1)
    equal = jnp.sum(values[None, :] == values[:, None], axis=1)
    return below + (equal - 1) / 2
