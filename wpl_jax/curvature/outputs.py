"""Importance of parameters for a model's outputs, without labels."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.trees import squared_magnitude, widen
from wpl_jax.curvature.chunks import count_examples, mean_over_chunks
from wpl_jax.curvature.plans import Outputs
from wpl_jax.curvature.probes import check_samples, columns, random_signs
from wpl_jax.curvature.squared_gradients import Directions, sum_over_directions


def memory_aware_synapses(
    outputs: Outputs,
    params: Any,
    examples: Any,
    *,
    chunk_size: int = 128,
    weights: Any = None,
) -> Any:
    """The mean sensitivity of the squared norm of the outputs (MAS).

    Mean over examples of ``|d |outputs(params, x)|^2 / d params|``, the absolute value
    and not its square (Aljundi et al., "Memory Aware Synapses", ECCV 2018, equations 2
    to 4). No labels are needed. Of weights that meet one row of each example the sum is
    a product of matrices; of others the gradient of each example is written to memory.

    Args:
      outputs: ``outputs(params, example) -> float[...]`` of one example, for example
        logits.
      params: A pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length ``n``.
      chunk_size: Examples that are differentiated at a time, at most.
      weights: ``[n]`` of 0 and 1: examples that count, and padding.

    Returns:
      A tree like ``params``, at least float32. It takes the place of a Fisher in
      :func:`wpl_jax.consolidate`.

    Raises:
      ValueError: If an argument is none of these.

    Examples:
      >>> import jax.numpy as jnp, wpl_jax
      >>> outputs = lambda w, x: w * x  # |2 w x^2| at w = -1
      >>> x = jnp.array([1.0, 2.0])
      >>> print(wpl_jax.memory_aware_synapses(outputs, jnp.array(-1.0), x))
      5.0
    """
    count_examples(examples)

    def norm(params, example):
        return jnp.sum(squared_magnitude(outputs(params, example)))

    def of_chunk(params, chunk, weight, numbers):
        del numbers
        return sum_over_directions(
            norm, params, chunk, lambda _: Directions(1, lambda _: weight), absolute
        )

    return mean_over_chunks(of_chunk, params, examples, chunk_size, weights)


def absolute(x: jax.Array) -> jax.Array:
    """``|x|`` entry by entry, real and at least float32."""
    return jnp.abs(widen(jnp.asarray(x)))


def ggn_diagonal(
    outputs: Outputs,
    loss: Callable[[jax.Array, Any], jax.Array],
    params: Any,
    examples: Any,
    *,
    chunk_size: int = 128,
    samples: int | None = None,
    key: jax.Array | None = None,
    weights: Any = None,
) -> Any:
    """The diagonal of the generalized Gauss-Newton matrix.

    Mean over examples of ``diag(J^T H J)``, with ``J`` the derivative of the outputs in
    the parameters and ``H`` the Hessian of the loss in the outputs (Schraudolph, 2002).
    For the cross-entropy of a softmax, and other losses that are the negative
    log-likelihood of an exponential family in its natural parameters, it is the Fisher
    diagonal: :func:`exact_fisher` computes the same in less memory.

    Args:
      outputs: ``outputs(params, example) -> float[...]`` of one example.
      loss: ``loss(outputs, example) -> scalar`` of one example, convex in the outputs.
        Negative eigenvalues of its Hessian count as 0.
      params: A pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length ``n``.
      chunk_size: Examples at a time, at most. Each takes the memory of a square matrix
        of its outputs.
      samples: Backward passes with random signs in place of one for each output, see
        :func:`exact_fisher`. For the cross-entropy of a softmax use that one: it
        estimates the same, and needs no square matrix of the outputs.
      key: PRNG key for ``samples``.
      weights: ``[n]`` of 0 and 1: examples that count, and padding.

    Returns:
      A tree like ``params``, at least float32, in units of the loss.

    Raises:
      ValueError: If an argument is none of these.

    Examples:
      >>> import jax.numpy as jnp, wpl_jax
      >>> outputs = lambda w, example: w * example[0]
      >>> loss = lambda z, example: (z - example[1]) ** 2 / 2  # H = 1
      >>> examples = jnp.array([1.0, 2.0]), jnp.array([0.0, 3.0])
      >>> print(wpl_jax.ggn_diagonal(outputs, loss, jnp.array(1.0), examples))
      2.5
    """
    count_examples(examples)
    check_samples(samples, key)

    def wide(params, example):
        return widen(outputs(params, example))

    def of_chunk(params, chunk, weight, numbers):
        def directions(values):
            factors = jax.vmap(functools.partial(_root, loss))(values, chunk)
            factors = factors * weight[:, None, None]

            def factor(vectors):
                return jnp.einsum("nij,nj->ni", factors, vectors).reshape(values.shape)

            size = factors.shape[-1]
            if samples is None or key is None:
                return columns(factor, size, len(values))
            return random_signs(factor, size, numbers, samples, key)

        return sum_over_directions(wide, params, chunk, directions)

    return mean_over_chunks(of_chunk, params, examples, chunk_size, weights)


def _root(loss, outputs: jax.Array, example: Any) -> jax.Array:
    """A square root of the Hessian of the loss in all outputs, ``S`` of ``S S^T``."""
    size = math.prod(outputs.shape)

    def of_flat(flat):
        return loss(flat.reshape(outputs.shape), example)

    hessian = jax.hessian(of_flat)(outputs.reshape(size))
    values, vectors = jnp.linalg.eigh(hessian)
    return vectors * jnp.sqrt(jnp.maximum(values, 0))
