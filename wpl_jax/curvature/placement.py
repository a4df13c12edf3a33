"""Examples and parameters that lie on several devices.

Three ways of JAX to say so are known: meshes whose axes XLA looks after (auto), meshes
whose axes are part of an array's type (explicit, what ``jax.make_mesh`` makes), and
``jax.shard_map``, where each device has its own examples.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding

from wpl_jax.common.trees import is_explicit, sharding_of


def automatic(function: Callable[..., Any], params: Any, *rest: Any) -> Any:
    """Calls a function with all axes of an explicit mesh left to XLA.

    Chunks of examples are slices along the axis that is divided, which types with
    explicit axes do not allow.

    Args:
      function: Of parameters and other trees; it returns a tree like the parameters.
      params: The parameters.
      *rest: The other trees.

    Returns:
      What the function returns, divided as the parameters are.
    """
    leaves = jax.tree.leaves((params, rest))
    if not any(map(is_explicit, leaves)):
        return function(params, *rest)
    shardings = jax.tree.map(lambda p: jax.typeof(p).sharding, params)
    return jax.sharding.auto_axes(function, out_sharding=shardings)(params, *rest)


def count_shards(examples: Any) -> int:
    """Among how many devices the examples are divided, as far as their types tell."""
    leaves = jax.tree.leaves(examples)
    counts = {_shards_of(x) for x in leaves}
    (count,) = counts if len(counts) == 1 else (1,)
    return count if len(leaves[0]) % count == 0 else 1


def _shards_of(x: Any) -> int:
    """Over how many devices the first axis of an array is divided."""
    sharding = sharding_of(x)
    if not isinstance(sharding, NamedSharding) or not sharding.spec:
        return 1
    axes = sharding.spec[0] or ()
    sizes = dict(sharding.mesh.shape)
    return functools.reduce(
        lambda count, axis: count * sizes[axis],
        (axes,) if isinstance(axes, str) else axes,
        1,
    )


def varying_like(params: Any, examples: Any) -> Any:
    """Parameters that vary over the devices of a ``shard_map`` as the examples do.

    Where all devices hold the same parameters, JAX adds up their gradients over the
    devices. Squares have to be taken before that.
    """
    axes = frozenset[Any]().union(*(_varying(x) for x in jax.tree.leaves(examples)))

    def vary(p):
        missing = tuple(sorted(axes - _varying(p)))
        return jax.lax.pcast(p, missing, to="varying") if missing else p

    return jax.tree.map(vary, params)


def _varying(x: Any) -> frozenset[Any]:
    kind = jax.typeof(x)
    # Named `vma` before jax 0.10.
    return frozenset(kind.mat.varying if hasattr(kind, "mat") else kind.vma)
