"""Products in a traced program, counted from its operations."""

import math

import jax


def multiply_adds(function, *arguments):
    """Products in the convolutions and matrix products of a function's trace."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr):
    total = 0
    for equation in jaxpr.eqns:
        name, (result, *_) = equation.primitive.name, equation.outvars
        shapes = [v.aval.shape for v in equation.invars if hasattr(v.aval, "shape")]
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            summed = math.prod(shapes[0][axis] for axis in contracted)
            total += math.prod(result.aval.shape) * summed
        elif name == "conv_general_dilated":
            outputs = shapes[1][equation.params["dimension_numbers"].rhs_spec[0]]
            total += math.prod(result.aval.shape) * math.prod(shapes[1]) // outputs
        times = equation.params["length"] if name == "scan" else 1
        total += times * sum(map(_count, _programs_in(equation.params)))
    return total


def _programs_in(params):
    """Those of jitted functions and loops, among the parameters of an operation."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else [value]:
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                yield each
