"""The Fisher of a classifier by all its classes, and of its reversed logits."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.trees import widen
from wpl_jax.curvature.chunks import count_examples, mean_over_chunks
from wpl_jax.curvature.labels import pair_of
from wpl_jax.curvature.probes import check_samples, columns, random_signs
from wpl_jax.curvature.squared_gradients import Loss, sum_over_directions

LogProbabilities = Callable[[Any, Any], jax.Array]


def exact_fisher(
    log_probabilities: LogProbabilities,
    params: Any,
    examples: Any,
    *,
    chunk_size: int = 128,
    samples: int | None = None,
    key: jax.Array | None = None,
    weights: Any = None,
) -> Any:
    """The Fisher diagonal with the expectation over all classes.

    Mean over examples of ``sum_y p(y | x) (d log p(y | x) / d params)^2``. No label is
    read or drawn. It takes a forward pass and a backward pass for each class. With
    ``samples`` it takes so many backward passes, each of which has all classes with
    random signs. The estimate is unbiased, and has a much smaller variance than that of
    labels drawn from the model where the model is confident.

    Args:
      log_probabilities: ``log_probabilities(params, example)`` of one example,
        ``float[..., classes]``; logits will do. Leading axes are predictions of the
        example, such as the words of a sequence: their log-likelihoods are added up.
      params: A pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length ``n``.
      chunk_size: Examples that are differentiated at a time, at most.
      samples: Backward passes with random signs in place of one for each class.
      key: PRNG key for ``samples``.
      weights: ``[n]`` of 0 and 1: examples that count, and padding.

    Returns:
      A tree like ``params``, at least float32, in nats squared.

    Raises:
      ValueError: If an argument is none of these, or there are fewer than two classes.

    Examples:
      >>> import jax.numpy as jnp, wpl_jax
      >>> log_probabilities = lambda w, x: jnp.stack([w * x, 0.0])
      >>> x = jnp.array([1.0, 2.0])  # p = 1/2 at w = 0, so F = mean x^2 / 4
      >>> print(wpl_jax.exact_fisher(log_probabilities, jnp.array(0.0), x).round(4))
      0.625
    """
    return fisher_over_classes(
        log_probabilities,
        params,
        examples,
        chunk_size=chunk_size,
        samples=samples,
        key=key,
        weights=weights,
    )


def fisher_over_classes(
    log_probabilities: LogProbabilities,
    params: Any,
    examples: Any,
    *,
    chunk_size: int,
    samples: int | None,
    key: jax.Array | None,
    weights: Any = None,
    numbers: Any = None,
) -> Any:
    """:func:`exact_fisher`, for examples that may be a share of more.

    Args:
      log_probabilities: As in :func:`exact_fisher`.
      params: As in :func:`exact_fisher`.
      examples: As in :func:`exact_fisher`.
      chunk_size: As in :func:`exact_fisher`.
      samples: As in :func:`exact_fisher`.
      key: As in :func:`exact_fisher`.
      weights: As in :func:`exact_fisher`.
      numbers: Of the examples among all, ``int32[n]``, which the random signs depend
        on; None for those from 0 on.
    """
    count_examples(examples)
    check_samples(samples, key)

    def outputs(params, item):
        found = log_probabilities(params, item[0])
        _check_classes(found)
        return _normalized(found)

    def of_chunk(params, chunk, weight, index):
        numbers = index if chunk[1] is None else chunk[1]

        def directions(log_p):
            roots = jnp.exp(log_p / 2) * _along(weight, log_p)
            size = math.prod(log_p.shape[1:])

            def factor(vectors):
                return roots * vectors.reshape(log_p.shape)

            if samples is None or key is None:
                return columns(factor, size, len(log_p))
            return random_signs(factor, size, numbers, samples, key)

        return sum_over_directions(outputs, params, chunk, directions)

    items = examples, numbers
    return mean_over_chunks(of_chunk, params, items, chunk_size, weights)


def reversed_cross_entropy(logits: LogProbabilities) -> Loss:
    """The cross-entropy of negated logits, for the Fisher of a confident model.

    A model that is certain of the labels has gradients of nearly zero, and with them
    its Fisher. The gradient of ``CE(-z, y)`` with logits ``z`` does not vanish there.
    ``per_example_fisher(reversed_cross_entropy(logits), params, (inputs, labels))`` is
    the importance of EWC-DR (arXiv 2603.18596, 2026).

    Args:
      logits: ``logits(params, inputs) -> float[..., classes]`` of one example;
        log-probabilities will do.

    Returns:
      A loss of examples that are pairs ``(inputs, label)``. Labels are class numbers
      ``int[...]``, of which those below 0 are padding, or rows of probabilities
      ``float[..., classes]``. The losses of leading axes are added up.

    Raises:
      ValueError: When used, if labels and logits do not fit each other.
    """

    def loss(params, example):
        inputs, label = pair_of(example)
        log_p = _normalized(-logits(params, inputs))
        label = jnp.asarray(label)
        if label.shape == log_p.shape:
            return -jnp.sum(label * log_p)
        is_number = jnp.issubdtype(label.dtype, jnp.integer)
        if not is_number or label.shape != log_p.shape[:-1]:
            raise ValueError(
                f"The label of an example is {label.dtype} of shape {label.shape}, and "
                f"its logits have the shape {log_p.shape}; expected class numbers, "
                f"whole, of shape {log_p.shape[:-1]}, or rows of shape {log_p.shape}."
            )
        at = jnp.maximum(label, 0)[..., None]
        chosen = jnp.take_along_axis(log_p, at, -1)[..., 0]
        return -jnp.sum(jnp.where(label < 0, 0, chosen))

    return loss


def _normalized(logits: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(widen(logits))


def _along(weight: jax.Array, values: jax.Array) -> jax.Array:
    """Weights of examples, to be multiplied with an array ``[n, ...]``."""
    return weight.reshape(-1, *[1] * (values.ndim - 1))


def _check_classes(found: Any) -> None:
    shape = getattr(found, "shape", None)
    if not shape or shape[-1] < 2:
        raise ValueError(
            "log_probabilities(params, example) must return an array float[..., "
            "classes] of at least two classes for one example, got "
            f"{type(found).__name__ if shape is None else f'the shape {shape}'}. For a "
            "binary head return jnp.stack([logit, 0 * logit], -1)."
        )
