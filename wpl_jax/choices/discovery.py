"""What tracing a network finds: its choices, and the branches that use a parameter."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import get_opaque_trace_state

from wpl_jax.choices.branches import Branches, trace
from wpl_jax.choices.context import Call, running
from wpl_jax.choices.networks import Mode, Network
from wpl_jax.choices.uses import (
    Chain,
    branches_that_use,
    edges,
    name_of_stand_in,
    used,
)
from wpl_jax.common.checks import check_inexact, leaves_by_path
from wpl_jax.errors import UserError
from wpl_jax.supernet import Decision


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
    """

    decisions: tuple[Decision, ...]
    places: tuple[frozenset[Chain], ...]
    parameters: tuple[Parameter, ...]
    tree: Any
    edges: tuple[tuple[int, int], ...]
    form: Any


def discover(network: Network, inputs: tuple[Any, ...]) -> Discovered:
    """Traces a network with all branches of all choices; nothing is computed.

    Args:
      network: The network.
      inputs: Shapes of its inputs.

    Raises:
      UserError: If there is no choice, or one of them is wrong.
    """
    params = jax.eval_shape(network.init, jax.eval_shape(lambda: jax.random.key(0)))
    check_inexact(params)
    names = [name for name, _ in leaves_by_path(params)]
    leaves, tree = jax.tree.flatten(params)
    passes: list[_Discovery] = []

    def run(leaves, inputs):
        passes.append(_Discovery(leaves))
        with running(passes[-1]):
            found, _ = network.run(jax.tree.unflatten(tree, leaves), inputs, Mode())
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
    )


class _Discovery:
    """The pass that traces all branches."""

    def __init__(self, leaves: list[jax.Array]):
        self.decisions: dict[str, Decision] = {}
        self.places: dict[str, set[Chain]] = {}
        self.uses: list[set[Chain]] = [set() for _ in leaves]
        self.calls: list[list[frozenset[Chain]]] = []
        self._number_of = {id(leaf): i for i, leaf in enumerate(leaves)}
        self._leaves = leaves  # Kept, as identities are those of living objects.
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

        def stand_in(*others: Any) -> Any:
            del others
            form = branches.form
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), form)

        stand_in.__name__ = name_of_stand_in(number, len(self.calls) - 1)
        return jax.jit(stand_in)(*(array for array, _ in operands))
