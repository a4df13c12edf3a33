"""Operations on a part of the channels (PC-DARTS).

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture
Search" (ICLR 2020), equation 2, and the channel shuffle of the authors' code.
"""

import jax
import jax.numpy as jnp


def split(x: jax.Array, parts: int, channels: int = -1) -> tuple[jax.Array, jax.Array]:
    """The first of several parts of the channels, and the other channels.

    Args:
      x: Images.
      parts: Number of parts, a divisor of the channels.
      channels: The dimension of the channels.
    """
    part, rest = jnp.split(x, [x.shape[channels] // parts], channels)
    return part, rest


def join(part: jax.Array, rest: jax.Array, channels: int = -1) -> jax.Array:
    """Joins what :func:`split` separated, and shuffles the channels.

    The first channels of all parts come first, then the second ones.
    """
    if not rest.shape[channels]:
        return part
    whole, place = jnp.concatenate([part, rest], channels), channels % part.ndim
    before, after = part.shape[:place], part.shape[place + 1 :]
    parts = whole.reshape(*before, -1, part.shape[place], *after)
    return parts.swapaxes(place, place + 1).reshape(whole.shape)


def unchanged(x: jax.Array, parts: int, halves: bool) -> jax.Array:
    """The channels that operations on the first part leave as they are.

    Args:
      x: ``float[batch, height, width, channels]``.
      parts: As of :func:`split`.
      halves: Whether the operations halve the image; then it is the maximum of 2x2
        pixels.
    """
    _, rest = split(x, parts)
    if not halves:
        return rest
    batch, height, width, channels = rest.shape
    pixels = rest.reshape(batch, height // 2, 2, width // 2, 2, channels)
    return jnp.max(pixels, (2, 4))
