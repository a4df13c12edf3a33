"""What the operations of a traced network tell: who uses a parameter, what feeds what.

While a network is traced to derive its space, a choice is an operation that stands in
for its branches. Its name has the number of the decision and that of the call.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

# Branches, one inside the other: decisions and their choices, by number.
Chain = tuple[tuple[int, int], ...]

_MARK = "wpl_jax_choice_"
# Calls of functions that have an argument for each operand.
_CALLS = ("jit", "pjit", "checkpoint", "remat2", "closed_call")


def name_of_stand_in(decision: int, call: int) -> str:
    """The name of the function that stands in for a choice."""
    return f"{_MARK}{decision}_{call}"


def stand_in(equation: Any) -> tuple[int, int] | None:
    """The decision and the call that an operation stands in for, by number.

    None of other operations.
    """
    name = str(equation.params.get("name", ""))
    if not name.startswith(_MARK):
        return None
    decision, call = name.removeprefix(_MARK).split("_")
    return int(decision), int(call)


def used(jaxpr: ClosedJaxpr) -> list[bool]:
    """Which arguments of a traced function it uses."""
    inner = jaxpr.jaxpr
    found = {
        id(v) for v in itertools.chain(inner.outvars, *(e.invars for e in inner.eqns))
    }
    return [id(v) in found for v in inner.invars]


def branches_that_use(
    jaxpr: Jaxpr,
    calls: Sequence[Sequence[frozenset[Chain]]],
    of_results: Sequence[frozenset[Chain] | None] | None = None,
) -> list[frozenset[Chain] | None]:
    """For each argument of a traced function the branches that use it.

    Functions that are jitted or rematerialized are looked into. What a loop is given
    is used outside of choices.

    Args:
      jaxpr: The function.
      calls: For each call of a choice the branches that use its operands.
      of_results: The same as is returned, for the results of the function; None if
        these are used outside of choices.

    Returns:
      None of an argument that is also used outside of choices.
    """
    found: dict[int, frozenset[Chain] | None] = {}

    def add(variable: Any, chains: frozenset[Chain] | None) -> None:
        before = found.get(id(variable), frozenset())
        both = before is not None and chains is not None
        found[id(variable)] = before | chains if both else None  # type: ignore[operator]

    for variable, chains in zip(
        jaxpr.outvars, of_results or itertools.repeat(None), strict=False
    ):
        add(variable, chains)
    # From the results back, so that the users of a result come before what made it.
    for equation in reversed(jaxpr.eqns):
        of_operands: Iterable[Any] = itertools.repeat(None)
        if call := stand_in(equation):
            of_operands = calls[call[1]]
        elif equation.primitive.name in _CALLS:
            inner = next(
                p
                for p in equation.params.values()
                if isinstance(p, Jaxpr | ClosedJaxpr)
            )
            of_operands = branches_that_use(
                inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner,
                calls,
                [found.get(id(v), frozenset()) for v in equation.outvars],
            )
        for variable, chains in zip(equation.invars, of_operands, strict=False):
            add(variable, chains)
    return [found.get(id(v), frozenset()) for v in jaxpr.invars]


def edges(
    jaxpr: ClosedJaxpr, num_params: int, outputs: int
) -> tuple[tuple[int, int], ...]:
    """Which decisions feed which, as far as they are outside of loops and branches."""
    inner = jaxpr.jaxpr
    inputs = inner.invars[num_params:]
    sources = {id(v): frozenset([-1]) for v in inputs}
    pairs: list[tuple[int, int]] = []

    def feeding(variables: Any) -> frozenset[int]:
        found = (
            sources.get(id(v), frozenset())
            for v in variables
            if not isinstance(v, Literal)
        )
        return frozenset().union(*found)

    for equation in inner.eqns:
        found = feeding(equation.invars)
        if call := stand_in(equation):
            number = call[0]
            pairs += [(source, number) for source in sorted(found)]
            found = frozenset([number])
        for variable in equation.outvars:
            sources[id(variable)] = found
    pairs += [(source, outputs) for source in sorted(feeding(inner.outvars))]
    return tuple(dict.fromkeys(pairs))
