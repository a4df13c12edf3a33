"""Parameters that reach a value entry by entry, and squares on their way back.

Let each entry of a value ``u = j(w)`` depend on at most one entry of a parameter ``w``,
and each entry of ``w`` be in at most one entry of ``u``. Then the Jacobian has at most
one entry in each row and column, and the square of a gradient goes back through it as

    (J^T g)^2 = (J^T 1) * (J^T g^2).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.trees import widen
from wpl_jax.curvature.operations import Arrays, Step, run_steps
from wpl_jax.curvature.program import is_inexact
from wpl_jax.curvature.split import Split

# Operations that leave real numbers what they are, but for rounding.
SAME = {"convert_element_type", "copy", "copy_p", "reduce_precision"}

# Operations that move entries, or leave some out, without mixing them.
_LAYOUT = {"expand_dims", "reshape", "rev", "slice", "squeeze", "transpose"}

# Operations entry by entry, with one or more arguments of the same shape.
ELEMENTWISE = SAME | {
    "abs", "acos", "acosh", "add", "add_any", "asin", "asinh", "atan", "atan2",
    "atanh", "cbrt", "cos", "cosh", "div", "erf", "erf_inv", "erfc", "exp", "exp2",
    "expm1", "integer_pow", "lgamma", "log", "log1p", "logistic", "max", "min", "mul",
    "neg", "pow", "rsqrt", "select_n", "sign", "sin", "sinh", "sqrt", "square", "sub",
    "tan", "tanh",
}  # fmt: skip


def is_aligned(split: Split, parameter: int, name: int) -> bool:
    """Whether a parameter reaches a value entry by entry.

    Args:
      split: The loss.
      parameter: Place of the parameter.
      name: A value without examples that depends on it.
    """
    # For each value that depends on the parameter, what was done to its layout. Only
    # entries that came the same way may meet each other.
    layouts: dict[int, tuple] = {split.params[parameter]: ()}
    for step in split.steps_to([name]):
        inputs = [v for v in step.inputs if v in layouts]
        found = {layouts[v] for v in inputs}
        if not found:
            continue
        if step.equation is None or len(found) > 1 or len(step.outputs) > 1:
            return False
        (layout,), (output,) = found, step.outputs
        primitive, shape = step.equation.primitive.name, split.avals[output].shape
        shapes = {split.avals[v].shape for v in inputs}
        sizes = {math.prod(each) for each in shapes}
        if primitive in _LAYOUT or (
            primitive == "broadcast_in_dim" and sizes == {math.prod(shape)}
        ):
            layout = (*layout, (primitive, str(step.equation.params)))
        elif primitive not in ELEMENTWISE or shapes != {shape}:
            return False
        layouts[output] = layout
    return name in layouts


def pull_squares(
    split: Split, parameter: int, name: int, leaves: list[Any], squares: jax.Array
) -> jax.Array:
    """Squares of a value's gradient as those of a parameter that reaches it aligned.

    Args:
      split: The loss.
      parameter: Place of the parameter.
      name: The value.
      leaves: All parameters.
      squares: Of the value, at least float32.

    Returns:
      An array like the parameter, at least float32.
    """
    own = split.params[parameter]
    if own == name:
        return squares
    steps = split.steps_to([name])
    env = values_of(split, steps, leaves)

    def reach(x):
        found = {own: x}
        run_wide(steps, env, found)
        return found[name]

    value, pull = jax.vjp(reach, widen(leaves[parameter]))
    (slope,) = pull(jnp.ones_like(value))
    (moved,) = pull(squares.astype(value.dtype))
    return slope * moved


def values_of(split: Split, steps: list[Step], leaves: list[Any]) -> Arrays:
    """All values that some operations read and compute, by name."""
    env = split.constants | dict(zip(split.params, leaves, strict=True))
    run_steps(steps, env)
    return env


def run_wide(steps: list[Step], env: Arrays, found: Arrays) -> None:
    """Runs operations again at full width: squares overflow in half precision.

    Args:
      steps: Operations entry by entry, or that move entries or add them up.
      env: What they computed, by name; taken where ``found`` has nothing.
      found: What is to be taken instead. Results of operations that depend on it are
        added, but for those that it has already.
    """
    dtype = jnp.result_type(*found.values())
    for step in steps:
        if step.outputs[0] in found or not any(v in found for v in step.inputs):
            continue
        arguments = [found.get(v, env[v]) for v in step.inputs]
        if step.equation.primitive.name in SAME:
            (found[step.outputs[0]],) = arguments
            continue
        arguments = [
            jnp.asarray(x, dtype) if is_inexact(jnp.asarray(x)) else x
            for x in arguments
        ]
        (found[step.outputs[0]],) = step.function(*arguments)
