"""Cross-entropy of words, by the scores of a space."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.divisors import largest_divisor
from wpl_jax.common.platforms import in_cache_or_at_once
from wpl_jax.spaces.words import RecurrentSpace

# Scores that an evaluation on a CPU computes at a time, 16 MB. They are read several
# times, for the largest, the sum and the word's own, and should not leave the cache.
SCORES_AT_ONCE = 2**22


def word_losses(
    space: RecurrentSpace, child: Any, hidden: jax.Array, targets: jax.Array
) -> jax.Array:
    """Cross-entropy of each word, ``float32[batch, length]``.

    Args:
      space: For the scores of the words.
      child: The child's parameters.
      hidden: Outputs of its cell, ``float[batch, length, hidden]``.
      targets: The words, ``int32[batch, length]``.
    """
    logits = space.logits(child, hidden).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def measured_losses(
    space: RecurrentSpace, child: Any, hidden: jax.Array, targets: jax.Array
) -> jax.Array:
    """The same where no gradient is taken: a CPU computes some words at a time."""
    at_once = largest_divisor(targets.size, SCORES_AT_ONCE // space.vocabulary_size)

    def whole(hidden, targets):
        return word_losses(space, child, hidden, targets)

    def in_parts(hidden, targets):
        flat = hidden.reshape(-1, at_once, hidden.shape[-1])
        parts = flat, targets.reshape(-1, at_once)
        return jax.lax.map(lambda part: whole(*part), parts).reshape(targets.shape)

    if at_once == targets.size:
        return whole(hidden, targets)
    return in_cache_or_at_once(hidden, targets, in_cache=in_parts, at_once=whole)
