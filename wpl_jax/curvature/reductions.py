"""Squares on their way back through sums over a weight, as in weight standardization.

A weight ``w`` of inputs and outputs is used as ``u = f(w, s)``, entry by entry but for
sums ``s_r = sum h_r(w, s_1 ... s_{r-1})`` over the inputs of each output (or over
everything), such as its mean and variance. In one example it has the gradient

    a * g + sum_r b_r * t_r,    a = df/dw,  b_r = dh_r/dw,

with ``g`` that in ``u`` and ``t_r`` that in ``s_r``, a number for each output:

    t_q = sum (df/ds_q * g) + sum_{r > q} t_r sum dh_r/ds_q.

With ``g = sum_t x_t d_t^T``, as a product has it, the squares of this, summed over the
examples, are products again, and no gradient has to be written out.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.curvature.alignment import ELEMENTWISE, run_wide, values_of
from wpl_jax.curvature.sites import Product
from wpl_jax.curvature.split import Split, Step
from wpl_jax.trees import widen


class Reductions(NamedTuple):
    """How a value is made of a parameter with sums over it.

    Attributes:
      parameter: Place of the parameter.
      name: The value.
      steps: The operations.
      sums: Those of them that add up, in their order.
    """

    parameter: int
    name: int
    steps: list[Step]
    sums: list[Step]


def find(
    split: Split, parameter: int, name: int, product: Product
) -> Reductions | None:
    """Finds how a value is made of a parameter, None for a way that is not known.

    Args:
      split: The loss.
      parameter: Place of the parameter.
      name: A value without examples that depends on it.
      product: How the value is used.
    """
    shape = split.avals[split.params[parameter]].shape
    if split.avals[name].shape != shape:
        return None
    # Of each value that depends on the parameter, which axes of the parameter its own
    # axes are; None for an axis of length 1 beside them.
    axes: dict[int, tuple] = {split.params[parameter]: tuple(range(len(shape)))}
    sums: list[Step] = []
    for step in (steps := split.steps_to([name])):
        inputs = [v for v in step.inputs if v in axes]
        if not inputs:
            continue
        if step.equation is None or len(step.outputs) > 1:
            return None
        (output,) = step.outputs
        found = _axes_after(step, {axes[v] for v in inputs}, split, output, shape)
        if found is None:
            return None
        if step.equation.primitive.name == "reduce_sum":
            if found not in (product.outputs, ()):
                return None
            sums.append(step)
        axes[output] = found
    kept = {axes[step.outputs[0]] for step in sums}
    if len(kept) != 1 or axes.get(name) != tuple(range(len(shape))):
        return None
    return Reductions(parameter, name, steps, sums)


def _axes_after(step: Step, before: set[tuple], split: Split, output: int, shape):
    """Axes of an operation's result, or None if it does anything else."""
    primitive, params = step.equation.primitive.name, step.equation.params
    size = split.avals[output].shape
    if primitive in ELEMENTWISE:
        return _merged(before, size)
    if len(before) > 1:
        return None
    (axes,) = before
    if primitive == "reduce_sum" and axes == tuple(range(len(shape))):
        return tuple(axis for axis in axes if axis not in params["axes"])
    if primitive == "squeeze":
        return tuple(a for i, a in enumerate(axes) if i not in params["dimensions"])
    if primitive == "broadcast_in_dim":
        places = dict(zip(params["broadcast_dimensions"], axes, strict=True))
        if size == shape:
            fits = all(axis in (None, place) for place, axis in places.items())
            return tuple(range(len(shape))) if fits else None
        found = tuple(places.get(place) for place in range(len(size)))
        return _merged({found}, size)
    return None


def _merged(every: set[tuple], size) -> tuple | None:
    """Axes of what is broadcast against each other entry by entry."""
    every = {axes for axes in every if axes} or {()}
    if {len(axes) for axes in every} != {len(size)}:
        return None
    found = []
    for length, *axes in zip(size, *every, strict=True):
        own = {axis for axis in axes if axis is not None}
        if len(own) > 1 or (not own and length > 1):
            return None
        found.append(own.pop() if own else None)
    return tuple(found)


def squares(
    split: Split,
    how: Reductions,
    product: Product,
    leaves: list[Any],
    total: jax.Array,
    rows: jax.Array,
    results: jax.Array,
) -> jax.Array:
    """The sum over examples of the squared gradient in the parameter.

    Args:
      split: The loss.
      how: As :func:`find` found it.
      product: How the value is used.
      leaves: All parameters.
      total: The sum of squares of the value's gradient.
      rows: ``x``, ``[rows, examples, inputs]``.
      results: ``d``, ``[rows, examples, outputs]``.

    Returns:
      An array like the parameter, at least float32.
    """
    env = values_of(split, how.steps, leaves)
    names = [step.outputs[0] for step in how.sums]

    def pieces(w, sums):
        found = {split.params[how.parameter]: w, **dict(zip(names, sums, strict=True))}
        run_wide(how.steps, env, found)
        return found[how.name], [found[step.inputs[0]] for step in how.sums]

    w = widen(leaves[how.parameter])
    sums = [widen(env[name]) for name in names]
    ones = [jnp.ones_like(s) for s in sums]
    zeros = [jnp.zeros_like(s) for s in sums]
    # Each entry depends on one entry of each argument: a tangent of ones gives slopes.
    of_w = jax.jvp(pieces, (w, sums), (jnp.ones_like(w), zeros))[1]
    of_sums = [
        jax.jvp(
            pieces,
            (w, sums),
            (jnp.zeros_like(w), [*zeros[:q], ones[q], *zeros[q + 1 :]]),
        )[1]
        for q in range(len(sums))
    ]
    whole = math.prod(sums[0].shape) == 1  # one sum over everything

    def matrix(x):
        return product.matrices(x)[0]

    def multiply(matrix):
        return jnp.einsum("rni,io->rno", rows, matrix)

    handed: list[jax.Array] = [jnp.zeros(())] * len(sums)  # t, [examples, outputs or 1]
    for q in reversed(range(len(sums))):
        slope, of_later = of_sums[q]
        found = jnp.sum(multiply(matrix(slope)) * results, 0)
        handed[q] = jnp.sum(found, -1, keepdims=True) if whole else found
        for r in range(q + 1, len(sums)):
            weight = jnp.sum(matrix(of_later[r]), None if whole else 0)
            handed[q] += handed[r] * weight
    slope, of_each = matrix(of_w[0]), [matrix(x) for x in of_w[1]]
    result = slope**2 * matrix(total)
    like = jax.eval_shape(matrix, w)
    for q, (one, t) in enumerate(zip(of_each, handed, strict=True)):
        (mixed,) = jax.linear_transpose(multiply, like)(results * t)
        result += 2 * slope * one * mixed
        for r, (other, s) in enumerate(zip(of_each, handed, strict=True)):
            if r <= q:
                count = 1 if r == q else 2
                result += count * one * other * jnp.sum(t * s, 0)
    (back,) = jax.linear_transpose(matrix, jax.eval_shape(widen, w))(result)
    return jnp.maximum(back, 0)  # Below zero by rounding.
