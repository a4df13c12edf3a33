"""Squares on their way back through sums over a weight, as in weight standardization.

A weight ``w`` of inputs and outputs is used as ``u = f(w, s)``, entry by entry but for
sums ``s_r = sum h_r(w, s_1 ... s_{r-1})`` over the inputs of each output (or over
everything), such as its mean and variance. In one example it has the gradient

    a * g + sum_r b_r * t_r,    a = df/dw,  b_r = dh_r/dw,

with ``g`` that in ``u`` and ``t_r`` that in ``s_r``, a number for each output:

    t_q = sum (df/ds_q * g) + sum_{r > q} t_r sum dh_r/ds_q.

With ``g = sum_t x_t d_t^T``, as a product has it, the squares of this, summed over the
examples, are products again, and no gradient has to be written out.

Each sum takes two products, of ``df/ds_q`` with ``x`` and of ``x`` with ``t_r d``.
Where ``f`` is linear in ``w`` and each ``h_r`` at most quadratic, as in weight
standardization, ``df/ds_q`` and ``b_r`` are linear in ``w``. With a ``p_r`` and a
``q_r`` for each output and ``v``, the difference of ``w`` and its mean,

    sum_r b_r * t_r = sum_r p_r t_r + v * sum_r q_r t_r,

and all sums together take three products: of ``v`` with ``x``, and one for each term.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.trees import widen
from wpl_jax.curvature.alignment import ELEMENTWISE, SAME, run_wide, values_of
from wpl_jax.curvature.operations import Step
from wpl_jax.curvature.split import Split
from wpl_jax.curvature.uses import Product


class Reductions(NamedTuple):
    """How a value is made of a parameter with sums over it.

    Attributes:
      parameter: Place of the parameter.
      name: The value.
      steps: The operations.
      sums: Those of them that add up, in their order.
      is_linear: Whether ``f`` is linear in the parameter and each ``h_r`` at most
        quadratic, with coefficients that are the same for all inputs of an output.
    """

    parameter: int
    name: int
    steps: list[Step]
    sums: list[Step]
    is_linear: bool


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
    # Of each such value its degree as a polynomial in the parameter.
    degrees = {split.params[parameter]: 1.0}
    is_linear = True
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
            is_linear &= degrees[inputs[0]] <= 2
        axes[output] = found
        same_for_inputs = {None, *product.outputs}.issuperset(found)
        degrees[output] = 0 if same_for_inputs else _degree_after(step, degrees, split)
    kept = {axes[step.outputs[0]] for step in sums}
    if len(kept) != 1 or axes.get(name) != tuple(range(len(shape))):
        return None
    is_linear &= degrees[name] <= 1
    return Reductions(parameter, name, steps, sums, is_linear)


def _degree_after(step: Step, degrees: dict[int, float], split: Split) -> float:
    """Degree of an operation's result in the parameter, infinite for no polynomial.

    Args:
      step: The operation. Its result has axes of inputs.
      degrees: Of its arguments that depend on the parameter. Sums are of degree 0.
      split: The loss.
    """
    primitive, params = step.equation.primitive.name, step.equation.params
    others = [v for v in step.inputs if v not in degrees]
    if any(math.prod(split.avals[v].shape) > 1 for v in others):
        return math.inf  # May differ between the inputs of an output.
    before = [degrees.get(v, 0) for v in step.inputs]
    if not any(before):
        return 0
    if primitive in SAME | {"add", "broadcast_in_dim", "neg", "squeeze", "sub"}:
        return max(before)
    if primitive == "mul":
        return sum(before)
    if primitive == "div" and before[1] == 0:
        return before[0]
    if primitive == "square":
        return 2 * before[0]
    if primitive == "integer_pow" and params["y"] > 0:
        return params["y"] * before[0]
    return math.inf


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
    whole = math.prod(sums[0].shape) == 1  # one sum over everything

    def slopes(w):
        """Those in the parameter and in each sum."""
        # Each entry depends on one entry of each argument: a tangent of ones gives all.
        of_w = jax.jvp(pieces, (w, sums), (jnp.ones_like(w), zeros))[1]
        of_sums = [
            jax.jvp(
                pieces,
                (w, sums),
                (jnp.zeros_like(w), [*zeros[:q], ones[q], *zeros[q + 1 :]]),
            )[1]
            for q in range(len(sums))
        ]
        return of_w, of_sums

    def matrix(x):
        return product.matrices(x)[0]

    def multiply(matrix):
        return jnp.einsum("rni,io->rno", rows, matrix)

    def reach(matrix):
        """The gradient, ``[examples, outputs]``, of a sum with these slopes."""
        return jnp.sum(multiply(matrix) * results, 0)

    of_w, of_sums = slopes(w)
    if linear := how.is_linear and len(sums) > 1:
        inputs = [i for i in range(w.ndim) if whole or i not in product.outputs]
        mean = jnp.broadcast_to(jnp.mean(w, inputs, keepdims=True), w.shape)
        at_mean, change = jax.tree.map(
            lambda x: matrix(x)[:1],
            jax.jvp(slopes, (mean,), (jnp.ones_like(w),)),
        )
        distance = matrix(w - mean)
        level = jnp.sum(jnp.sum(rows, -1, keepdims=True) * results, 0)
        ascent = reach(distance)
        reached = [
            p * level + q * ascent
            for (p, _), (q, _) in zip(at_mean[1], change[1], strict=True)
        ]
    else:
        reached = [reach(matrix(of_f)) for of_f, _ in of_sums]
    handed: list[jax.Array] = [jnp.zeros(())] * len(sums)  # t, [examples, outputs or 1]
    for q in reversed(range(len(sums))):
        handed[q] = jnp.sum(reached[q], -1, keepdims=True) if whole else reached[q]
        for r in range(q + 1, len(sums)):
            weight = jnp.sum(matrix(of_sums[q][1][r]), None if whole else 0)
            handed[q] += handed[r] * weight
    slope, factors = matrix(of_w[0]), [matrix(x) for x in of_w[1]]
    if linear:
        factors = [jnp.ones_like(distance), distance]
        handed = [
            sum(b * t for b, t in zip(of[0][1], handed, strict=True))
            for of in (at_mean, change)
        ]
    result = slope**2 * matrix(total)
    like = jax.eval_shape(matrix, w)
    for q, (one, t) in enumerate(zip(factors, handed, strict=True)):
        (mixed,) = jax.linear_transpose(multiply, like)(results * t)
        result += 2 * slope * one * mixed
        for r, (other, s) in enumerate(zip(factors, handed, strict=True)):
            if r <= q:
                count = 1 if r == q else 2
                result += count * one * other * jnp.sum(t * s, 0)
    (back,) = jax.linear_transpose(matrix, jax.eval_shape(widen, w))(result)
    return jnp.maximum(back, 0)  # Below zero by rounding.
