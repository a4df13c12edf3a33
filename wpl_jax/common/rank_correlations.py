"""Rank correlations that can be compiled, of the pairs that are finite."""

import jax
import jax.numpy as jnp


def kendall_tau(x: jax.Array, y: jax.Array) -> jax.Array:
    """Kendall's tau-b, the rank correlation that accounts for ties.

    Args:
      x: ``float[n]``.
      y: ``float[n]``. Entries of which either is not finite are left out.

    Returns:
      In [-1, 1], ``float[]``; nan where ``x`` or ``y`` is constant. All pairs are
      compared at once, which takes ``n^2`` memory.
    """
    dx, dy = _signs(x, y)
    untied = jnp.sqrt(jnp.sum(dx**2)) * jnp.sqrt(jnp.sum(dy**2))
    return jnp.sum(dx * dy) / untied


def spearman_rho(x: jax.Array, y: jax.Array) -> jax.Array:
    """Spearman's rank correlation, ties with their mean rank.

    Args:
      x: ``float[n]``.
      y: ``float[n]``. Entries of which either is not finite are left out.

    Returns:
      In [-1, 1], ``float[]``; nan where ``x`` or ``y`` is constant.
    """
    # A rank less the mean rank is half of how many are below, less how many are above.
    rx, ry = (jnp.sum(signs, axis=1) / 2 for signs in _signs(x, y))
    return jnp.sum(rx * ry) / jnp.sqrt(jnp.sum(rx**2) * jnp.sum(ry**2))


def _signs(x: jax.Array, y: jax.Array) -> list[jax.Array]:
    """Of the differences of all pairs, ``float[n, n]``; 0 for those left out."""
    there = jnp.isfinite(x) & jnp.isfinite(y)
    finite = (jnp.where(there, v, 0) for v in (x, y))
    pairs = there[:, None] & there
    return [jnp.where(pairs, jnp.sign(v[:, None] - v), 0) for v in finite]
