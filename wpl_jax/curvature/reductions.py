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
    use = _Use(product, rows, results)
    w = widen(leaves[how.parameter])
    slopes, sums = _slopes(split, how, leaves)
    whole = math.prod(sums[0].shape) == 1  # one sum over everything
    of_w, of_sums = slopes(w)
    if how.is_linear and len(sums) > 1:
        terms = _terms(slopes, w, use, whole)
        handed = _handed(terms.reached(use), of_sums, use, whole)
        factors, handed = terms.of_all_sums(handed)
    else:
        factors = [use.matrix(x) for x in of_w[1]]
        reached = [use.reach(use.matrix(of_f)) for of_f, _ in of_sums]
        handed = _handed(reached, of_sums, use, whole)
    like = jax.eval_shape(use.matrix, w)
    result = _expanded(use, total, use.matrix(of_w[0]), factors, handed, like)
    (back,) = jax.linear_transpose(use.matrix, jax.eval_shape(widen, w))(result)
    return jnp.maximum(back, 0)  # Below zero by rounding.


class _Use(NamedTuple):
    """The product in which the value is used, in all examples."""

    product: Product
    rows: jax.Array  # x, [rows, examples, inputs]
    results: jax.Array  # d, [rows, examples, outputs]

    def matrix(self, x: Any) -> Any:
        """An array like the value as a matrix, ``[inputs, outputs]``."""
        return self.product.matrices(x)[0]

    def multiply(self, matrix: jax.Array) -> jax.Array:
        """The product with the rows, ``[rows, examples, outputs]``."""
        return jnp.einsum("rni,io->rno", self.rows, matrix)

    def reach(self, matrix: jax.Array) -> jax.Array:
        """The gradient, ``[examples, outputs]``, of a sum with these slopes."""
        return jnp.sum(self.multiply(matrix) * self.results, 0)


def _slopes(split: Split, how: Reductions, leaves: list[Any]) -> tuple[Any, list[Any]]:
    """A function that returns the slopes at a parameter, and the sums.

    The slopes are pairs, ``df`` and those ``dh_r`` of all sums: one in the parameter,
    then a list with one in each sum.
    """
    env = values_of(split, how.steps, leaves)
    names = [step.outputs[0] for step in how.sums]

    def pieces(w, sums):
        found = {split.params[how.parameter]: w, **dict(zip(names, sums, strict=True))}
        run_wide(how.steps, env, found)
        return found[how.name], [found[step.inputs[0]] for step in how.sums]

    sums = [widen(env[name]) for name in names]
    ones = [jnp.ones_like(s) for s in sums]
    zeros = [jnp.zeros_like(s) for s in sums]

    def slopes(w):
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

    return slopes, sums


class _Terms(NamedTuple):
    """Slopes that are linear in the parameter: ``p + v q``."""

    p: Any  # like the slopes, of [1, outputs]; at the mean of the parameter
    q: Any  # the same; their change
    v: jax.Array  # [inputs, outputs]; the parameter's difference from its mean

    def reached(self, use: _Use) -> list[jax.Array]:
        """The gradients in the sums by way of the value, ``[examples, outputs]``."""
        level = jnp.sum(jnp.sum(use.rows, -1, keepdims=True) * use.results, 0)
        ascent = use.reach(self.v)
        return [
            p * level + q * ascent
            for (p, _), (q, _) in zip(self.p[1], self.q[1], strict=True)
        ]

    def of_all_sums(self, handed: list[jax.Array]) -> tuple[list[Any], list[Any]]:
        """Factors 1 and ``v``, and ``sum_r p_r t_r`` and ``sum_r q_r t_r``."""
        together = [
            sum(b * t for b, t in zip(of[0][1], handed, strict=True))
            for of in (self.p, self.q)
        ]
        return [jnp.ones_like(self.v), self.v], together


def _terms(slopes: Any, w: jax.Array, use: _Use, whole: bool) -> _Terms:
    """Slopes that are linear in the parameter ``w`` as their terms."""
    inputs = [i for i in range(w.ndim) if whole or i not in use.product.outputs]
    mean = jnp.broadcast_to(jnp.mean(w, inputs, keepdims=True), w.shape)
    p, q = jax.tree.map(
        lambda x: use.matrix(x)[:1], jax.jvp(slopes, (mean,), (jnp.ones_like(w),))
    )
    return _Terms(p, q, use.matrix(w - mean))


def _handed(
    reached: list[jax.Array], of_sums: list[Any], use: _Use, whole: bool
) -> list[jax.Array]:
    """The gradients ``t`` in the sums, ``[examples, outputs]``, or 1 in place of them.

    Args:
      reached: The part of each that comes by way of the value.
      of_sums: The slopes in each sum.
      use: How the value is used.
      whole: Whether the sums are over everything.
    """
    handed: list[jax.Array] = [jnp.zeros(())] * len(reached)
    for q in reversed(range(len(reached))):
        handed[q] = jnp.sum(reached[q], -1, keepdims=True) if whole else reached[q]
        for r in range(q + 1, len(reached)):
            weight = jnp.sum(use.matrix(of_sums[q][1][r]), None if whole else 0)
            handed[q] += handed[r] * weight
    return handed


def _expanded(
    use: _Use,
    total: jax.Array,
    slope: jax.Array,
    factors: list[Any],
    handed: list[Any],
    like: Any,
) -> jax.Array:
    """Squares of ``a * g + sum_r b_r * t_r`` over the examples, ``[inputs, outputs]``.

    Args:
      use: How the value is used.
      total: The sum of squares of ``g``, like the value.
      slope: ``a``, ``[inputs, outputs]``.
      factors: Each ``b_r``, the same.
      handed: Each ``t_r``, ``[examples, outputs or 1]``.
      like: Shape and dtype of the value as a matrix.
    """
    result = slope**2 * use.matrix(total)
    for q, (one, t) in enumerate(zip(factors, handed, strict=True)):
        (mixed,) = jax.linear_transpose(use.multiply, like)(use.results * t)
        result += 2 * slope * one * mixed
        for r, (other, s) in enumerate(zip(factors, handed, strict=True)):
            if r <= q:
                count = 1 if r == q else 2
                result += count * one * other * jnp.sum(t * s, 0)
    return result
