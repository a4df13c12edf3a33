"""Anchors and Fishers in fewer bits: one array of codes for each array of numbers.

Codes have the shape of what they stand for and no scale of their own, so they are
masked, sharded and saved like the parameters. What an array is in is told by its dtype:

- ``bfloat16``: numbers, to 0.4 %;
- ``uint8``, of a Fisher: 0, or a power of 2^(1/4), to 9 %, from 9e-13 to 1.2e7;
- ``int8``, of an anchor: 0, or a power of 2^(1/8) with a sign, to 4.4 %, from 4.9e-4 to
  27.

A tree of codes lies in :class:`Int8` or :class:`Uint8`, and a tree of numbers does not.
Checkpoints of the two have other paths. Restoring one as the other is then an error; by
dtypes alone it would be a silent cast of codes to numbers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.trees import widen


class Int8(NamedTuple):
    """A tree of codes of anchors."""

    int8: Any  # like the parameters, int8


class Uint8(NamedTuple):
    """A tree of codes of Fishers."""

    uint8: Any  # like the parameters, uint8


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


def stored_in(tree: Any, dtype: str | None) -> Any:
    """A tree of arrays of a dtype, in the type that says what they are.

    Args:
      tree: Codes or numbers.
      dtype: ``"int8"`` or ``"uint8"`` for codes, otherwise numbers.
    """
    return {"int8": Int8, "uint8": Uint8}.get(dtype or "", lambda tree: tree)(tree)


def like_stored(tree: Any, stored: Any) -> Any:
    """A tree of codes or numbers, in the type that ``stored`` has."""
    return type(stored)(tree) if isinstance(stored, Int8 | Uint8) else tree


def raw(stored: Any) -> Any:
    """A tree of codes or numbers, like the parameters.

    Args:
      stored: What :func:`stored_in` returned. Its leaves may be shapes.

    Raises:
      ValueError: If codes have another dtype than theirs, or numbers are no floats.
    """
    is_code = isinstance(stored, Int8 | Uint8)
    tree = stored[0] if is_code else stored
    for leaf in jax.tree.leaves(tree):
        if (dtype := getattr(leaf, "dtype", None)) is None:
            continue
        expected = jnp.dtype(stored._fields[0]) if is_code else jnp.inexact
        if not jnp.issubdtype(dtype, expected):
            raise ValueError(
                f"A penalty's state holds an array of {dtype}, where "
                f"{f'codes in {expected}' if is_code else 'floats'} are stored. Codes "
                "are not the numbers they stand for, and cannot be cast. Restore the "
                "state into one of a transform with the anchor_dtype and fisher_dtype "
                "that it was saved with."
            )
    return tree
