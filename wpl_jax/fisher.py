"""The Fisher diagonal: estimators, running average, scale.

The Fisher information of a model ``p(y | x, theta)`` is the expected outer
product of the gradient of its log-likelihood; penalties use the diagonal,

    F_i = E_x E_y~p(y|x,theta) [(d log p(y | x, theta) / d theta_i)^2].

Two things called "the Fisher diagonal" in the literature differ from it, and
from each other, by orders of magnitude, so each estimator here is named for what
it computes:

- :func:`per_example_fisher`: mean over examples of the *squared per-example
  gradients*. With labels from the data this is the "empirical Fisher"; with labels
  drawn from the model (``resample``) it estimates the Fisher itself.
- :func:`batch_fisher`: the *square of the mini-batch gradient*, which WPL
  takes for free from a backward pass it needs anyway (Benyahia et al., 2019,
  section 3.2). Where the gradients of the examples are independent with mean zero
  it is smaller by the size of the batch; where they agree it is as large.
- :func:`exact_fisher`: the expectation over all classes of a classifier, without
  labels.
- :func:`ggn_diagonal`: the diagonal of the generalized Gauss-Newton matrix of any
  convex loss of the outputs, the Fisher diagonal of most losses that are likelihoods.
- :func:`memory_aware_synapses`: the sensitivity of the outputs, which is no Fisher but
  takes its place.

All functions are pure and jittable, take any pytree of parameters, and return
trees like it in at least float32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import (
    check_differentiable,
    check_scalar_loss,
    is_size,
    leaves_by_path,
)
from wpl_jax.common.trees import squared_magnitude, zero_importance
from wpl_jax.curvature.batches import fisher_of_batches, trained_only
from wpl_jax.curvature.chunks import check_weights, count_examples, mean_over_chunks
from wpl_jax.curvature.labels import Resample, sample_class
from wpl_jax.curvature.likelihood import exact_fisher, reversed_cross_entropy
from wpl_jax.curvature.mean_gradient import mean_gradient
from wpl_jax.curvature.outputs import ggn_diagonal, memory_aware_synapses
from wpl_jax.curvature.placement import automatic, varying_like
from wpl_jax.curvature.plans import Way
from wpl_jax.curvature.scales import clip_norm, flush, normalize, update_average
from wpl_jax.curvature.squared_gradients import (
    Loss,
    sum_squared_gradients,
    ways,
)

__all__ = [
    "Loss",
    "Resample",
    "Way",
    "batch_fisher",
    "clip_norm",
    "exact_fisher",
    "explain_per_example",
    "fisher_of_batches",
    "flush",
    "ggn_diagonal",
    "memory_aware_synapses",
    "normalize",
    "per_example_fisher",
    "reversed_cross_entropy",
    "sample_class",
    "square",
    "trained_only",
    "update_average",
]


def per_example_fisher(
    loss: Loss,
    params: Any,
    examples: Any,
    *,
    chunk_size: int = 128,
    resample: Resample | None = None,
    key: jax.Array | None = None,
    weights: Any = None,
) -> Any:
    """Mean over examples of the squared per-example gradients.

    Takes as long as 0.7 to 3.2 batched gradients, see ``docs/penalty.md``, and the
    memory of one chunk, however many examples there are. :func:`explain_per_example`
    tells which parameters take which way. It can be differentiated, forward and in
    reverse.

    Args:
      loss: ``loss(params, example) -> scalar``, the negative log-likelihood in
        nats of one example, differentiable in ``params``.
      params: A pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length ``n``.
      chunk_size: Examples that are differentiated at a time, at most.
      resample: ``resample(key, params, example) -> example``, an example whose
        label has been drawn from the model, for the true Fisher. Without it the
        labels are those of the data (empirical Fisher).
      key: PRNG key for ``resample``.
      weights: ``[n]`` of 0 and 1: examples that count, and padding, whose loss has to
        be finite too. All count by default; where none does, the Fisher is 0.

    Returns:
      A tree like ``params``, in squared units of the loss.

    Raises:
      ValueError: If there are no examples, their leading axes differ,
        ``chunk_size`` is not a whole number above 0, a parameter is not of floating
        point, the loss is not a scalar, or ``resample`` comes without a ``key``.

    Examples:
      >>> import jax.numpy as jnp, wpl_jax
      >>> loss = lambda w, xy: (w * xy[0] - xy[1]) ** 2 / 2
      >>> x, y = jnp.array([1.0, 2.0]), jnp.array([0.0, 3.0])
      >>> print(wpl_jax.per_example_fisher(loss, jnp.array(1.0), (x, y)))
      2.5
    """
    count_examples(examples)
    check_differentiable(params)
    draw = _resampler(resample, key, params, examples)

    def of_chunk(params, chunk, weight, numbers):
        check_scalar_loss(loss, params, chunk)
        chunk = draw(params, chunk, numbers)
        # A weight of 1 or 0 on the loss is a weight of 1 or 0 on its square.
        return sum_squared_gradients(
            lambda p, item: item[0] * loss(p, item[1]), params, (weight, chunk)
        )

    return mean_over_chunks(of_chunk, params, examples, chunk_size, weights)


def explain_per_example(loss: Loss, params: Any, examples: Any) -> dict[str, Way]:
    """Tells how :func:`per_example_fisher` treats each parameter, and why.

    Nothing is computed: the loss is traced.

    Args:
      loss: As in :func:`per_example_fisher`.
      params: As in :func:`per_example_fisher`.
      examples: As in :func:`per_example_fisher`.

    Returns:
      By the path of each parameter ``(name, why)``. The name is ``"squares"`` where the
      sum of squares is a product of matrices, about as expensive as the batched
      gradient; ``"each"`` where the gradient of each example is written to memory
      before it is squared, in a buffer of the parameter's size an example;
      ``"unused"`` where the trace of the loss does not read the parameter. Of one that
      is read and has no effect the name is another, and the Fisher is 0.

    Raises:
      ValueError: As :func:`per_example_fisher`.

    Examples:
      >>> import jax.numpy as jnp, wpl_jax
      >>> loss = lambda p, x: jnp.sum(jnp.tanh(x @ p["w"]) * jnp.exp(p["s"]))
      >>> params = {"s": jnp.zeros(()), "w": jnp.ones((3, 2))}
      >>> found = wpl_jax.explain_per_example(loss, params, jnp.ones((5, 3)))
      >>> for name, way in found.items():
      ...     print(name, way.name, "-", way.why)
      s each - used by mul
      w squares - meets 1 row of each example
    """
    count_examples(examples)
    check_differentiable(params)
    check_scalar_loss(loss, params, examples)
    names = [where for where, _ in leaves_by_path(params)]
    return dict(zip(names, ways(loss, params, examples), strict=True))


def batch_fisher(
    loss: Loss,
    params: Any,
    examples: Any,
    *,
    batch_size: int | None = None,
    resample: Resample | None = None,
    key: jax.Array | None = None,
    weights: Any = None,
) -> Any:
    """Mean over mini-batches of the squared gradient of the mean loss.

    Args:
      loss: As in :func:`per_example_fisher`.
      params: As in :func:`per_example_fisher`.
      examples: As in :func:`per_example_fisher`.
      batch_size: Examples in a mini-batch; must divide their number. By default
        all are one batch, as in the paper.
      resample: As in :func:`per_example_fisher`.
      key: As in :func:`per_example_fisher`.
      weights: ``[n]`` of 0 and 1: examples that count, and padding. A mini-batch of
        padding alone does not count.

    Returns:
      A tree like ``params``. With ``batch_size=1`` it is that of
      :func:`per_example_fisher`.

    Raises:
      ValueError: If there are no examples, their leading axes differ,
        ``batch_size`` does not divide their number, or ``resample`` comes without
        a ``key``.
    """
    n = count_examples(examples)
    check_differentiable(params)
    size = n if batch_size is None else batch_size
    if not is_size(size) or n % size:
        raise ValueError(
            f"batch_size must divide the number of examples, got {size!r} for {n}."
        )
    check_weights(weights, n)
    draw = _resampler(resample, key, params, examples)
    kept = jnp.ones(n) if weights is None else jnp.asarray(weights) != 0
    items = examples, kept.astype(jnp.float32)

    def weighted_loss(params, item):
        return item[1] * loss(params, item[0])

    def mean_squares(params, items):
        check_scalar_loss(loss, params, items[0])
        params = varying_like(params, items)

        def add_batch(total, start):
            batch, kept = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), items
            )
            batch = draw(params, batch, start + jnp.arange(size))
            gradient = mean_gradient(weighted_loss, params, (batch, kept))
            count = jnp.maximum(jnp.sum(kept), 1)

            def of_leaf(g):
                share = count.astype(jnp.finfo(g.dtype).dtype) / size
                return squared_magnitude(g / share)

            squares = jax.tree.map(of_leaf, gradient)
            return jax.tree.map(jnp.add, total, squares), jnp.any(kept > 0)

        zeros = varying_like(zero_importance(params), items)
        total, counted = jax.lax.scan(add_batch, zeros, jnp.arange(0, n, size))
        return jax.tree.map(lambda x: x / jnp.maximum(jnp.sum(counted), 1), total)

    return automatic(mean_squares, params, items)


def square(gradient: Any) -> Any:
    """Squares a gradient that is at hand: the free estimate of the paper.

    Average over devices before squaring; squares averaged afterwards are another
    estimator.

    Args:
      gradient: A gradient, any pytree of arrays.

    Returns:
      Its entries squared, at least float32.
    """
    return jax.tree.map(squared_magnitude, gradient)


def _resampler(resample: Resample | None, key: jax.Array | None, params, examples):
    """Replaces the examples of a chunk; the same ones whatever the chunk size."""
    if resample is None:
        return lambda params, chunk, index: chunk
    if key is None:
        raise ValueError("resample draws from the model: pass key=jax.random.key(...).")
    if hasattr(resample, "check"):
        resample.check(params, examples)

    def draw(params, chunk, index):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        return jax.vmap(resample, (0, None, 0))(keys, params, chunk)

    return draw
