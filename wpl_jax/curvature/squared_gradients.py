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
  have, handed back to the parameter, squared and added up
  (:mod:`wpl_jax.curvature.each_example`).

A function of several outputs has a backward pass for each of several directions, and
one forward pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.checks import check_scalar_loss
from wpl_jax.common.trees import squared_magnitude
from wpl_jax.curvature import running
from wpl_jax.curvature.each_example import squares_of_each
from wpl_jax.curvature.placement import varying_like
from wpl_jax.curvature.plans import Magnitude, Outputs, Way, make_plan

Loss = Callable[[Any, Any], jax.Array]


class Directions(NamedTuple):
    """Directions in the outputs of all examples, along which gradients are taken.

    Attributes:
      number: How many.
      of: From the number of one, ``int32[]``, to an array like the outputs of all
        examples, ``float[n, ...]``: the weights of their gradients.
    """

    number: int
    of: Callable[[jax.Array], jax.Array]


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
    check_scalar_loss(loss, params, examples)
    return sum_over_directions(
        loss, params, examples, lambda values: Directions(1, lambda _: _ones(values))
    )


def sum_over_directions(
    outputs: Outputs,
    params: Any,
    examples: Any,
    directions: Callable[[jax.Array], Directions],
    magnitude: Magnitude = squared_magnitude,
) -> Any:
    """Sums of squared gradients of several weighted sums of the outputs.

    With ``z_i`` the outputs of example ``i`` and ``v_ik`` its direction ``k``, computes
    ``sum_ik |d (v_ik . z_i) / d params|^2`` entry by entry. Directions are constants of
    this derivative. The result may be differentiated, and then in the directions too.

    Args:
      outputs: ``outputs(params, example) -> float[...]``, differentiable in ``params``.
      params: Any pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length.
      directions: From the outputs of all examples, ``float[n, ...]``, to directions.
      magnitude: Taken of gradients in place of the square: ``jnp.abs``.

    Returns:
      A tree like ``params``, real, at least float32.
    """
    leaves, treedef = jax.tree.flatten(params)
    plan = make_plan(outputs, params, examples, magnitude)
    split = plan.split
    examples = jax.tree.leaves(examples)
    met = running.without_examples(split, split.met, dict(enumerate(leaves)))

    def compute(probes):
        return running.with_examples(split, met, examples, probes)

    probes = varying_like(running.init_probes(split, len(examples[0])), examples)
    values, pull, records = jax.vjp(compute, probes, has_aux=True)
    each = [i for i, way in enumerate(plan.ways) if way.name == "each"]

    def along(direction):
        (found,) = pull(varying_like(direction.astype(values.dtype), values))
        squares = {
            i: jnp.zeros_like(squared_magnitude(leaf)) for i, leaf in enumerate(leaves)
        }
        for i, way in enumerate(plan.ways):
            if way.name == "squares":
                squares[i] = plan.squares(i, leaves, met, records, found)
        if each:
            squares |= squares_of_each(plan, each, leaves, met, records, found)
        return [squares[i] for i in range(len(leaves))]

    number, of = directions(values)
    if number == 1:
        return jax.tree.unflatten(treedef, along(of(jnp.int32(0))))

    def add(total, k):
        return jax.tree.map(jnp.add, total, along(of(k))), None

    zeros = [jnp.zeros_like(squared_magnitude(leaf)) for leaf in leaves]
    total, _ = jax.lax.scan(add, varying_like(zeros, examples), jnp.arange(number))
    return jax.tree.unflatten(treedef, total)


def ways(loss: Loss, params: Any, examples: Any) -> list[Way]:
    """How the squares of each parameter are computed, in the order of the leaves."""
    check_scalar_loss(loss, params, examples)
    return make_plan(loss, params, examples).ways


def _ones(values: jax.Array) -> jax.Array:
    return jnp.ones_like(values)
