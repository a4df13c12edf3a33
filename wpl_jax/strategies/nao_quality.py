"""How well the networks of NAO rank and reconstruct the architectures of a pool."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.rank_correlations import kendall_tau
from wpl_jax.strategies.nao_networks import Coder, Params
from wpl_jax.strategies.nao_pool import Pool


class HeldOut(NamedTuple):
    """Architectures of the pool whose rewards the networks do not learn."""

    choices: jax.Array  # int32[n, decisions]
    predicted: jax.Array  # float32[n]
    measured: jax.Array  # float32[n]; nan of empty places
    correlation: jax.Array  # float32[]; Kendall's tau of the two


class Seen(NamedTuple):
    """What the last round has measured of the networks; nan before the first."""

    held_out: HeldOut | None  # None without any
    reconstructed: jax.Array  # float32[]; share of the pool that is decoded to itself
    found: jax.Array  # int32[]; new architectures that were decoded


def unknown(pool: Pool, held_out: np.ndarray) -> Seen:
    """Before the first round.

    Args:
      pool: The pool; only its shapes are used.
      held_out: Which places the networks do not learn the rewards of, ``bool[places]``.
    """
    nan = jnp.float32(jnp.nan)
    number, decisions = int(np.sum(held_out)), pool.choices.shape[1]
    held = None
    if number:
        nans = jnp.full(number, jnp.nan)
        held = HeldOut(jnp.zeros((number, decisions), jnp.int32), nans, nans, nan)
    return Seen(held, nan, jnp.int32(0))


def look(
    coder: Coder, params: Params, pool: Pool, held_out: np.ndarray, found: jax.Array
) -> Seen:
    """Measures the networks on a pool.

    Args:
      coder: The networks.
      params: Their parameters.
      pool: With measured rewards.
      held_out: As of :func:`unknown`.
      found: New architectures that were decoded, ``int32[]``.
    """
    decoded = coder.decode(params, coder.encode(params, pool.choices))
    same = jnp.all(decoded == pool.choices, -1)
    held = None
    if np.any(held_out):
        places = np.flatnonzero(held_out)
        choices, measured = pool.choices[places], pool.rewards[places]
        predicted = coder.expect(params, choices)
        tau = kendall_tau(predicted, measured)
        held = HeldOut(choices, predicted, measured, tau)
    return Seen(held, jnp.mean(same, where=pool.filled), found)


def record(seen: Seen) -> dict[str, jax.Array]:
    """The values by their names in the metrics."""
    values = {"reconstructed": seen.reconstructed, "found": seen.found}
    if seen.held_out is None:
        return values
    return values | {
        "predictor_tau": seen.held_out.correlation,
        "held_out": seen.held_out.choices,
        "predicted": seen.held_out.predicted,
        "measured": seen.held_out.measured,
    }
