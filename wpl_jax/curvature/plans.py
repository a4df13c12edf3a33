"""How the squared gradients of each parameter are computed, chosen from a trace."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import example_shape, noting_one_example
from wpl_jax.common.trees import squared_magnitude
from wpl_jax.curvature import reductions, sites
from wpl_jax.curvature.alignment import is_aligned, pull_squares
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

Outputs = Callable[[Any, Any], jax.Array]
Magnitude = Callable[[jax.Array], jax.Array]  # of an array, entry by entry


class Way(NamedTuple):
    """How the squared gradients of a parameter are computed.

    Attributes:
      name: ``"squares"`` where no gradient is written out; ``"each"`` where that of
        each example is; ``"unused"`` where its trace does not read the parameter.
      why: The reason, in a few words.
    """

    name: Literal["squares", "each", "unused"]
    why: str


@dataclasses.dataclass
class Plan:
    """What is to be done for each parameter.

    Attributes:
      magnitude: What is summed over the examples, of each entry of the gradients.
      split: The loss.
      uses: The uses of each met value.
      products: The same as products, where they are.
      reached: For each parameter the met values that depend on it.
      ways: For each parameter how its squares are computed.
      sums: The sums over a parameter on its way, where there are some.
    """

    magnitude: Magnitude
    split: Split
    uses: dict[int, list[Use]]
    products: dict[int, list[Product | None]]
    reached: list[list[int]]
    ways: list[Way]
    sums: dict[int, Reductions]

    def squares(self, parameter: int, leaves, met, records, found) -> jax.Array:
        """The sum of magnitudes of a parameter whose way is ``"squares"``."""
        split, (name,) = self.split, self.reached[parameter]
        uses, how = self.uses[name], self.sums.get(parameter)
        products = [product for product in self.products[name] if product]
        if (lookup := lookup_of(uses[0], split)) is not None:
            total = sites.squares_of_lookup(
                uses[0], lookup, met[name], records, found, self.magnitude
            )
            return pull_squares(split, parameter, name, leaves, total)
        rows, results = sites.rows_and_results(uses, products, records, found)
        total = sites.squares_of_products(
            uses[0], products[0], met[name], rows, results, self.magnitude
        )
        if how is None:
            return pull_squares(split, parameter, name, leaves, total)
        return reductions.squares(
            split, how, products[0], leaves, total, rows[0], results[0]
        )


def make_plan(
    outputs: Outputs,
    params: Any,
    examples: Any,
    magnitude: Magnitude = squared_magnitude,
) -> Plan:
    """Traces a function of one example and chooses a way for each parameter.

    Args:
      outputs: ``outputs(params, example) -> array``.
      params: Any pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length.
      magnitude: What is summed over the examples, of each entry of the gradients.
    """
    count = len(jax.tree.leaves(params))
    with noting_one_example(examples):
        split = Split(jax.make_jaxpr(outputs)(params, example_shape(examples)), count)
    uses: dict[int, list[Use]] = {}
    for use in uses_of(split):
        uses.setdefault(use.met, []).append(use)
    products = {
        name: [product_of(use, split) for use in of] for name, of in uses.items()
    }
    reached = [
        [name for name in uses if i in split.origins[name]] for i in range(count)
    ]
    plan = Plan(magnitude, split, uses, products, reached, [], {})
    plan.ways.extend(_way(plan, i) for i in range(count))
    return plan


def _way(plan: Plan, parameter: int) -> Way:
    names, split = plan.reached[parameter], plan.split
    if not names:
        return Way("unused", "the loss does not read it")
    if len(names) > 1:
        return Way("each", f"used in {len(names)} different forms")
    (name,) = names
    if jnp.issubdtype(split.avals[name].dtype, jnp.complexfloating):
        return Way("each", "complex")
    is_squared = plan.magnitude is squared_magnitude
    if not is_squared and split.params[parameter] != name:
        return Way("each", "transformed before it is used")
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
    if rows > (sites.MOST_ROWS if is_squared else 1):
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
