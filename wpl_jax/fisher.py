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

All functions are pure and jittable, take any pytree of parameters, and return
trees like it in at least float32.
"""

from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import (
    check_differentiable,
    check_scalar_loss,
    check_whole,
    is_size,
    leaves_by_path,
)
from wpl_jax.common.divisors import largest_divisor
from wpl_jax.common.trees import squared_magnitude, widen, zero_importance
from wpl_jax.curvature.labels import Resample, sample_class
from wpl_jax.curvature.placement import automatic, count_shards, varying_like
from wpl_jax.curvature.scales import clip_norm, flush, normalize, update_average
from wpl_jax.curvature.squared_gradients import (
    Loss,
    Way,
    sum_squared_gradients,
    ways,
)

__all__ = [
    "Loss",
    "Resample",
    "Way",
    "batch_fisher",
    "clip_norm",
    "explain_per_example",
    "flush",
    "normalize",
    "per_example_fisher",
    "sample_class",
    "square",
    "update_average",
]

# Examples whose gradients autodiff adds up in half precision.
FEW = 8


def per_example_fisher(
    loss: Loss,
    params: Any,
    examples: Any,
    *,
    chunk_size: int = 128,
    resample: Resample | None = None,
    key: jax.Array | None = None,
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
    _count(examples)
    check_whole("chunk_size", chunk_size)
    check_differentiable(params)
    draw = _resampler(resample, key, params, examples)
    shards = count_shards(examples)

    def mean_squares(params, examples):
        check_scalar_loss(loss, params, examples)
        params = varying_like(params, examples)
        return _mean_squares(loss, params, examples, chunk_size, shards, draw)

    return automatic(mean_squares, params, examples)


def _mean_squares(loss: Loss, params, examples, chunk_size: int, shards: int, draw):
    """The mean of the squared gradients, chunk after chunk."""
    # A chunk takes equally many of each device's examples. Chunks are slices, so that
    # nothing is copied or padded, and as even as they can be. The last one starts early
    # enough to be full; what it repeats is counted once.
    n = _count(examples)
    here = n // shards
    chunks = -(-here // max(chunk_size // shards, 1))
    size = -(-here // chunks)

    def add_chunk(total, start):
        first = jnp.minimum(start, here - size)
        chunk = jax.tree.map(lambda x: _slice(x, shards, first, size), examples)
        index = first + jnp.arange(size)
        weight = jnp.tile((index >= start).astype(jnp.float32), shards)
        numbers = (jnp.arange(shards)[:, None] * here + index).reshape(-1)
        chunk = draw(params, chunk, numbers)
        # A weight of 1 or 0 on the loss is a weight of 1 or 0 on its square.
        squares = sum_squared_gradients(
            lambda p, item: item[0] * loss(p, item[1]), params, (weight, chunk)
        )
        return jax.tree.map(jnp.add, total, squares), None

    starts = jnp.arange(0, here, size)
    zeros = varying_like(zero_importance(params), examples)
    total, _ = jax.lax.scan(add_chunk, zeros, starts)
    return jax.tree.map(lambda x: x / n, total)


def _slice(x, shards: int, first, size: int) -> jax.Array:
    """The same slice of what each device has of an array's first axis."""
    by_device = jnp.reshape(x, (shards, len(x) // shards, *x.shape[1:]))
    taken = jax.lax.dynamic_slice_in_dim(by_device, first, size, axis=1)
    return taken.reshape(shards * size, *x.shape[1:])


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
      ``"unused"`` where the loss does not depend on the parameter.

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
    _count(examples)
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

    Returns:
      A tree like ``params``. With ``batch_size=1`` it is that of
      :func:`per_example_fisher`.

    Raises:
      ValueError: If there are no examples, their leading axes differ,
        ``batch_size`` does not divide their number, or ``resample`` comes without
        a ``key``.
    """
    n = _count(examples)
    check_differentiable(params)
    size = n if batch_size is None else batch_size
    if not is_size(size) or n % size:
        raise ValueError(
            f"batch_size must divide the number of examples, got {size!r} for {n}."
        )
    draw = _resampler(resample, key, params, examples)

    def mean_squares(params, examples):
        check_scalar_loss(loss, params, examples)
        params = varying_like(params, examples)

        def add_batch(total, start):
            batch = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), examples
            )
            batch = draw(params, batch, start + jnp.arange(size))
            gradient = _mean_gradient(loss, params, batch)
            return jax.tree.map(jnp.add, total, square(gradient)), None

        zeros = varying_like(zero_importance(params), examples)
        total, _ = jax.lax.scan(add_batch, zeros, jnp.arange(0, n, size))
        return jax.tree.map(lambda x: x / (n // size), total)

    return automatic(mean_squares, params, examples)


def _mean_gradient(loss: Loss, params, batch):
    """The gradient of the mean loss of a batch, at least float32.

    Autodiff adds up a batch in the dtype of the parameters, where in half precision the
    later examples of many vanish. There a few are differentiated at a time.
    """

    def mean_loss(params, some):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, some))

    def gradient(some):
        return jax.tree.map(widen, jax.grad(mean_loss)(params, some))

    if all(widen(leaf).dtype == leaf.dtype for leaf in jax.tree.leaves(params)):
        return gradient(batch)
    n = _count(batch)
    size = largest_divisor(n, FEW)

    def add(total, some):
        return jax.tree.map(jnp.add, total, gradient(some)), None

    # Of each device's examples as many.
    parts = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(size, n // size, *x.shape[1:]), 1, 0), batch
    )
    zeros = jax.tree.map(lambda p: widen(jnp.zeros_like(p)), params)
    total, _ = jax.lax.scan(add, varying_like(zeros, batch), parts)
    return jax.tree.map(lambda g: g / (n // size), total)


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


def _count(examples: Any) -> int:
    """Number of examples, from the leading axes of a pytree."""
    shapes = [jnp.shape(x) for x in jax.tree.leaves(examples)]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "examples must be arrays with one leading axis of the same length of at "
            f"least 1, the examples; got shapes {shapes}."
        )
    return sizes.pop()


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
