"""The Fisher's running average over models, and its scale."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import check_importances, check_leaves, check_range
from wpl_jax.common.settings import SMALLEST
from wpl_jax.common.trees import (
    aligned,
    aligned_mask,
    check_same_paths,
    widen,
    zero_importance,
)


def update_average(
    average: Any,
    fisher: Any,
    *,
    eta: float = 0.9,
    form: Literal["paper", "code"] = "paper",
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
      form: ``"paper"`` or ``"code"``.
      mask: Optional tree like ``average`` of 0/1 arrays that broadcast to it.
        Entries where it is 0 keep their average.

    Returns:
      The new average, a tree like ``average``, at least float32. An entry whose new
      value is not a finite number keeps its average.

    Raises:
      ValueError: If ``form`` is not one of the two, ``eta`` lies outside [0, 1], or
        a tree does not fit ``average``.
    """
    weights = {"paper": 1.0, "code": eta}
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
    return zero_importance(fisher)


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
