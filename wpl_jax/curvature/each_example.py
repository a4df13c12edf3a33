"""Squares of the gradients of examples, each of which is written out.

For parameters whose squares are no product of matrices, and for absolute values.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.divisors import largest_divisor
from wpl_jax.common.platforms import in_cache_or_at_once
from wpl_jax.curvature import running, sites
from wpl_jax.curvature.placement import varying_like
from wpl_jax.curvature.plans import Plan
from wpl_jax.curvature.split import Split

# Entries from which on gradients are taken one example after the other on a CPU.
LARGE = 1 << 12

# Entries of the gradients of several examples that are in memory at a time elsewhere.
MOST = 1 << 28


def squares_of_each(plan: Plan, parameters: list[int], leaves, met, records, found):
    """Sums of squares by the gradient of each example.

    Large gradients of few examples are in memory at a time. On a CPU they are those of
    one example, in a buffer that stays in the cache: products for all examples at once
    are not what XLA is good at there (ten to a hundred times slower, jax 0.10.2).
    """
    sizes = {i: _size(plan, i, leaves) for i in parameters}
    large = [i for i in parameters if sizes[i] >= LARGE]
    small = [i for i in parameters if i not in large]
    squares: dict[int, Any] = {}
    for some in filter(None, (small, large)):
        of_example, numbers = _square_of_example(plan, some, leaves, met)
        arguments, axes = _of_sites(plan.split, numbers, records, found)
        count = arguments[1][numbers[0]][0].shape[axes[1][numbers[0]]]
        add_up = functools.partial(_sum_over_examples, of_example, axes)
        at_once = largest_divisor(count, MOST // max(sizes[i] for i in some))
        many = functools.partial(add_up, at_once)
        if some is small:
            squares |= add_up(count, *arguments)
        else:
            one = functools.partial(add_up, 1)
            squares |= in_cache_or_at_once(*arguments, in_cache=one, at_once=many)
    return squares


def _size(plan: Plan, parameter: int, leaves) -> int:
    """Numbers that the gradient of one example has, on its way to the parameter."""
    matrices = [
        math.prod(plan.split.avals[name].shape)
        for name in plan.reached[parameter]
        if any(plan.products[name])
    ]
    return max([leaves[parameter].size, *matrices])


def _square_of_example(plan: Plan, parameters: list[int], leaves, met):
    """The squared gradient of one example in some parameters, as a function.

    Returns:
      A function of the arguments of sites and the gradients in their results, of one
      example, and the numbers of the sites.
    """
    split = plan.split
    names = sorted({name for i in parameters for name in plan.reached[i]})
    own = {i: leaves[i] for i in parameters}
    rest = {i: leaf for i, leaf in enumerate(leaves) if i not in own}
    # A parameter that is met as it is needs no way back.
    bare = {i: split.params[i] for i in parameters if split.params[i] in names}
    changed = [name for name in names if name not in bare.values()]
    _, pull = jax.vjp(
        lambda own: running.without_examples(split, changed, rest | own), own
    )

    def of_example(records, found, serial):
        def gradient(name):
            return sum(
                sites.gradient_of(
                    use,
                    product,
                    split,
                    met,
                    records.get(use.site.number, {}),
                    found[use.site.number],
                    serial,
                )
                for use, product in zip(
                    plan.uses[name], plan.products[name], strict=True
                )
            )

        gradients = {name: gradient(name) for name in names}
        (handed,) = pull({v: gradients[v].astype(met[v].dtype) for v in changed})
        handed |= {i: handed[i] + gradients[name] for i, name in bare.items()}
        return jax.tree.map(plan.magnitude, handed)

    return of_example, sorted({u.site.number for v in names for u in plan.uses[v]})


def _of_sites(split: Split, numbers: list[int], records, found):
    """What belongs to some sites, and where the axis of examples is in it."""
    sites_by_number = {site.number: site for site in split.sites}
    depths = {k: sites_by_number[k].level.depth() for k in numbers}
    records = {k: records[k] for k in numbers if k in records}
    axes = {
        k: {
            position: depths[k] if split.is_batched(site_input) else None
            for position, site_input in enumerate(sites_by_number[k].inputs)
            if position in record
        }
        for k, record in records.items()
    }
    return (records, {k: found[k] for k in numbers}), (axes, depths)


def _sum_over_examples(function, axes, at_once: int, *arguments):
    """The sum over examples of a function of the arguments of one.

    Args:
      function: As :func:`_square_of_example` gives it.
      axes: Where the axis of examples is in the arguments.
      at_once: How many examples are computed at a time; it divides their number.
      *arguments: Of all examples.
    """
    leaves, treedef = jax.tree.flatten(arguments)
    places: Any = treedef.flatten_up_to(_spread(axes, arguments))  # type: ignore[attr-defined]
    moved = {
        k: jnp.moveaxis(leaf, place, 0)
        for k, (leaf, place) in enumerate(zip(leaves, places, strict=True))
        if place is not None
    }

    def of(here, serial):
        given = [here.get(k, leaf) for k, leaf in enumerate(leaves)]
        return function(*jax.tree.unflatten(treedef, given), serial=serial)

    def of_block(block):
        if at_once == 1:
            return of({k: x[0] for k, x in block.items()}, serial=True)
        each = jax.vmap(lambda here: of(here, serial=False))(block)
        return jax.tree.map(lambda x: jnp.sum(x, 0), each)

    def add(total, block):
        return jax.tree.map(jnp.add, total, of_block(block)), None

    blocks = {k: x.reshape(-1, at_once, *x.shape[1:]) for k, x in moved.items()}
    if len(next(iter(blocks.values()))) == 1:
        return of_block(moved)
    shapes = jax.eval_shape(of_block, {k: x[0] for k, x in blocks.items()})
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, varying_like(zeros, moved), blocks)[0]


def _spread(axes, arguments):
    """An axis for each leaf, where it is said for whole trees."""
    found = arguments[1]
    return axes[0], {k: [axes[1][k]] * len(found[k]) for k in found}
