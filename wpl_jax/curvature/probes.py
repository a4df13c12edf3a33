"""Directions in the outputs of a model whose squared gradients add up to a curvature.

With a factor ``S`` of a matrix ``H = S S^T`` in the outputs ``z``, the diagonal of the
curvature in the parameters is a sum of squared gradients,

    diag(J^T H J) = sum_k (d (s_k . z) / d theta)^2,

where ``s_k`` are the columns of ``S`` and ``J = dz / d theta``.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import check_whole
from wpl_jax.curvature.squared_gradients import Directions

# From vectors float[n, columns] to what S makes of them, an array like the outputs.
Factor = Callable[[jax.Array], jax.Array]


def check_samples(samples: int | None, key: jax.Array | None) -> None:
    """Checks how many random directions there are.

    Raises:
      ValueError: If it is no whole number above 0, or there is no key to draw them.
    """
    if samples is None:
        return
    check_whole("samples", samples)
    if key is None:
        raise ValueError("samples are drawn: pass key=jax.random.key(...).")


def columns(factor: Factor, count: int, examples: int) -> Directions:
    """All columns of a factor, one after the other: the diagonal is exact."""

    def of(k):
        chosen = (jnp.arange(count) == k).astype(jnp.float32)
        return factor(jnp.broadcast_to(chosen, (examples, count)))

    return Directions(count, of)


def random_signs(
    factor: Factor, count: int, numbers: jax.Array, samples: int, key: jax.Array
) -> Directions:
    """Sums of all columns with random signs: the diagonal in expectation.

    Products of two columns have an expectation of 0. The standard deviation of the
    square is at most sqrt(2) of its mean, for each example and sample. Martens,
    Sutskever and Swersky, "Estimating the Hessian by back-propagating curvature",
    2012.

    Args:
      factor: The factor.
      count: Its columns.
      numbers: Of the examples, ``int32[n]``: each has draws of its own.
      samples: How many sums.
      key: PRNG key.
    """

    def of(k):
        def draw(number):
            own = jax.random.fold_in(jax.random.fold_in(key, number), k)
            return jax.random.rademacher(own, (count,), jnp.float32)

        return factor(jax.vmap(draw)(numbers) / jnp.sqrt(jnp.float32(samples)))

    return Directions(samples, of)
