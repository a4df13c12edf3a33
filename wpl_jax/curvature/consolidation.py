"""What the penalty remembers of trained models, and how a new one is written there.

Elastic Weight Consolidation (Kirkpatrick et al., 2017) and WPL have the same quadratic
penalty. What differs is the rule by which a new anchor and Fisher meet the old ones:
:func:`replace` for WPL, :func:`accumulate` or :func:`online` for EWC, and
:func:`moving_average` for an anchor that is a mean over many models.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.checks import (
    check_finite,
    check_importances,
    check_range,
    check_real,
)
from wpl_jax.common.storage import decode, encode, like_stored, raw
from wpl_jax.common.trees import aligned, aligned_mask, check_same_paths
from wpl_jax.curvature.plasticity_state import map_states

Rule = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]
]
_BELOW_ONE = 1 - 2.0**-24  # the largest share that float32 tells from 1


def replace(old_anchor, old_fisher, anchor, fisher):
    """Consolidation of WPL: the new anchor and Fisher take the place of the old."""
    del old_anchor, old_fisher
    return anchor, fisher


def accumulate(old_anchor, old_fisher, anchor, fisher):
    """Consolidation of EWC with one anchor per earlier model.

    The sum of the quadratics ``F_k (theta - anchor_k)^2`` is, up to a constant,
    one quadratic with Fisher ``sum_k F_k`` around the mean of the anchors weighted
    by their Fishers: the separate anchors need no memory of their own.
    """
    total = old_fisher + fisher
    share = jnp.where(total > 0, fisher / jnp.where(total > 0, total, 1), 1)
    return old_anchor + share * (anchor - old_anchor), total


def online(gamma: float) -> Rule:
    """Consolidation of online EWC (Schwarz et al., "Progress & Compress", 2018).

    Args:
      gamma: Share of the earlier Fisher that is kept, in [0, 1].

    Returns:
      A rule for :func:`consolidate`: ``F <- gamma * F + F_new`` around the newest
      anchor.

    Raises:
      ValueError: If ``gamma`` is a number outside [0, 1].
    """
    check_range("gamma", gamma, 0, 1, "a number in [0, 1]")

    def rule(old_anchor, old_fisher, anchor, fisher):
        del old_anchor
        return anchor, gamma * old_fisher + fisher

    return rule


def moving_average(decay: float, fisher_decay: float | None = None) -> Rule:
    """Consolidation with moving averages of the anchors and of the Fishers.

    The anchor is ``decay * anchor + (1 - decay) * anchor_new``, the Fisher
    ``fisher_decay * F + (1 - fisher_decay) * F_new``. An entry whose Fisher is 0 takes
    the new anchor and Fisher, so the averages begin at the first model and not at zero.

    Args:
      decay: Share of the earlier anchor that is kept, at least 0 and below 1. With 0
        for both it is :func:`replace`.
      fisher_decay: The same of the Fisher. None for ``decay``. 0 for a Fisher that is
        an average already, see :func:`wpl_jax.fisher.update_average`.

    Returns:
      A rule for :func:`consolidate`.

    Raises:
      ValueError: If a share is a number outside [0, 1).
    """
    fisher_decay = decay if fisher_decay is None else fisher_decay
    for name, share in (("decay", decay), ("fisher_decay", fisher_decay)):
        check_range(name, share, 0, _BELOW_ONE, "a number of at least 0 and below 1")

    def rule(old_anchor, old_fisher, anchor, fisher):
        def mean(share, old, new):
            return jnp.where(old_fisher > 0, share * old + (1 - share) * new, new)

        return (
            mean(decay, old_anchor, anchor),
            mean(fisher_decay, old_fisher, fisher),
        )

    return rule


def consolidate(
    opt_state: optax.OptState,
    anchor: optax.Params,
    fisher: optax.Params,
    *,
    rule: Rule = replace,
    mask: optax.Params | None = None,
) -> optax.OptState:
    """Writes a trained model's parameters and Fisher into the optimizer state.

    Pure and jittable. The optimizer state may be nested in any way (``chain``,
    ``partition``, ``masked``, ``MultiSteps``, ``inject_hyperparams``,
    ``flax.nnx.Optimizer.opt_state``); every penalty in it is consolidated with
    those parameters that it sees. Nothing else in the state changes.

    Args:
      opt_state: The optimizer state.
      anchor: Where the model was left, a tree with the paths and shapes of the
        parameters. It is copied, so that donating the parameters stays safe.
      fisher: The model's Fisher diagonal, a tree like the parameters, entries of
        at least 0.
      rule: How old and new are combined, leaf by leaf: :func:`replace` (WPL),
        :func:`accumulate` or :func:`online` (EWC), :func:`moving_average`, or any
        function ``(old_anchor, old_fisher, anchor, fisher) -> (anchor, fisher)``.
      mask: Optional tree of 0/1 arrays that broadcast to the parameters. Entries
        where it is 0 keep their old anchor and Fisher.

    Returns:
      The optimizer state with the new anchor and Fisher.

    Raises:
      ValueError: If the state holds no penalty, a tree lacks a parameter or has it in
        another shape, or the rule is :func:`online` or :func:`moving_average` without
        its argument.
    """
    makers: tuple[Any, ...] = (online, moving_average)
    if rule in makers:
        name = makers[makers.index(rule)].__name__
        raise ValueError(f"rule is {name} itself; call it, as in {name}(0.9).")
    if not callable(rule):
        raise ValueError(f"rule must be a function, got {rule!r}.")
    check_real("fisher", fisher)

    def write(state):
        old_anchors, old_fishers = raw(state.anchor), raw(state.fisher)
        check_same_paths("anchor", anchor, old_anchors)
        check_same_paths("fisher", fisher, old_anchors)

        def combine(stored_anchor, stored_fisher, anchor, fisher, mask):
            old_anchor, old_fisher = decode(stored_anchor), decode(stored_fisher)
            new = rule(old_anchor, old_fisher, anchor, _sane(fisher, old_fisher.dtype))
            new_anchor, new_fisher = _pair(new, old_anchor.shape)
            # What a rule adds up may not leave the range either: an infinite Fisher
            # would protect nothing. Where it makes no number, the old ones stay.
            new_fisher = jnp.minimum(new_fisher, jnp.finfo(old_fisher.dtype).max)
            write = mask & jnp.isfinite(new_anchor) & (new_fisher >= 0)
            return tuple(
                # `jnp.array` copies: an anchor that aliased the parameters could not
                # be donated beside them.
                jnp.array(jnp.where(write, encode(new, old.dtype), old), old.dtype)
                for new, old in (
                    (new_anchor, stored_anchor),
                    (new_fisher, stored_fisher),
                )
            )

        old_leaves, treedef = jax.tree.flatten(old_anchors)
        combined = [
            combine(*leaves)
            for leaves in zip(
                old_leaves,
                jax.tree.leaves(old_fishers),
                aligned("anchor", anchor, old_anchors),
                aligned("fisher", fisher, old_anchors),
                aligned_mask(mask, old_anchors),
                strict=True,
            )
        ]
        new_anchors = jax.tree.unflatten(treedef, [a for a, _ in combined])
        new_fishers = jax.tree.unflatten(
            jax.tree.structure(old_fishers), [f for _, f in combined]
        )
        return state._replace(
            anchor=like_stored(new_anchors, state.anchor),
            fisher=like_stored(new_fishers, state.fisher),
        )

    written = map_states(write, opt_state)
    check_importances("fisher", fisher)
    check_finite("anchor", anchor)
    return written


def _sane(fisher: jax.Array, dtype: Any) -> jax.Array:
    """A Fisher with 0 for entries below 0 and NaN, and no infinity."""
    fisher = fisher.astype(dtype)
    return jnp.minimum(jnp.where(fisher >= 0, fisher, 0), jnp.finfo(dtype).max)


def _pair(new: Any, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """The two arrays that a rule has to return."""
    expected = (
        "rule(old_anchor, old_fisher, anchor, fisher) must return the pair (anchor, "
        f"fisher) of arrays of the shape {shape}"
    )
    if not isinstance(new, tuple) or len(new) != 2:
        raise ValueError(f"{expected}, got a {type(new).__name__}.")
    shapes = [jnp.shape(each) for each in new]
    if any(found not in (shape, ()) for found in shapes):
        raise ValueError(f"{expected}, got the shapes {shapes}.")
    anchor, fisher = new
    return anchor, fisher
