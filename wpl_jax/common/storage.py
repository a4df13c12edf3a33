"""Anchors and Fishers in fewer bits: one array of codes for each array of numbers.

Codes have the shape of what they stand for and no scale of their own, so an optimizer
state keeps its structure, and is masked, sharded and saved as before. What an array is
in is told by its dtype:

- ``bfloat16``: numbers, to 0.4 %;
- ``uint8``, of a Fisher: 0, or a power of 2^(1/4), to 9 %, from 9e-13 to 1.2e7;
- ``int8``, of an anchor: 0, or a power of 2^(1/8) with a sign, to 4.4 %, from 4.9e-4 to
  27.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.trees import widen


class _Code(NamedTuple):
    """Powers of 2: ``steps`` to an octave, ``most`` of them, from ``2^least`` on."""

    steps: int
    least: int
    most: int


_FISHER = _Code(steps=4, least=-40, most=255)
_ANCHOR = _Code(steps=8, least=-11, most=127)


def _log_encode(x: jax.Array, code: _Code) -> jax.Array:
    """0, or the numbers from 1 on of the nearest powers."""
    exponents = jnp.log2(jnp.where(x > 0, x, 1))
    numbers = jnp.round((exponents - code.least) * code.steps) + 1
    return jnp.where((x > 0) & (numbers >= 1), jnp.minimum(numbers, code.most), 0)


def _log_decode(numbers: jax.Array, code: _Code) -> jax.Array:
    numbers = numbers.astype(jnp.float32)
    return jnp.where(numbers > 0, jnp.exp2((numbers - 1) / code.steps + code.least), 0)


def encode(x: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Numbers in the dtype in which they are stored.

    What is too large for it becomes its largest number, and not infinity.

    Args:
      x: ``float[...]``, or complex where the dtype is.
      dtype: ``bfloat16``, ``uint8`` for numbers of at least 0, ``int8``, or any float.
    """
    if dtype == jnp.uint8:
        return _log_encode(x, _FISHER).astype(dtype)
    if dtype == jnp.int8:
        codes = _log_encode(jnp.abs(x), _ANCHOR)
        return (jnp.sign(x) * codes).astype(dtype)
    if dtype == jnp.bfloat16:
        most = jnp.finfo(dtype).max.astype(x.dtype)
        x = jnp.clip(x, -most, most)
    return x.astype(dtype)


def decode(stored: jax.Array | np.ndarray) -> jax.Array:
    """The numbers that are stored, at least float32."""
    stored = jnp.asarray(stored)
    if stored.dtype == jnp.uint8:
        return _log_decode(stored, _FISHER)
    if stored.dtype == jnp.int8:
        size = jnp.abs(stored.astype(jnp.int32))
        return jnp.sign(stored).astype(jnp.float32) * _log_decode(size, _ANCHOR)
    return widen(stored)
