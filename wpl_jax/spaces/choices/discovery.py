"""What tracing a network finds: its choices, and the branches that use a parameter."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, get_opaque_trace_state

from wpl_jax.common.checks import check_inexact, leaves_by_path
from wpl_jax.errors import UserError
from wpl_jax.spaces.choices.branches import Branches, trace
from wpl_jax.spaces.choices.context import Call, running
from wpl_jax.spaces.choices.networks import Mode, Network
from wpl_jax.spaces.choices.uses import (
    Chain,
    branches_that_use,
    edges,
    name_of_stand_in,
    used,
)
from wpl_jax.supernet import Decision

_RARE = 0.0123  # a value that arrays do not have


class Parameter(NamedTuple):
    """A parameter of a network with choices.

    Attributes:
      name: Its path in the tree, joined by ``/``.
      shape: Its shape.
      dtype: Its dtype.
      chains: The branches that use it; None if it is used outside of all choices.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    chains: frozenset[Chain] | None


class Body(NamedTuple):
    """A branch of one call of a choice.

    Attributes:
      decision: Number of the decision.
      branch: Number of the branch.
      jaxpr: Its operations. Arrays from outside are its constants.
      first: The position of an array that they depend on, among the constants and then
        the arguments: an operand if there is one, rather than a parameter. None if they
        use no numbers.
    """

    decision: int
    branch: int
    jaxpr: Jaxpr
    first: int | None


class Discovered(NamedTuple):
    """What a network chooses from, and with which parameters.

    Attributes:
      decisions: Its choices, in the order of their first calls.
      places: For each decision the branches that it is made in, ``()`` for outside of
        all others.
      parameters: Its parameters, in the order of the tree's leaves.
      tree: The structure of the tree of parameters.
      edges: Pairs of decisions of which the first feeds the second; ``-1`` are the
        inputs, and the number of decisions is what the network returns.
      form: Shapes of what it returns.
      batch_stats: Shapes of its batch statistics.
      outside: Its operations, with one that stands in for each call of a choice.
      calls: For each call the branches that it may run.
    """

    decisions: tuple[Decision, ...]
    places: tuple[frozenset[Chain], ...]
    parameters: tuple[Parameter, ...]
    tree: Any
    edges: tuple[tuple[int, int], ...]
    form: Any
    batch_stats: Any
    outside: Jaxpr
    calls: tuple[tuple[Body, ...], ...]


def discover(
    network: Network,
    inputs: tuple[Any, ...],
    batch_stats: Any = None,
    timed: bool = False,
) -> Discovered:
    """Traces a network with all branches of all choices; nothing is computed.

    Args:
      network: The network.
      inputs: Shapes of its inputs.
      batch_stats: Batch statistics to normalize with; None for those of the batch.
      timed: Whether its operations are to be timed without those of choices: the
        compiler then knows nothing of the arrays that stand in for their results.

    Raises:
      UserError: If there is no choice, or one of them is wrong.
    """
    params = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))
    check_inexact(params)
    names = [name for name, _ in leaves_by_path(params)]
    leaves, tree = jax.tree.flatten(params)
    passes: list[_Discovery] = []

    def run(leaves, inputs):
        passes.append(_Discovery(leaves, _unknown if timed else _zeros))
        with running(passes[-1]):
            params, mode = jax.tree.unflatten(tree, leaves), Mode(None, batch_stats)
            found, stats = network.run(params, inputs, mode)
        passes[-1].batch_stats = jax.tree.map(jax.typeof, stats)
        return found

    jaxpr, form = jax.make_jaxpr(run, return_shape=True)(leaves, inputs)
    seen = passes[-1]
    if not seen.decisions:
        raise UserError(
            "The network makes no choice: call wpl_jax.choice or "
            "wpl_jax.choice_of_inputs in it."
        )
    in_calls = branches_that_use(jaxpr.jaxpr, seen.calls)[: len(leaves)]
    parameters = tuple(
        Parameter(name, leaf.shape, leaf.dtype, None if more is None else more | chains)
        for name, leaf, more, chains in zip(
            names, leaves, in_calls, seen.uses, strict=True
        )
    )
    return Discovered(
        tuple(seen.decisions.values()),
        tuple(map(frozenset, seen.places.values())),
        parameters,
        tree,
        edges(jaxpr, len(leaves), len(seen.decisions)),
        form,
        seen.batch_stats,
        jaxpr.jaxpr,
        tuple(seen.bodies),
    )


class _Discovery:
    """The pass that traces all branches."""

    def __init__(self, leaves: list[jax.Array], result: Callable[..., Any]):
        self.decisions: dict[str, Decision] = {}
        self.places: dict[str, set[Chain]] = {}
        self.uses: list[set[Chain]] = [set() for _ in leaves]
        self.calls: list[list[frozenset[Chain]]] = []
        self.bodies: list[tuple[Body, ...]] = []
        self.batch_stats: Any = ()
        self._number_of = {id(leaf): i for i, leaf in enumerate(leaves)}
        self._leaves = leaves  # Kept, as identities are those of living objects.
        self._result = result
        self._shared: dict[str, bool] = {}
        self._seen: dict[str, list[Any]] = {}
        self._chain: Chain = ()

    def choose(self, call: Call) -> Any:
        number = self._register(call)
        choices = list(call.branches)

        @contextlib.contextmanager
        def entering(label: str) -> Iterator[None]:
            before = self._chain
            self._chain = (*before, (number, choices.index(label)))
            try:
                yield
            finally:
                self._chain = before

        branches = trace(call, entering)
        return self._stand_in(branches, number)

    def _register(self, call: Call) -> int:
        """The number of the decision, after checks of its name and choices."""
        name, here = call.name, get_opaque_trace_state(convention="nnx")
        decision = Decision(name, tuple(call.branches))
        before = self.decisions.setdefault(name, decision)
        again = here in self._seen.setdefault(name, [])
        shared = self._shared.setdefault(name, call.shared)
        if (again or shared != call.shared) and not (shared and call.shared):
            raise UserError(
                f"The name {name!r} is that of two choices. Give each its own, such "
                f'as f"{name}_{{i}}" in a loop; or pass shared=True to all calls of '
                "this name, if they are one decision."
            )
        if before != decision:
            raise UserError(
                f"The choice {name!r} has the {call.nouns} {list(decision.choices)} "
                f"in one call and {list(before.choices)} in another, expected the "
                "same in both."
            )
        self._seen[name].append(here)
        self.places.setdefault(name, set()).add(self._chain)
        return list(self.decisions).index(name)

    def _stand_in(self, branches: Branches, number: int) -> Any:
        """Notes what the branches use, and returns arrays of the right shapes.

        These depend on all that the branches use, but for the parameters.
        """
        arguments = jax.tree.leaves((branches.modules.state, branches.call.operands))
        # By identity: other arrays, and the branches that use them.
        others: dict[int, tuple[Any, set[Chain]]] = {}
        for choice, jaxpr in enumerate(branches.traced):
            own = [
                x for x, is_used in zip(arguments, used(jaxpr), strict=True) if is_used
            ]
            for array in (*own, *jaxpr.consts):
                chains = others.setdefault(id(array), (array, set()))[1]
                if id(array) in self._number_of:
                    chains = self.uses[self._number_of[id(array)]]
                chains.add((*self._chain, (number, choice)))
        operands = [x for i, x in others.items() if i not in self._number_of]
        self.calls.append([frozenset(chains) for _, chains in operands])
        # Branches that only return what is computed in any case have no operations.
        run = () if branches.call.computed else branches.traced
        first = [self._first(branches, closed) for closed in run]
        self.bodies.append(
            tuple(
                Body(number, i, closed.jaxpr, at)
                for i, (closed, at) in enumerate(zip(run, first, strict=True))
            )
        )

        def stand_in(*others: Any) -> Any:
            return self._result(branches.form, [x for x in others if _is_number(x)])

        stand_in.__name__ = name_of_stand_in(number, len(self.calls) - 1)
        return jax.jit(stand_in)(*(array for array, _ in operands))

    def _first(self, branches: Branches, closed: ClosedJaxpr) -> int | None:
        """See :attr:`Body.first`."""
        constants, states = len(closed.consts), len(branches.modules.state)
        in_use = [True] * constants + used(closed)

        def rank(place: int) -> int:
            if place >= constants + states:
                return 0  # an operand
            if place < constants:
                return 2 if id(closed.consts[place]) in self._number_of else 1
            return 3

        variables = [*closed.jaxpr.constvars, *closed.jaxpr.invars]
        numbers = (
            (rank(i), -v.aval.size, i)
            for i, v in enumerate(variables)
            if in_use[i] and _is_number(v.aval)
        )
        return min(numbers, default=(0, 0, None))[2]


def _is_number(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.number)


def _zeros(form: Any, arrays: list[Any]) -> Any:
    """Arrays of given shapes."""
    del arrays
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)


def _unknown(form: Any, arrays: list[Any]) -> Any:
    """Arrays of which the compiler knows nothing, and for which it computes others.

    Args:
      form: Shapes of what is returned.
      arrays: What is to be computed.
    """
    if not arrays:
        return _zeros(form, arrays)

    def filled(value: Any) -> Any:
        return jax.tree.map(lambda x: jnp.full(x.shape, value).astype(x.dtype), form)

    value = jnp.float32(jnp.ravel(arrays[0])[0])
    # Nearly always the second: it costs nothing, and is no sum over all elements.
    return jax.lax.cond(
        value == _RARE,
        lambda arrays: filled(sum(jnp.float32(jnp.sum(x)) for x in arrays)),
        lambda arrays: filled(value),
        arrays,
    )
