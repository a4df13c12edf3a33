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

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from wpl_jax.checks import (
    SMALLEST,
    check_differentiable,
    check_importances,
    check_leaves,
    check_range,
    check_scalar_loss,
    check_whole,
    is_size,
    leaves_by_path,
)
from wpl_jax.curvature.placement import automatic, count_shards, varying_like
from wpl_jax.curvature.squared_gradients import (
    Loss,
    Way,
    sum_squared_gradients,
    ways,
)
from wpl_jax.divisors import largest_divisor
from wpl_jax.trees import (
    aligned,
    aligned_mask,
    check_same_paths,
    squared_magnitude,
    widen,
)

Resample = Callable[[jax.Array, Any, Any], Any]

# Examples whose gradients autodiff adds up in half precision.
FEW = 8


def per_example_fisher(
    loss: Loss,
    params: Any,
    examples: Any,
    *,
    chunk_size: int = 64,
    resample: Resample | None = None,
    key: jax.Array | None = None,
) -> Any:
    """Mean over examples of the squared per-example gradients.

    Takes as long as one to three batched gradients, see ``docs/penalty.md``, and the
    memory of one chunk, however many examples there are. :func:`explain_per_example`
    tells which parameters take which way. It can be differentiated, forward and in
    reverse.

    Args:
      loss: ``loss(params, example) -> scalar``, the negative log-likelihood in
        nats of one example, differentiable in ``params``.
      params: A pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length ``n``.
      chunk_size: Examples that are differentiated at a time.
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
    draw = _resampler(resample, key)
    shards = count_shards(examples)

    def mean_squares(params, examples):
        check_scalar_loss(loss, params, examples)
        params = varying_like(params, examples)
        return _mean_squares(loss, params, examples, chunk_size, shards, draw)

    return automatic(mean_squares, params, examples)


def _mean_squares(loss: Loss, params, examples, chunk_size: int, shards: int, draw):
    """The mean of the squared gradients, chunk after chunk."""
    # A chunk takes equally many of each device's examples. Chunks are slices, so that
    # nothing is copied or padded. The last one starts early enough to be full; what it
    # repeats is counted once.
    n = _count(examples)
    here = n // shards
    size = min(max(chunk_size // shards, 1), here)

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
    zeros = varying_like(_zeros(params), examples)
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
    draw = _resampler(resample, key)

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

        zeros = varying_like(_zeros(params), examples)
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


def sample_class(
    logits: Callable[[Any, Any], jax.Array],
    *,
    distribution: Literal["categorical", "bernoulli"] = "categorical",
) -> Resample:
    """Draws the label of a classification example from the model.

    Args:
      logits: ``logits(params, inputs)`` for one example. Of ``"categorical"``
        ``float[..., num_classes]``: leading axes, if any, are the positions of a
        sequence. Of ``"bernoulli"`` an array like the label.
      distribution: ``"categorical"``, one class of several; or ``"bernoulli"``, yes or
        no for each number, as of a binary head or of several labels.

    Returns:
      A ``resample`` for the estimators, for examples that are pairs ``(inputs,
      label)``. The drawn label has the form of the one that it replaces: class numbers
      ``int[...]``, or one-hot rows where the label is of the logits' shape (one-hot or
      soft). Padding stays: class numbers below 0, rows of zeros, and of
      ``"bernoulli"`` numbers below 0. Labels of -1 and 1 are therefore not for it:
      give 0 and 1.

    Raises:
      ValueError: If ``distribution`` is not one of the two; when used, if label and
        logits do not fit each other, or an example is not a pair.
    """
    known = {"categorical": _draw_class, "bernoulli": _draw_yes_or_no}
    if distribution not in known:
        raise ValueError(
            f"distribution must be one of {sorted(known)}, got {distribution!r}."
        )

    def resample(key, params, example):
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise ValueError(
                "sample_class takes examples that are pairs (inputs, label), got a "
                f"{type(example).__name__}. Write resample(key, params, example) for "
                "others."
            )
        inputs, label = example
        return inputs, known[distribution](
            key, logits(params, inputs), jnp.asarray(label)
        )

    return resample


def _draw_class(key, logits, label):
    if not logits.shape or logits.shape[-1] == 1:
        raise ValueError(
            f"The logits of an example have the shape {logits.shape}: one class only. "
            "For a binary head pass sample_class(..., distribution='bernoulli')."
        )
    drawn = jax.random.categorical(key, logits.astype(jnp.float32))
    if label.shape == logits.shape:
        rows = jax.nn.one_hot(drawn, logits.shape[-1], dtype=label.dtype)
        return jnp.where(jnp.any(label != 0, -1, keepdims=True), rows, label)
    is_number = jnp.issubdtype(label.dtype, jnp.integer)
    if is_number and label.shape == logits.shape[:-1]:
        if logits.shape[-1] - 1 > jnp.iinfo(label.dtype).max:
            raise ValueError(
                f"Labels of dtype {label.dtype} cannot hold the numbers of "
                f"{logits.shape[-1]} classes. Cast them to int32."
            )
        return jnp.where(label < 0, label, drawn.astype(label.dtype))
    raise ValueError(
        f"The label of an example is {label.dtype} of shape {label.shape}, and its "
        f"logits have the shape {logits.shape}; expected class numbers, whole, of "
        f"shape {logits.shape[:-1]}, or one-hot rows of shape {logits.shape}."
    )


def _draw_yes_or_no(key, logits, label):
    if label.shape != logits.shape:
        raise ValueError(
            f"The label of an example has the shape {label.shape}, and its logits have "
            f"the shape {logits.shape}; expected the same, a 0 or 1 for each logit."
        )
    chance = jax.nn.sigmoid(logits.astype(jnp.float32))
    drawn = jax.random.bernoulli(key, chance).astype(label.dtype)
    return jnp.where(label < 0, label, drawn)


def update_average(
    average: Any,
    fisher: Any,
    *,
    eta: float = 0.9,
    form: Literal["printed", "coded"] = "printed",
    mask: Any = None,
) -> Any:
    """Running average of the Fisher over the models trained one after another.

    The paper prints ``F <- (1 - eta) F + F_new``, where it cannot be made out
    whether ``eta`` stands before the second term; the authors' code has it there,
    ``F <- (1 - eta) F + eta F_new``. The two differ by the factor ``eta``.

    Args:
      average: The average so far, zeros at the start.
      fisher: The newest model's Fisher, a tree like ``average``.
      eta: Weight of the newest, in [0, 1]; the paper's is 0.9.
      form: ``"printed"`` or ``"coded"``.
      mask: Optional tree like ``average`` of 0/1 arrays that broadcast to it.
        Entries where it is 0 keep their average.

    Returns:
      The new average, a tree like ``average``, at least float32. An entry whose new
      value is not a finite number keeps its average.

    Raises:
      ValueError: If ``form`` is not one of the two, ``eta`` lies outside [0, 1], or
        a tree does not fit ``average``.
    """
    weights = {"printed": 1.0, "coded": eta}
    if form not in weights:
        raise ValueError(f"form must be one of {sorted(weights)}, got {form!r}.")
    check_range("eta", eta, 0, 1, "a number in [0, 1]")

    def mix(old, new, m):
        # In half precision small steps would not change a large average.
        old, new = widen(jnp.asarray(old)), widen(new)
        mixed = (1 - eta) * old + weights[form] * new
        good = jnp.isfinite(mixed) & (new >= 0) & (old >= 0)
        return jnp.where(m & good, mixed, old)

    leaves, treedef = jax.tree.flatten(average)
    check_same_paths("fisher", fisher, average)
    check_leaves("average", average)
    check_importances("average", average)
    check_importances("fisher", fisher)
    newest, masks = aligned("fisher", fisher, average), aligned_mask(mask, average)
    return jax.tree.unflatten(treedef, map(mix, leaves, newest, masks))


def clip_norm(fisher: Any, max_norm: float) -> Any:
    """Scales each tensor of the Fisher down to a Frobenius norm of ``max_norm``.

    Args:
      fisher: A tree of arrays.
      max_norm: Largest norm of a tensor, above 0; the authors' code uses 10.

    Returns:
      The tree, at least float32; tensors within the norm are untouched.

    Raises:
      ValueError: If ``max_norm`` is not above 0, or a known entry is not a finite
        number of at least 0.
    """
    check_range("max_norm", max_norm, SMALLEST, float("inf"), "a number above 0")

    def clip(f):
        wide = widen(jnp.asarray(f))
        finite = _is_importance(wide)
        moved, factor = _balanced(jnp.where(finite, wide, 0))
        # Of the largest entry first: the sum of squares of a Fisher can overflow.
        peak = jnp.max(jnp.abs(moved), initial=0)
        unit = moved / jnp.where(peak > 0, peak, 1)
        norm = jnp.linalg.norm(unit)
        clipped = unit * (max_norm / jnp.where(norm > 0, norm, 1))
        above = peak * norm > max_norm * factor
        return jnp.where(above & finite, clipped, wide)

    check_leaves("fisher", fisher)
    check_importances("fisher", fisher)
    return jax.tree.map(clip, fisher)


def flush(fisher: Any) -> Any:
    """Forgets the Fisher: zeros like it (every few epochs in the paper)."""
    return jax.tree.map(lambda f: squared_magnitude(jnp.zeros_like(f)), fisher)


def normalize(
    fisher: Any,
    mask: Any = None,
    *,
    per: Literal["tree", "tensor"] = "tree",
    scale: Literal["unit", "loss"] = "unit",
) -> Any:
    """Gives the Fisher a known scale, and with it the penalty's ``alpha`` a meaning.

    A raw Fisher varies by many orders of magnitude with the loss, its reduction,
    the size of the model and how far it has been trained: no ``alpha`` can be
    carried from one to another. Let ``m`` be the mean of the Fisher over the
    entries in the mask.

    - ``scale="unit"`` returns ``F / m``, of mean 1: ``alpha`` is the penalty's mean
      curvature, in loss per squared parameter. Multiplying the loss by a constant
      does not change the penalty.
    - ``scale="loss"`` returns ``F / sqrt(m)``, whose mean is the root mean square of
      the gradients. Multiplying the loss by ``c`` multiplies the penalty by ``c``
      too, so their ratio stays; with the learning rate divided by ``c``, training
      takes the same path.

    Args:
      fisher: A tree of arrays, entries of at least 0.
      mask: Optional tree like ``fisher`` of 0/1 arrays that broadcast to it. Only
        entries where it is 1 count and change.
      per: ``"tree"``: one mean over everything, which keeps the importance of
        tensors relative to each other; ``"tensor"``: one mean for each array.
      scale: ``"unit"`` or ``"loss"``.

    Returns:
      The scaled tree, at least float32. Where the mean is 0, it is unchanged.

    Raises:
      ValueError: If ``per`` or ``scale`` is not one of the two, the mask does not
        fit, or a known entry is not a finite number of at least 0.
    """
    if per not in ("tree", "tensor"):
        raise ValueError(f"per must be 'tree' or 'tensor', got {per!r}.")
    if scale not in ("unit", "loss"):
        raise ValueError(f"scale must be 'unit' or 'loss', got {scale!r}.")
    check_importances("fisher", fisher)
    check_leaves("fisher", fisher)
    leaves, treedef = jax.tree.flatten(fisher)
    leaves = [widen(jnp.asarray(f)) for f in leaves]
    masks = [
        jnp.broadcast_to(m & _is_importance(f), f.shape)
        for m, f in zip(aligned_mask(mask, fisher), leaves, strict=True)
    ]
    finite = [jnp.where(m, f, 0) for f, m in zip(leaves, masks, strict=True)]
    # By a power of 2, so that neither they nor 1 / mean leave the range.
    peaks = [jnp.max(f, initial=0).astype(jnp.float32) for f in finite]
    if per == "tree":
        peaks = [jnp.max(jnp.stack(peaks))] * len(peaks)
    factors = [_balance(peak) for peak in peaks]
    moved = [f * factor for f, factor in zip(finite, factors, strict=True)]
    counts = [jnp.sum(m, dtype=jnp.float32) for m in masks]
    if per == "tree":
        counts = [jnp.sum(jnp.stack(counts))] * len(leaves)
    # Divided before they are added up: the sum of a large Fisher can overflow.
    means = [jnp.sum(f / jnp.maximum(n, 1)) for f, n in zip(moved, counts, strict=True)]
    if per == "tree":
        means = [jnp.sum(jnp.stack(means))] * len(leaves)

    def rescale(f, moved, m, mean, factor):
        divisor = mean if scale == "unit" else jnp.sqrt(mean) * jnp.sqrt(factor)
        scaled = moved / jnp.where(divisor > 0, divisor, 1)
        return jnp.where(m & (divisor > 0), scaled, f).astype(f.dtype)

    scaled = map(rescale, leaves, moved, masks, means, factors)
    return jax.tree.unflatten(treedef, scaled)


def _is_importance(f: jax.Array) -> jax.Array:
    """Where entries are finite and at least 0, as a Fisher's are."""
    return jnp.isfinite(f) & (f >= 0)


def _balance(peak: jax.Array) -> jax.Array:
    """A power of 2 that brings numbers up to ``peak`` into the middle of the range.

    XLA divides by multiplying with the inverse, and that of a number near the largest
    one is flushed to 0.
    """
    return jnp.where(peak > 2.0**64, 2.0**-64, jnp.where(peak < 2.0**-64, 2.0**64, 1.0))


def _balanced(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Numbers times a power of 2 that keeps them within range, and that power."""
    factor = _balance(jnp.max(jnp.abs(x), initial=0)).astype(x.dtype)
    return x * factor, factor


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


def _resampler(resample: Resample | None, key: jax.Array | None):
    """Replaces the examples of a chunk; the same ones whatever the chunk size."""
    if resample is None:
        return lambda params, chunk, index: chunk
    if key is None:
        raise ValueError("resample draws from the model: pass key=jax.random.key(...).")

    def draw(params, chunk, index):
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        return jax.vmap(resample, (0, None, 0))(keys, params, chunk)

    return draw


def _zeros(params: Any) -> Any:
    return jax.tree.map(lambda p: squared_magnitude(jnp.zeros_like(p)), params)
