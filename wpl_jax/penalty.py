"""The Weight Plasticity Loss as an optax gradient transformation.

Benyahia et al., "Overcoming Multi-Model Forgetting" (ICML 2019), equation 8:
a model that is trained on parameters shared with an earlier model minimises

    L(theta) + alpha / 2 * sum_i F_i (theta_i - anchor_i)^2

with ``anchor`` the parameters the earlier model was left at and ``F`` the
diagonal of its Fisher information there. Both live in the optimizer state,
where they are checkpointed, sharded and donated with everything else, and
both are written by :func:`consolidate` when a model has been trained.

Two transformations minimise the same objective:

- :func:`weight_plasticity` adds the gradient of the penalty to the gradients.
  It stands first in the chain and is the objective exactly as written. Its
  step diverges where ``learning_rate * alpha * F`` exceeds 2.
- :func:`proximal_weight_plasticity` solves for the penalty in closed form after
  the rest of the chain has moved the parameters. It stands last, needs the
  learning rate, and is stable for every ``alpha``.

Elastic Weight Consolidation (Kirkpatrick et al., 2017) is the same quadratic
form; what differs is how a new anchor and Fisher meet the old ones. It is the
same transformation consolidated with another rule: :func:`accumulate` or
:func:`online`.

Parameters may be complex. Their Fisher is real, ``|gradient|^2``, and the penalty takes
``|theta - anchor|^2``. As for all of optax, conjugate JAX's gradients of complex
parameters before they go into ``update``: ``jax.tree.map(jnp.conj, gradients)``.
"""

import functools
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.checks import check_range, check_rate
from wpl_jax.common.settings import LARGEST
from wpl_jax.common.storage import decode, raw
from wpl_jax.common.trees import (
    aligned,
    aligned_mask,
    check_same_paths,
    squared_magnitude,
)
from wpl_jax.curvature.consolidation import (
    Rule,
    accumulate,
    consolidate,
    moving_average,
    online,
    replace,
)
from wpl_jax.curvature.plasticity_state import (
    Storage,
    WeightPlasticityState,
    init_state,
    map_states,
    plasticity_states,
)

__all__ = [
    "Rule",
    "WeightPlasticityState",
    "accumulate",
    "consolidate",
    "map_states",
    "moving_average",
    "online",
    "penalty_value",
    "plasticity_states",
    "proximal_weight_plasticity",
    "replace",
    "weight_plasticity",
]

AnchorDtype = Literal["bfloat16", "int8"] | None
FisherDtype = Literal["bfloat16", "uint8"] | None


def weight_plasticity(
    alpha: optax.ScalarOrSchedule,
    *,
    anchor_dtype: AnchorDtype = None,
    fisher_dtype: FisherDtype = None,
) -> optax.GradientTransformationExtraArgs:
    """Adds the gradient of the Weight Plasticity Loss to the updates.

    The third term of equation 8: ``updates + alpha * mask * F * (params - anchor)``.
    Chain it *before* everything that treats the updates as a gradient (clipping,
    momentum, Adam's second moments, the learning rate). With plain SGD the
    step diverges once ``learning_rate * alpha * F`` exceeds 2 for some
    parameter; :func:`proximal_weight_plasticity` does not.

    Until :func:`consolidate` is first called the Fisher is zero, and so is the
    penalty, exactly.

    Args:
      alpha: Strength of the penalty, a number of at least 0 or a schedule of the
        update count. Its unit depends on how the Fisher was scaled, see
        :func:`wpl_jax.fisher.normalize`.
      anchor_dtype: How the state stores anchors. None for the dtype of each parameter,
        at least float32; ``"bfloat16"``; or ``"int8"``, a logarithm in 8 bits to 4.4 %.
        Anchors are then not exactly the weights that a model was left at.
      fisher_dtype: The same of the Fisher; ``"uint8"`` is a logarithm in 8 bits to 9 %,
        from 9e-13 to 1.2e7. A normalized Fisher lies within.

    Returns:
      A transformation whose ``update`` needs ``params`` and takes an optional
      ``mask``: a tree like the parameters of 0/1 arrays that broadcast to them;
      parameters where it is 0 are not pulled. The mask may change from step to
      step without a recompilation.

    Raises:
      ValueError: If ``alpha`` is a negative number, or a dtype is not known.

    Examples:
      >>> import jax.numpy as jnp, optax, wpl_jax
      >>> params = {'w': jnp.array([1.0, 2.0])}
      >>> tx = optax.chain(wpl_jax.weight_plasticity(alpha=10.0), optax.sgd(0.1))
      >>> state = tx.init(params)
      >>> fisher = {'w': jnp.array([1.0, 0.0])}
      >>> state = wpl_jax.consolidate(state, anchor=params, fisher=fisher)
      >>> moved = {'w': jnp.array([1.5, 2.5])}
      >>> zero = {'w': jnp.zeros(2)}
      >>> updates, state = tx.update(zero, state, moved)
      >>> print(optax.apply_updates(moved, updates)['w'])
      [1.  2.5]
    """
    check_rate("alpha", alpha)
    init_fn = _init(anchor_dtype, fisher_dtype)

    def update_fn(updates, state, params=None, *, mask=None, **extra_args):
        del extra_args
        strength = _at(alpha, state.count)

        def add_pull(update, param, anchor, fisher, mask):
            displacement = _at_width(param, fisher) - anchor
            pull = strength * (_kept(fisher, mask) * displacement)
            return (_at_width(update, fisher) + pull).astype(update.dtype)

        return _update_leaves(add_pull, updates, state, params, mask)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def proximal_weight_plasticity(
    alpha: optax.ScalarOrSchedule,
    learning_rate: optax.ScalarOrSchedule,
    *,
    anchor_dtype: AnchorDtype = None,
    fisher_dtype: FisherDtype = None,
) -> optax.GradientTransformationExtraArgs:
    """Applies the Weight Plasticity Loss as a proximal step, stable at any alpha.

    With ``theta'`` what the rest of the chain would make of the parameters and
    ``tau = learning_rate * alpha``, the new parameters are

        (theta' + tau * F * anchor) / (1 + tau * F),

    the minimiser of ``|theta - theta'|^2 / 2 + tau / 2 * F (theta - anchor)^2``
    (Parikh and Boyd, "Proximal Algorithms", 2014, section 6.1.1). To first order
    in ``tau`` it is the step of :func:`weight_plasticity` under SGD; as ``tau``
    grows the parameters that matter go to the anchor instead of diverging.

    Chain it *last*, after the learning rate has been applied: it takes the
    updates to be what will be added to the parameters. After Adam it measures
    distances without Adam's preconditioner, as decoupled weight decay does.

    Args:
      alpha: As in :func:`weight_plasticity`.
      learning_rate: The learning rate of the rest of the chain, a number of at
        least 0 or the same schedule.
      anchor_dtype: As in :func:`weight_plasticity`.
      fisher_dtype: As in :func:`weight_plasticity`.

    Returns:
      A transformation with the same state, extra argument ``mask`` and
      consolidation as :func:`weight_plasticity`.

    Raises:
      ValueError: If ``alpha`` or ``learning_rate`` is a negative number, or a dtype is
        not known.

    Examples:
      >>> import jax.numpy as jnp, optax, wpl_jax
      >>> params = {'w': jnp.array([1.0, 2.0])}
      >>> tx = optax.chain(
      ...     optax.sgd(0.1),
      ...     wpl_jax.proximal_weight_plasticity(alpha=1e6, learning_rate=0.1))
      >>> state = tx.init(params)
      >>> fisher = {'w': jnp.array([1.0, 0.0])}
      >>> state = wpl_jax.consolidate(state, anchor=params, fisher=fisher)
      >>> gradient = {'w': jnp.array([1.0, 1.0])}
      >>> updates, state = tx.update(gradient, state, params)
      >>> print(optax.apply_updates(params, updates)['w'].round(4))
      [1.  1.9]
    """
    check_rate("alpha", alpha)
    check_rate("learning_rate", learning_rate)
    init_fn = _init(anchor_dtype, fisher_dtype)

    def update_fn(updates, state, params=None, *, mask=None, **extra_args):
        del extra_args
        strength, rate = _at(alpha, state.count), _at(learning_rate, state.count)

        def shrink(update, param, anchor, fisher, mask):
            # The closed form, written as the update plus a share of the way from
            # where it leads to the anchor: exactly `update` where tau * F is 0, and
            # no infinity over infinity where tau * F overflows.
            stiffness = strength * (rate * _kept(fisher, mask))
            stiffness = jnp.minimum(stiffness, jnp.finfo(fisher.dtype).max)
            share = stiffness / (1 + stiffness)
            proposal = _at_width(update, fisher)
            to_anchor = anchor - _at_width(param, fisher)
            return (proposal + share * (to_anchor - proposal)).astype(update.dtype)

        return _update_leaves(shrink, updates, state, params, mask)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def penalty_value(
    opt_state: optax.OptState,
    params: optax.Params,
    alpha: optax.ScalarOrSchedule,
    *,
    mask: optax.Params | None = None,
) -> jax.Array:
    """Value of the penalty, ``alpha / 2 * sum mask * F * (params - anchor)^2``.

    Args:
      opt_state: An optimizer state with the penalty in it, nested in any way. A
        state with several penalties (one per group of parameters) gives their sum.
      params: The parameters, a tree like the anchor.
      alpha: As given to the transformation; a schedule is taken at the count of
        the next update.
      mask: As given to ``update``.

    Returns:
      A real scalar, float32 or wider. With :func:`accumulate` a constant is missing
      that does not depend on the parameters.

    Raises:
      ValueError: If the state holds no penalty, a tree does not fit it, or ``alpha`` is
        not a number of at least 0.
    """
    check_rate("alpha", alpha)
    total = jnp.zeros((), jnp.float32)
    for state in plasticity_states(opt_state):
        (count,) = jax.tree.leaves(state.count)  # Flax NNX wraps it.
        strength = _at(alpha, count)
        check_same_paths("params", params, state.anchor)
        for param, anchor, fisher, m in zip(
            aligned("params", params, state.anchor),
            jax.tree.leaves(state.anchor),
            jax.tree.leaves(state.fisher),
            aligned_mask(mask, state.anchor),
            strict=True,
        ):
            distance = squared_magnitude(_at_width(param, fisher) - anchor)
            total += strength / 2 * jnp.sum(_kept(fisher, m) * distance)
    return total


def _init(anchor_dtype: AnchorDtype, fisher_dtype: FisherDtype) -> Any:
    storage = Storage(anchor_dtype, fisher_dtype)
    storage.check()
    return functools.partial(init_state, storage=storage)


def _update_leaves(rule, updates, state, params, mask):
    """Maps ``rule`` over the leaves and advances the count."""
    if params is None:
        raise ValueError(
            "The weight plasticity penalty needs the parameters: call "
            "tx.update(updates, state, params)."
        )
    leaves, treedef = jax.tree.flatten(updates)
    stored_anchor, stored_fisher = raw(state.anchor), raw(state.fisher)
    check_same_paths("state's anchor", stored_anchor, updates)
    check_same_paths("params", params, updates)
    leaves = [
        rule(*each)
        for each in zip(
            map(jnp.asarray, leaves),
            aligned("params", params, updates),
            map(decode, aligned("anchor", stored_anchor, updates)),
            map(decode, aligned("fisher", stored_fisher, updates)),
            aligned_mask(mask, updates),
            strict=True,
        )
    ]
    new_state = state._replace(count=optax.safe_increment(state.count))
    return jax.tree.unflatten(treedef, leaves), new_state


def _at(value: optax.ScalarOrSchedule, count: chex.Array) -> chex.Numeric:
    """A strength or rate at a count; below 0 or not a number it counts as 0."""
    if isinstance(value, int | float):
        return value
    found = value(count) if callable(value) else value
    expected = "a number of at least 0, within the range of float32"
    check_range("What a schedule returns", found, 0, LARGEST, expected)
    # Infinity times a Fisher of 0 would not be 0.
    return jnp.where(found > 0, jnp.minimum(found, LARGEST), 0)


def _at_width(x: jax.Array, fisher: jax.Array) -> jax.Array:
    """An array in at least the Fisher's precision; complex ones stay complex."""
    return x.astype(jnp.promote_types(x.dtype, fisher.dtype))


def _kept(fisher: jax.Array, mask: Any) -> jax.Array:
    """The Fisher of what is in the mask; 0 for entries that no Fisher can have."""
    # Where the parameters themselves have left the range, that is not hidden.
    return jnp.where(mask & (fisher > 0) & jnp.isfinite(fisher), fisher, 0)
