"""A random order of which single places are computed."""

import jax
import jax.numpy as jnp

_ROUNDS = 8


def shuffled(key: jax.Array, places: jax.Array, count: int) -> jax.Array:
    """What stands at some places of a random order of ``0 ... count - 1``.

    A training step needs the places of one batch. ``jax.random.permutation`` sorts all
    ``count`` numbers for them. This function takes time and memory in proportion to the
    places. It is a Feistel network (Luby and Rackoff, 1988) on the next power of 2; a
    number that is ``count`` or more goes through the network again, until it is less
    (cycle walking; Black and Rogaway, 2002).

    Args:
      key: PRNG key of the order.
      places: ``int32[...]``, from 0 to ``count - 1``.
      count: How many there are, at least 1.

    Returns:
      Of each place the number, of the shape of the places; different ones for
      different places.
    """
    bits = max(2, (count - 1).bit_length())
    keys = jax.random.bits(key, (_ROUNDS,), jnp.uint32)

    def network(numbers):
        low = bits // 2
        high = bits - low
        left, right = numbers >> low, numbers & _ones(low)
        for number in range(_ROUNDS):
            left, right = right, left ^ (_mixed(right + keys[number]) & _ones(high))
            low, high = high, low
        return (left << low) | right

    def walk(numbers):
        return jnp.where(numbers < count, numbers, network(numbers))

    def is_outside(numbers):
        return jnp.any(numbers >= count)

    first = network(places.astype(jnp.uint32))
    return jax.lax.while_loop(is_outside, walk, first).astype(jnp.int32)


def _ones(bits: int) -> int:
    return (1 << bits) - 1


def _mixed(x):
    """All bits of the result depend on all bits of ``x`` (MurmurHash3's finalizer)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
