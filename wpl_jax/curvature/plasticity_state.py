"""The state of the penalty: an anchor and a Fisher, as stored and as numbers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.checks import check_inexact, check_real
from wpl_jax.common.storage import decode, raw, stored_in
from wpl_jax.common.trees import widen, zero_importance


class WeightPlasticityState(NamedTuple):
    """What the penalty remembers of the models trained so far."""

    count: chex.Array  # shape=(), dtype=jnp.int32; updates seen, for schedules
    anchor: optax.Params  # like the parameters, at least float32, bfloat16, or in Int8
    fisher: optax.Params  # like the parameters, real, likewise, or in Uint8


class Storage(NamedTuple):
    """How a state stores anchor and Fisher.

    Attributes:
      anchor: None for the dtype of each parameter, at least float32; ``"bfloat16"`` or
        ``"int8"``, see :mod:`wpl_jax.common.storage`.
      fisher: None, ``"bfloat16"`` or ``"uint8"``, likewise.
    """

    anchor: str | None = None
    fisher: str | None = None

    def check(self) -> None:
        """Checks the names.

        Raises:
          ValueError: If one is not known.
        """
        for name, known in (
            ("anchor", (None, "bfloat16", "int8")),
            ("fisher", (None, "bfloat16", "uint8")),
        ):
            if (found := getattr(self, name)) not in known:
                raise ValueError(
                    f"{name}_dtype must be one of {list(known)}, got {found!r}."
                )


def init_state(
    params: optax.Params,
    storage: Storage = Storage(),  # noqa: B008
) -> WeightPlasticityState:
    """The state before the first model has been trained: no anchor has an effect.

    Args:
      params: The parameters.
      storage: How anchor and Fisher are stored.

    Raises:
      ValueError: If a parameter is not a float or complex array, or is complex where
        anchors have fewer bits.
    """
    check_inexact(params)
    if storage.anchor is not None:
        check_real("parameter", params)
    # Zeros and not the parameters: a state that aliased them could not be donated
    # beside them, and `init` also runs on shapes alone. With the Fisher at zero
    # the anchor has no effect.
    return WeightPlasticityState(
        count=jnp.zeros([], jnp.int32),
        # By default wide: a mean of anchors in bfloat16 loses small steps.
        anchor=_stored_zeros(
            jax.tree.map(lambda p: widen(jnp.zeros_like(p)), params), storage.anchor
        ),
        fisher=_stored_zeros(zero_importance(params), storage.fisher),
    )


def _stored_zeros(zeros: optax.Params, dtype: str | None) -> Any:
    """Zeros as they are stored; the code of 0 is 0."""
    if dtype is not None:
        zeros = jax.tree.map(lambda x: x.astype(dtype), zeros)
    return stored_in(zeros, dtype)


def map_states(
    function: Callable[[WeightPlasticityState], WeightPlasticityState],
    opt_state: optax.OptState,
) -> optax.OptState:
    """Applies a function to the states of all penalties in an optimizer state.

    Raises:
      ValueError: If there is none.
    """
    _states(opt_state)  # Raises where there is nothing to write to.
    return jax.tree.map(
        lambda node: function(node) if _is_state(node) else node,
        opt_state,
        is_leaf=_is_state,
    )


def plasticity_states(opt_state: optax.OptState) -> list[WeightPlasticityState]:
    """The states of all penalties in an optimizer state, in order of the tree.

    Args:
      opt_state: An optimizer state, nested in any way.

    Returns:
      At least one state, with anchors and Fishers as numbers, at least float32, however
      they are stored; the running Fisher average is ``states[0].fisher``.

    Raises:
      ValueError: If there is none.
    """
    return [
        state._replace(
            anchor=jax.tree.map(_decoded, raw(state.anchor)),
            fisher=jax.tree.map(_decoded, raw(state.fisher)),
        )
        for state in _states(opt_state)
    ]


def has_plasticity(opt_state: Any) -> bool:
    """Whether an optimizer state holds the state of a penalty."""
    return any(map(_is_state, jax.tree.leaves(opt_state, is_leaf=_is_state)))


def _decoded(stored: Any) -> Any:
    """Numbers that are stored in fewer bits; others, and shapes, as they are."""
    if not isinstance(stored, jax.Array | np.ndarray):
        return stored
    is_wide = jnp.promote_types(stored.dtype, jnp.float32) == stored.dtype
    return stored if is_wide else decode(stored)


def _states(opt_state: optax.OptState) -> list[WeightPlasticityState]:
    """The states of all penalties as they are stored.

    Raises:
      ValueError: If there is none.
    """
    found = [
        leaf
        for leaf in jax.tree.leaves(opt_state, is_leaf=_is_state)
        if _is_state(leaf)
    ]
    if not found:
        raise ValueError(
            "This optimizer state holds no weight_plasticity state (it is a "
            f"{type(opt_state).__name__}). Chain wpl_jax.weight_plasticity(...) or "
            "wpl_jax.proximal_weight_plasticity(...) into the optimizer and pass the "
            "state that its init returned."
        )
    return found


def _is_state(node: Any) -> bool:
    return isinstance(node, WeightPlasticityState)
