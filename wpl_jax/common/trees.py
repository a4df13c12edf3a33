"""Trees that go with the parameters: masks, anchors, Fishers."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType

from wpl_jax.common.checks import check_mask

Paths = set[tuple[str, ...]]


def aligned(name: str, tree: Any, like: Any, broadcast: bool = False) -> list:
    """Leaves of ``tree`` in the order of those of ``like``, matched by path.

    By path and not by structure: inside ``optax.masked`` and ``optax.partition``
    the state has fewer leaves than the parameters, and Flax NNX wraps optimizer
    state and parameters in different types.

    Args:
      name: What the tree is, for messages.
      tree: The tree; leaves that ``like`` lacks are left out.
      like: A tree with the paths and shapes that are expected.
      broadcast: Whether shapes that broadcast to the expected ones will do.

    Returns:
      A list of arrays.

    Raises:
      ValueError: If a leaf is missing or has another shape.
    """
    by_path = {_keys(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
    leaves = []
    for path, expected in jax.tree_util.tree_leaves_with_path(like):
        where = "/".join(_keys(path))
        if _keys(path) not in by_path:
            remedy = _remedy(_paths(like), set(by_path))
            raise ValueError(
                f"The {name} tree has no leaf at '{where}', where an array of shape "
                f"{jnp.shape(expected)} is expected; its leaves are "
                f"{sorted(map('/'.join, by_path))}. {remedy}"
            )
        leaf = jnp.asarray(by_path[_keys(path)])
        shape, target = leaf.shape, jnp.shape(expected)
        if shape != target and not (broadcast and _broadcasts(shape, target)):
            raise ValueError(
                f"The {name} at '{where}' has shape {shape}, expected "
                f"{'one that broadcasts to ' if broadcast else ''}{target}."
            )
        leaves.append(_divided_like(leaf, expected) if shape == target else leaf)
    return leaves


def _divided_like(leaf: jax.Array, expected: Any) -> jax.Array:
    """The leaf, divided over an explicit mesh as the expected array is.

    Types with explicit axes do not let a Fisher that is whole on every device meet
    parameters that are divided.
    """
    there = jax.typeof(expected).sharding
    if not is_explicit(expected) or jax.typeof(leaf).sharding == there:
        return leaf
    return jax.sharding.reshard(leaf, sharding_of(expected))


def is_explicit(x: Any) -> bool:
    """Whether the axes of a mesh are part of an array's type."""
    return AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def sharding_of(x: Any) -> Any:
    """How an array is divided: as it lies on devices, traced as its type tells."""
    if isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer):
        return x.sharding
    return jax.typeof(x).sharding


def check_same_paths(name: str, tree: Any, like: Any) -> None:
    """Checks that a tree has no leaves beside those of another.

    Where ``optax.masked`` or ``optax.partition`` left something out it may have some.

    Raises:
      ValueError: With the paths that only ``tree`` has.
    """
    known: Paths = set()
    left_out: Paths = set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(
        like, is_leaf=lambda node: isinstance(node, optax.MaskedNode)
    ):
        is_masked = isinstance(leaf, optax.MaskedNode)
        (left_out if is_masked else known).add(_keys(path))
    extra = []
    for path, _ in jax.tree_util.tree_leaves_with_path(tree):
        keys = _keys(path)
        beginnings = {keys[:i] for i in range(len(keys) + 1)}
        if keys not in known and not beginnings & left_out:
            extra.append(keys)
    if extra:
        raise ValueError(
            f"The {name} tree has leaves at {sorted(map('/'.join, extra))}, where "
            "nothing is expected; expected are "
            f"{sorted(map('/'.join, known))}. {_remedy(known, _paths(tree))}"
        )


def aligned_mask(mask: Any, like: Any) -> list:
    """What a mask keeps, bool arrays that broadcast to ``like``; True for no mask.

    A traced entry that is not a number keeps nothing.

    Raises:
      ValueError: If a leaf is missing, is one too many or does not broadcast, or has a
        known entry other than 0 and 1.
    """
    if mask is None:
        return [True] * len(jax.tree.leaves(like))
    leaves = aligned("mask", mask, like, broadcast=True)
    check_same_paths("mask", mask, like)
    check_mask(mask)
    return [(m != 0) & (m == m) for m in leaves]


def widen(x: jax.Array) -> jax.Array:
    """Casts to float32 or complex64 where narrower, and whole numbers too."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _paths(tree: Any) -> Paths:
    return {_keys(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}


def _keys(path) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _remedy(expected: Paths, found: Paths) -> str:
    """What to do where the paths of two trees differ, by how libraries wrap trees."""
    if expected == {()} and len(found) > 1:
        return (
            "One array for all is what optax.flatten makes. Chain the penalty outside "
            "of it: optax.chain(weight_plasticity(...), optax.flatten(...))."
        )
    if any((*path, "imaginary") in expected for path in found):
        return (
            "Two arrays for a complex one are what optax.contrib.split_real_and_"
            "imaginary makes. The penalty takes complex parameters: chain it outside."
        )
    boxed = {(*path, "value") for path in expected} & found
    if boxed or {(*path, "value") for path in found} & expected:
        return (
            "One of the trees is in boxes, such as flax.linen.Partitioned. Pass both "
            "in boxes or both without: flax.linen.meta.unbox(tree)."
        )
    return "Pass a tree with the structure of the parameters."


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    return len(shape) <= len(target) and all(
        s in (1, t) for s, t in zip(shape[::-1], target[::-1], strict=False)
    )


def is_key(leaf: Any) -> bool:
    """Whether an array is of typed PRNG keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def without_keys(tree: Any) -> Any:
    """The tree with the numbers that keys are made of in their places.

    Args:
      tree: Arrays, or ``jax.ShapeDtypeStruct``, which become those of the numbers.
    """

    def data(x):
        if not is_key(x):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, x)
        return jax.random.key_data(x)

    return jax.tree.map(data, tree)


def with_keys(data: Any, like: Any) -> Any:
    """The inverse of :func:`without_keys`.

    Args:
      data: A tree of arrays, with the numbers of keys, ``uint32[..., n]``, in the
        places of keys.
      like: Arrays or ``jax.ShapeDtypeStruct``; those of keys tell where the keys
        are, and of which implementation (``"threefry2x32"``, ``"rbg"``, ...).

    Returns:
      The tree with keys; other arrays as they are.
    """

    def restore(kind, x):
        if not is_key(kind):
            return x
        return jax.random.wrap_key_data(jnp.asarray(x), impl=_implementation(kind))

    return jax.tree.map(restore, like, data)


def _implementation(key: Any) -> Any:
    """The implementation of a key, or of its ``jax.ShapeDtypeStruct``."""
    found = []
    # JAX tells it of arrays only, also of traced ones.
    jax.eval_shape(lambda traced: found.append(jax.random.key_impl(traced)), key)
    return found[0]


def zero_importance(params: Any) -> Any:
    """The Fisher of parameters that nothing has used: zeros, real, at least float32."""
    return jax.tree.map(lambda p: squared_magnitude(jnp.zeros_like(p)), params)


def squared_magnitude(x: jax.Array) -> jax.Array:
    """``|x|^2`` entry by entry, real and at least float32."""
    x = jnp.asarray(x)
    if jnp.iscomplexobj(x):
        return jnp.square(x.real) + jnp.square(x.imag)
    return jnp.square(widen(x))


def all_finite(tree: Any) -> jax.Array:
    """Whether all numbers of a tree are finite, ``bool[]``."""
    each = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(each)) if each else jnp.bool(True)


def norm_of_floats(tree: Any) -> jax.Array:
    """The global norm of the arrays of floats or complex numbers in a tree."""
    leaves = jax.tree.leaves(tree)
    return optax.tree.norm([x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)])
