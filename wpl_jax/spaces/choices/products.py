"""Products that a traced network computes, and the choices that it calls."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr

from wpl_jax.spaces.choices.uses import stand_in

PRODUCTS = -1  # as a key beside the numbers of calls


def count(jaxpr: Jaxpr) -> Counter[int]:
    """Counts products in convolutions and matrix products, and calls of choices.

    What a ``scan`` repeats counts as often. Of a conditional, the largest number of any
    branch counts. The body of a ``while`` loop counts once, as nobody knows how often
    it runs.

    Args:
      jaxpr: Operations, in which one stands in for each call of a choice.

    Returns:
      The number of products, at ``PRODUCTS``, and how often each call is made, by its
      number. Products inside of choices are not counted.
    """
    total: Counter[int] = Counter()
    for equation in jaxpr.eqns:
        if call := stand_in(equation):
            total[call[1]] += 1
            continue
        name = equation.primitive.name
        if name in _PRODUCTS:
            total[PRODUCTS] += _PRODUCTS[name](equation)
        inner = [count(each) for each in _jaxprs_in(equation)]
        if name == "cond":
            inner = [_largest(inner)]
        times = equation.params["length"] if name == "scan" else 1
        for found in inner:
            total.update({key: times * number for key, number in found.items()})
    return total


def _of_dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    summed = math.prod(shape[axis] for axis in contracted)
    return summed * math.prod(equation.outvars[0].aval.shape)


def _of_convolution(equation: Any) -> int:
    kernel = equation.invars[1].aval.shape
    outputs = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
    return math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // outputs


_PRODUCTS = {"dot_general": _of_dot, "conv_general_dilated": _of_convolution}


def _largest(found: list[Counter[int]]) -> Counter[int]:
    """The largest count of each key."""
    largest: Counter[int] = Counter()
    for each in found:
        largest |= each
    return largest


def _jaxprs_in(equation: Any) -> Iterator[Jaxpr]:
    """Functions and bodies of loops, among the parameters of an operation."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else [value]:
            if isinstance(each, ClosedJaxpr):
                yield each.jaxpr
            elif isinstance(each, Jaxpr):
                yield each
