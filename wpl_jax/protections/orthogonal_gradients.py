"""Gradients without the part that lies in the span of earlier models' gradients.

The update of OGL ("orthogonal gradient learning", IEEE Transactions on Computers,
2025), as an optax transform:

    g <- g - U U^T g,

where the columns of ``U`` are an orthonormal basis of gradients of earlier models. To
first order a step along the new ``g`` changes none of these models' losses.

OGL takes the principal components of all earlier gradients. Here ``U`` spans the newest
ones, and the oldest is dropped. This does not depend on the norms of gradients, which
fall in training, so the first ones do not stay forever. What is promised is also
simpler: the losses of the last models do not change.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.checks import check_inexact, check_whole
from wpl_jax.common.trees import widen

Spaces = Literal["array", "rows", "none"]

# Of what is left of a vector of norm 1; less than that is mostly rounding.
_LEAST_NORM = 1e-3


class OrthogonalGradientsState(NamedTuple):
    """Orthonormal bases of gradients.

    Each tree is like the parameters, with one vector of each basis, at least float32,
    and zeros where there is none yet. An array of ``spaces="array"`` has a leading axis
    of 1, so that the leading axis counts the bases. Of ``"none"`` there is a scalar 0.
    """

    basis: tuple[optax.Params, ...]  # newest first


def orthogonal_gradients(
    directions: int, spaces: Spaces | Any = "array"
) -> optax.GradientTransformation:
    """Subtracts what lies in the span of the gradients that are remembered.

    Chain it first, as it takes the updates to be gradients. :func:`remember_gradients`
    writes the gradient of a model into its state. Until then nothing is subtracted.

    Args:
      directions: Number of gradients that are remembered. Each takes the memory of the
        parameters. An array, or a row, of no more numbers than directions may become
        fixed, as its basis then spans all of the space.
      spaces: Of each parameter, what has a basis of its own: the whole ``"array"``, or
        each of its ``"rows"`` along the leading axis. ``"none"`` leaves the gradient as
        it is. A tree like the parameters, or one for all.

    Returns:
      A transform. Its ``update`` does not change the state.

    Raises:
      ValueError: If an argument is anything else.

    Examples:
      >>> import jax.numpy as jnp, optax, wpl_jax
      >>> params = {'w': jnp.zeros(3)}
      >>> tx = optax.chain(wpl_jax.orthogonal_gradients(2), optax.scale(-1.0))
      >>> state = tx.init(params)
      >>> earlier = {'w': jnp.array([1.0, 1.0, 0.0])}
      >>> state = wpl_jax.remember_gradients(state, earlier)
      >>> updates, state = tx.update({'w': jnp.array([3.0, 1.0, 2.0])}, state)
      >>> print(updates['w'].round(3))
      [-1.  1. -2.]
    """
    check_whole("directions", directions)
    space_at = _space_at(spaces)

    def init(params):
        check_inexact(params)

        def empty(path, p):
            own, space = jnp.shape(p), space_at(path)
            shape = {"array": (1, *own), "rows": own, "none": ()}
            if space == "rows" and not own:
                raise ValueError(
                    f"spaces is 'rows' at {_name(path)!r}, where the parameter is a "
                    "scalar. Pass 'array'."
                )
            return widen(jnp.zeros(shape[space], jnp.result_type(p)))

        zeros = jax.tree_util.tree_map_with_path(empty, params)
        return OrthogonalGradientsState((zeros,) * directions)

    def update(updates, state, params=None):
        del params

        def project(gradient, *basis):
            wide = _orthogonal(_as_rows(gradient, basis[0]), basis)
            return wide.reshape(gradient.shape).astype(gradient.dtype)

        return jax.tree.map(project, updates, *state.basis), state

    return optax.GradientTransformation(init, update)


def remember_gradients(opt_state: optax.OptState, gradients: Any) -> optax.OptState:
    """Adds a model's gradients to the bases of :func:`orthogonal_gradients`.

    A basis then spans the newest gradients, without the oldest. It stays as it is if
    the gradient is not finite or 0, such as that of a row that the model does not use.

    Args:
      opt_state: An optimizer state, nested in any way.
      gradients: A tree like the parameters.

    Returns:
      The optimizer state with the new bases. Nothing else in it changes.

    Raises:
      ValueError: If there is no such transform in the state, or the trees differ.
    """
    found = 0

    def write(node):
        nonlocal found
        if not isinstance(node, OrthogonalGradientsState):
            return node
        found += 1
        bases = jax.tree.map(_with_newest, gradients, *node.basis)
        outer = jax.tree.structure(gradients)
        return OrthogonalGradientsState(jax.tree.transpose(outer, None, bases))

    written = jax.tree.map(
        write, opt_state, is_leaf=lambda x: isinstance(x, OrthogonalGradientsState)
    )
    if not found:
        raise ValueError(
            "This optimizer state holds no orthogonal_gradients state (it is a "
            f"{type(opt_state).__name__}). Chain wpl_jax.orthogonal_gradients(...) "
            "into the optimizer and pass the state that its init returned."
        )
    return written


def _with_newest(gradient: jax.Array, *basis: jax.Array) -> tuple[jax.Array, ...]:
    """The bases of one array with a gradient, without the oldest.

    The newest comes first in the Gram-Schmidt process. So the first vectors of a basis
    span as many of the newest gradients, and nothing of these goes with the oldest.
    """
    if not basis[0].ndim:  # It has none.
        return basis
    gradient = _as_rows(gradient, basis[0])
    size = _norm(gradient)
    is_known = (size > 0) & jnp.isfinite(size)
    new: list[jax.Array] = []
    for vector in (gradient / jnp.where(is_known, size, 1), *basis[:-1]):
        # Twice, as one pass is inexact in float32.
        left = _orthogonal(_orthogonal(vector, new), new)
        norm = _norm(left)
        is_left = norm > _LEAST_NORM
        new.append(jnp.where(is_left, left, 0) / jnp.where(is_left, norm, 1))
    return tuple(
        jnp.where(is_known, one, old) for one, old in zip(new, basis, strict=True)
    )


def _orthogonal(rows: jax.Array, basis: Sequence[jax.Array]) -> jax.Array:
    """Rows without their parts along the vectors of each row's basis."""
    for direction in basis:
        rows = rows - _sum(direction.conj() * rows) * direction
    return rows


def _as_rows(gradient: jax.Array, direction: jax.Array) -> jax.Array:
    """A gradient in the form of the bases; as it is where it has none."""
    wide = widen(gradient)
    return wide.reshape(direction.shape) if direction.ndim else wide


def _norm(rows: jax.Array) -> jax.Array:
    """Of each row, with as many axes as the rows have."""
    return jnp.sqrt(_sum(jnp.square(jnp.abs(rows))))


def _sum(rows: jax.Array) -> jax.Array:
    return jnp.sum(rows, axis=tuple(range(1, rows.ndim)), keepdims=True)


def _space_at(spaces: Any) -> Callable[[Any], str]:
    """What a parameter's path has a basis for."""
    by_path = {}
    for path, space in jax.tree_util.tree_leaves_with_path(spaces):
        if space not in ("array", "rows", "none"):
            raise ValueError(
                f"spaces is {space!r} at {_name(path)!r}, expected 'array', 'rows' or "
                "'none'."
            )
        by_path[_name(path)] = space

    def at(path):
        if isinstance(spaces, str):
            return spaces
        if _name(path) not in by_path:
            raise ValueError(
                f"spaces has nothing at {_name(path)!r}, but at {sorted(by_path)}. "
                "Pass a tree like the parameters."
            )
        return by_path[_name(path)]

    return at


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
