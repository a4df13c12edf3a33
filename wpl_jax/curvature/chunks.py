"""Means over examples that are computed chunk after chunk, in the memory of one."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import check_differentiable, check_mask, check_whole
from wpl_jax.common.trees import zero_importance
from wpl_jax.curvature.placement import automatic, count_shards, varying_like

# Of parameters, a chunk of examples, their weights float32[n] and their numbers
# int32[n]: the weighted sum over the chunk, a tree like the parameters.
OfChunk = Callable[[Any, Any, jax.Array, jax.Array], Any]


def count_examples(examples: Any) -> int:
    """Number of examples, from the leading axes of a pytree.

    Raises:
      ValueError: If there are none, or the axes differ.
    """
    shapes = [jnp.shape(x) for x in jax.tree.leaves(examples)]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "examples must be arrays with one leading axis of the same length of at "
            f"least 1, the examples; got shapes {shapes}."
        )
    return sizes.pop()


def check_weights(weights: Any, count: int) -> None:
    """Checks weights of examples: None, or one of 0 or 1 for each.

    Raises:
      ValueError: If their shape or a known entry is another.
    """
    if weights is None:
        return
    if jnp.shape(weights) != (count,):
        raise ValueError(
            f"weights has the shape {jnp.shape(weights)}, expected ({count},): 1 for "
            "each example that counts, and 0 for padding."
        )
    check_mask(weights, "weights")


def mean_over_chunks(
    of_chunk: OfChunk, params: Any, examples: Any, chunk_size: int, weights: Any = None
) -> Any:
    """The mean over examples of what a function sums over a chunk of them.

    Args:
      of_chunk: Linear in the weights.
      params: A pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length.
      chunk_size: Examples in a chunk, at most.
      weights: ``[n]`` of 0 and 1, which examples count; None for all.

    Returns:
      A tree like ``params``, real, at least float32. Zeros where no example counts.

    Raises:
      ValueError: If an argument is none of these.
    """
    n = count_examples(examples)
    check_whole("chunk_size", chunk_size)
    check_differentiable(params)
    check_weights(weights, n)
    shards = count_shards(examples)

    def mean(params, examples):
        examples, weights = examples
        params = varying_like(params, examples)
        # A chunk takes equally many of each device's examples. Chunks are slices, so
        # that nothing is copied or padded, and as even as they can be. The last one
        # starts early enough to be full; what it repeats is counted once.
        here = n // shards
        chunks = -(-here // max(chunk_size // shards, 1))
        size = -(-here // chunks)

        def add_chunk(total, start):
            first = jnp.minimum(start, here - size)
            chunk, kept = jax.tree.map(
                lambda x: _slice(x, shards, first, size), (examples, weights)
            )
            index = first + jnp.arange(size)
            weight = jnp.tile((index >= start).astype(jnp.float32), shards)
            if kept is not None:
                weight = weight * (kept != 0)
            numbers = (jnp.arange(shards)[:, None] * here + index).reshape(-1)
            found = of_chunk(params, chunk, weight, numbers)
            return jax.tree.map(jnp.add, total, found), None

        starts = jnp.arange(0, here, size)
        zeros = varying_like(zero_importance(params), examples)
        total, _ = jax.lax.scan(add_chunk, zeros, starts)
        counted = n if weights is None else jnp.maximum(jnp.sum(weights != 0), 1)
        return jax.tree.map(lambda x: x / counted, total)

    return automatic(mean, params, (examples, weights))


def _slice(x, shards: int, first, size: int) -> jax.Array:
    """The same slice of what each device has of an array's first axis."""
    by_device = jnp.reshape(x, (shards, len(x) // shards, *x.shape[1:]))
    taken = jax.lax.dynamic_slice_in_dim(by_device, first, size, axis=1)
    return taken.reshape(shards * size, *x.shape[1:])
