"""Operations on a part of the channels (PC-DARTS).

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture
Search" (ICLR 2020), equation 2, and the channel shuffle of the authors' code.
"""

import jax
import jax.numpy as jnp


def split(x: jax.Array, parts: int) -> tuple[jax.Array, jax.Array]:
    """The first of several parts of the channels, and the other channels.

    Args:
      x: ``float[..., channels]``.
      parts: Number of parts, a divisor of the channels.
    """
    size = x.shape[-1] // parts
    return x[..., :size], x[..., size:]


def join(part: jax.Array, rest: jax.Array) -> jax.Array:
    """Joins what :func:`split` separated, and shuffles the channels.

    The first channels of all parts come first, then the second ones.
    """
    if not rest.shape[-1]:
        return part
    whole = jnp.concatenate([part, rest], -1)
    parts = whole.reshape(*part.shape[:-1], -1, part.shape[-1])
    return parts.swapaxes(-1, -2).reshape(whole.shape)
