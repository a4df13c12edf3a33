"""Sums of squared per-example gradients, faster than a vmapped gradient.

``jax.vmap(jax.grad(loss))`` writes out one gradient per example, as large as the
parameters each, only to square and add them up. Here the loss is divided into what is
done to parameters alone and what is done to examples (:mod:`wpl_jax.curvature.split`).
One batched backward pass gives the gradients where the two meet, at all *sites* at
once, without a gradient in any weight. For each parameter there are two ways from
there (:mod:`wpl_jax.curvature.sites`):

- **squares**: where a weight reaches its sites entry by entry (as it is, cast,
  transposed, scaled) and meets few rows of each example there, the sum of squares is
  one product, and no gradient is written out;
- **each**: otherwise the gradient of each example is put together from what its sites
  have, handed back to the parameter, squared and added up.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import check_scalar_loss, example_shape
from wpl_jax.common.divisors import largest_divisor
from wpl_jax.common.platforms import in_cache_or_at_once
from wpl_jax.common.trees import squared_magnitude
from wpl_jax.curvature import reductions, running, sites
from wpl_jax.curvature.alignment import is_aligned, pull_squares
from wpl_jax.curvature.placement import varying_like
from wpl_jax.curvature.reductions import Reductions
from wpl_jax.curvature.split import Split
from wpl_jax.curvature.uses import (
    Product,
    Use,
    count_rows,
    lookup_of,
    product_of,
    uses_of,
)

Loss = Callable[[Any, Any], jax.Array]


# Entries from which on gradients are taken one example after the other on a CPU.
LARGE = 1 << 12

# Entries of the gradients of several examples that are in memory at a time elsewhere.
MOST = 1 << 28


class Way(NamedTuple):
    """How the squared gradients of a parameter are computed.

    Attributes:
      name: ``"squares"`` where no gradient is written out; ``"each"`` where that of
        each example is; ``"unused"`` where the loss does not depend on the parameter.
      why: The reason, in a few words.
    """

    name: Literal["squares", "each", "unused"]
    why: str


def sum_squared_gradients(loss: Loss, params: Any, examples: Any) -> Any:
    """Computes ``sum_i |d loss(params, example_i) / d params|^2``, entry by entry.

    Args:
      loss: ``loss(params, example) -> scalar``, differentiable in ``params``.
      params: Any pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length.

    Returns:
      A tree like ``params``, real, at least float32. Equal to squaring and summing
      ``jax.vmap(jax.grad(loss), (None, 0))`` up to the order of the sums.
    """
    leaves, treedef = jax.tree.flatten(params)
    plan = _plan(loss, params, examples)
    split = plan.split
    examples = jax.tree.leaves(examples)
    met = running.without_examples(split, split.met, dict(enumerate(leaves)))

    def losses(probes):
        return running.with_examples(split, met, examples, probes)

    probes = varying_like(running.init_probes(split, len(examples[0])), examples)
    values, pull, records = jax.vjp(losses, probes, has_aux=True)
    (found,) = pull(jnp.ones_like(values))
    squares = {
        i: jnp.zeros_like(squared_magnitude(leaf)) for i, leaf in enumerate(leaves)
    }
    for i, way in enumerate(plan.ways):
        if way.name == "squares":
            squares[i] = plan.squares(i, leaves, met, records, found)
    each = [i for i, way in enumerate(plan.ways) if way.name == "each"]
    if each:
        squares |= _squares_of_each(plan, each, leaves, met, records, found)
    return jax.tree.unflatten(treedef, [squares[i] for i in range(len(leaves))])


def ways(loss: Loss, params: Any, examples: Any) -> list[Way]:
    """How the squares of each parameter are computed, in the order of the leaves."""
    return _plan(loss, params, examples).ways


@dataclasses.dataclass
class _Plan:
    """What is to be done for each parameter.

    Attributes:
      split: The loss.
      uses: The uses of each met value.
      products: The same as products, where they are.
      reached: For each parameter the met values that depend on it.
      ways: For each parameter how its squares are computed.
      sums: The sums over a parameter on its way, where there are some.
    """

    split: Split
    uses: dict[int, list[Use]]
    products: dict[int, list[Product | None]]
    reached: list[list[int]]
    ways: list[Way]
    sums: dict[int, Reductions]

    def squares(self, parameter: int, leaves, met, records, found) -> jax.Array:
        """The sum of squares of a parameter whose way they have."""
        split, (name,) = self.split, self.reached[parameter]
        uses, how = self.uses[name], self.sums.get(parameter)
        products = [product for product in self.products[name] if product]
        if (lookup := lookup_of(uses[0], split)) is not None:
            total = sites.squares_of_lookup(uses[0], lookup, met[name], records, found)
            return pull_squares(split, parameter, name, leaves, total)
        rows, results = sites.rows_and_results(uses, products, records, found)
        total = sites.squares_of_products(
            uses[0], products[0], met[name], rows, results
        )
        if how is None:
            return pull_squares(split, parameter, name, leaves, total)
        return reductions.squares(
            split, how, products[0], leaves, total, rows[0], results[0]
        )


def _plan(loss: Loss, params: Any, examples: Any) -> _Plan:
    check_scalar_loss(loss, params, examples)
    count = len(jax.tree.leaves(params))
    split = Split(jax.make_jaxpr(loss)(params, example_shape(examples)), count)
    uses: dict[int, list[Use]] = {}
    for use in uses_of(split):
        uses.setdefault(use.met, []).append(use)
    products = {
        name: [product_of(use, split) for use in of] for name, of in uses.items()
    }
    reached = [
        [name for name in uses if i in split.origins[name]] for i in range(count)
    ]
    plan = _Plan(split, uses, products, reached, [], {})
    plan.ways.extend(_way(plan, i) for i in range(count))
    return plan


def _way(plan: _Plan, parameter: int) -> Way:
    names, split = plan.reached[parameter], plan.split
    if not names:
        return Way("unused", "the loss does not depend on it")
    if len(names) > 1:
        return Way("each", f"used in {len(names)} different forms")
    (name,) = names
    if jnp.issubdtype(split.avals[name].dtype, jnp.complexfloating):
        return Way("each", "complex")
    uses, products = plan.uses[name], plan.products[name]
    aligned = is_aligned(split, parameter, name)
    if aligned and len(uses) == 1 and lookup_of(uses[0], split):
        return Way("squares", "rows of it are looked up")
    known = [product for product in products if product]
    if len(known) < len(uses):
        others = {
            use.site.equation.primitive.name if use.site.equation else "each example"
            for use, product in zip(uses, products, strict=True)
            if product is None
        }
        return Way("each", f"used by {', '.join(sorted(others))}")
    if len({product.layout for product in known}) > 1:
        return Way("each", "multiplied along different axes")
    rows = sum(count_rows(*pair) for pair in zip(uses, known, strict=True))
    met = f"meets {rows} {'row' if rows == 1 else 'rows'} of each example"
    if rows > sites.MOST_ROWS:
        return Way("each", met)
    if aligned:
        return Way("squares", met)
    how = None
    if not any(use.stacked for use in uses) and known[0].is_one_matrix:
        how = reductions.find(split, parameter, name, known[0])
    if how is None:
        return Way("each", "its entries are mixed or repeated before it is used")
    plan.sums[parameter] = how
    return Way("squares", f"{met}, with sums over it")


def _squares_of_each(plan: _Plan, parameters: list[int], leaves, met, records, found):
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


def _size(plan: _Plan, parameter: int, leaves) -> int:
    """Numbers that the gradient of one example has, on its way to the parameter."""
    matrices = [
        math.prod(plan.split.avals[name].shape)
        for name in plan.reached[parameter]
        if any(plan.products[name])
    ]
    return max([leaves[parameter].size, *matrices])


def _square_of_example(plan: _Plan, parameters: list[int], leaves, met):
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
        return jax.tree.map(squared_magnitude, handed)

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
