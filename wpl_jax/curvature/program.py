"""A traced function as a flat list of operations, calls of jitted functions inlined."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

# Calls that only group operations. A rematerialized function is among them: what its
# weights meet has to be kept in any case.
_GROUPS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"} | {
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat2": "jaxpr",
}


class Node(NamedTuple):
    """One operation; values are named by integers."""

    equation: Any  # jaxpr equation
    inputs: list[int]
    outputs: list[int]


@dataclasses.dataclass
class Program:
    """The operations of a function in their order.

    Attributes:
      nodes: The operations.
      inputs: Names of the arguments.
      outputs: Names of the results.
      constants: Values of the names that are neither arguments nor computed.
      avals: Shape and dtype of each value.
    """

    nodes: list[Node]
    inputs: list[int]
    outputs: list[int]
    constants: dict[int, Any]
    avals: dict[int, Any]


def flatten(closed: Any) -> Program:
    """Lists the operations of a closed jaxpr.

    Args:
      closed: A ``ClosedJaxpr``, or a ``Jaxpr`` without constants.

    Returns:
      The program; its names count from 0.
    """
    if not isinstance(closed, core.ClosedJaxpr):
        closed = core.ClosedJaxpr(closed, ())
    names = itertools.count()
    program = Program([], [], [], {}, {})
    for var in closed.jaxpr.invars:
        program.inputs.append(_new(program, names, var.aval))
    program.outputs = _inline(closed, program.inputs, program, names)
    return program


def _new(program: Program, names: Any, aval: Any) -> int:
    name = next(names)
    program.avals[name] = aval
    return name


def _inline(closed, inputs: Sequence[int], program: Program, names) -> list[int]:
    """Appends the equations of a jaxpr, grouping calls opened up."""
    known = dict(zip(closed.jaxpr.invars, inputs, strict=True))
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        known[var] = _new(program, names, var.aval)
        program.constants[known[var]] = value

    def name(atom) -> int:
        if not isinstance(atom, core.Literal):
            return known[atom]
        index = _new(program, names, atom.aval)
        program.constants[index] = atom.val
        return index

    for equation in closed.jaxpr.eqns:
        arguments = [name(atom) for atom in equation.invars]
        field = _GROUPS.get(equation.primitive.name)
        if field in equation.params:
            inner = equation.params[field]
            if not isinstance(inner, core.ClosedJaxpr):
                inner = core.ClosedJaxpr(inner, ())
            outputs = _inline(inner, arguments, program, names)
        else:
            outputs = [_new(program, names, v.aval) for v in equation.outvars]
            program.nodes.append(Node(equation, arguments, outputs))
        known.update(zip(equation.outvars, outputs, strict=True))
    return [name(atom) for atom in closed.jaxpr.outvars]


def as_function(equation: Any) -> Callable[..., list[Any]]:
    """The operation of an equation as a function that returns a list."""

    def function(*arguments):
        params = equation.primitive.get_bind_params(equation.params)
        out = equation.primitive.bind(*arguments, **params)
        return out if equation.primitive.multiple_results else [out]

    return function


def holds_program(equation: Any) -> bool:
    """Whether the operation runs functions of its own, such as a loop's body."""
    return any(
        isinstance(leaf, core.Jaxpr | core.ClosedJaxpr) or callable(leaf)
        for leaf in jax.tree.leaves(list(equation.params.values()))
    )


def count_scanned(equation: Any) -> tuple[int, int]:
    """How many constants and how many carries come first among a scan's arguments."""
    params = equation.params
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carries, _ = params["ft_in"].unpack()  # jax 0.12
    return len(consts), len(carries)


EXAMPLE = "example"  # among what a value depends on, beside numbers of parameters

Origins = frozenset[Any]


def origins(equation: Any, inputs: Sequence[Origins]) -> list[Origins]:
    """What each result of an operation depends on, from what its arguments do.

    Whole numbers depend on no parameter: nothing can be differentiated through them.
    """
    union = frozenset[Any]().union(*inputs)
    discrete = union & {EXAMPLE}
    return [union if is_inexact(v.aval) else discrete for v in equation.outvars]


def output_origins(program: Program, inputs: Sequence[Origins]) -> list[Origins]:
    """What each output of a program depends on, from what its inputs do."""
    found: dict[int, Origins] = dict.fromkeys(program.constants, frozenset())
    found |= dict(zip(program.inputs, inputs, strict=True))
    for node in program.nodes:
        outputs = origins(node.equation, [found[v] for v in node.inputs])
        found |= dict(zip(node.outputs, outputs, strict=True))
    return [found[v] for v in program.outputs]


def is_inexact(aval: Any) -> bool:
    """Whether values are real or complex numbers."""
    return jnp.issubdtype(aval.dtype, jnp.inexact)
