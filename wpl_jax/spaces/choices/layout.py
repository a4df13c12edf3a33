"""Parameters of a network with choices, as stacks of which a child uses rows.

Parameters that no child uses together, because they belong to different branches of one
choice, are rows of one stack if they have the same shape. A child has one place for
them, with the parameter of its branch, or with zeros if its branch has none. So a child
has as many parameters as the largest network with fixed choices, and not all of them.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.spaces.choices.discovery import Discovered, Parameter
from wpl_jax.spaces.choices.uses import Chain
from wpl_jax.supernet import ALL, EVERY_ROW, PAD, Architecture, Decision

_SHARED, _CHOICES = "shared", "choices"


class Place(NamedTuple):
    """A stack, of which a child uses one row at most.

    Attributes:
      decision: Name of the decision that its parameters belong to.
      name: Of the stack.
      members: Numbers of the parameters, a row for each.
    """

    decision: str
    name: str
    members: tuple[int, ...]


class Layout(NamedTuple):
    """Where each parameter of the network is in the tree of the supernet.

    Attributes:
      parameters: Those of the network.
      places: The stacks.
    """

    parameters: tuple[Parameter, ...]
    places: tuple[Place, ...]

    def stack(self, leaves: Sequence[Any]) -> dict[str, Any]:
        """The tree of the supernet.

        Args:
          leaves: The network's parameters.

        Returns:
          ``shared``, parameters by name; ``choices``, stacks by decision and name.
        """
        shared = {
            self.parameters[i].name: leaves[i]
            for i in range(len(leaves))
            if self.is_shared(i)
        }
        stacks = (jnp.stack([leaves[i] for i in p.members]) for p in self.places)
        return self._tree(shared, stacks)

    def unstack(self, child: dict[str, Any], whole: bool) -> list[Any]:
        """The network's parameters, those of branches that do not run being others.

        Args:
          child: Parameters of a child.
          whole: Whether these are all rows, as those of a mixture.
        """
        found: dict[str, Any] = dict(child[_SHARED])
        leaves = [found.get(p.name) for p in self.parameters]
        for place in self.places:
            stack = child[_CHOICES][place.decision][place.name]
            # One array for all members, so that it has one gradient.
            first = stack if whole else stack[0]
            for row, member in enumerate(place.members):
                leaves[member] = stack[row] if whole else first
        return leaves

    def rows(self, architecture: Architecture) -> dict[str, Any]:
        """The rows of an architecture; see :meth:`wpl_jax.supernet.Space.rows`."""
        shared = {
            p.name: ALL for i, p in enumerate(self.parameters) if self.is_shared(i)
        }
        if architecture.weights is not None:
            return self._tree(shared, [EVERY_ROW] * len(self.places))
        return self._tree(
            shared, [self._row(architecture.choice, place) for place in self.places]
        )

    def is_shared(self, number: int) -> bool:
        """Whether all children share the parameter of a number."""
        return not any(number in place.members for place in self.places)

    def _row(self, choice: jax.Array, place: Place) -> jax.Array:
        """The row that a child uses, ``int32[1]``."""
        row = jnp.int32(PAD)
        for number, member in enumerate(place.members):
            chains = self.parameters[member].chains or ()
            row = jnp.where(is_run(choice, chains), number, row)
        return row[None]

    def _tree(self, shared: dict[str, Any], stacks: Any) -> dict[str, Any]:
        choices: dict[str, dict[str, Any]] = {}
        for place, stack in zip(self.places, stacks, strict=True):
            choices.setdefault(place.decision, {})[place.name] = stack
        return {_SHARED: shared, _CHOICES: choices}


def lay_out(found: Discovered) -> Layout:
    """The stacks of a network's parameters."""
    parameters, sizes = found.parameters, [len(d.choices) for d in found.decisions]
    members: list[list[int]] = []
    for number, parameter in enumerate(parameters):
        chains = parameter.chains
        if not chains or _are_all_branches(chains, sizes):
            continue
        fitting = (
            stack
            for stack in members
            if all(_exclude(parameter, parameters[other]) for other in stack)
        )
        stack = next(fitting, None)
        if stack is None:
            members.append([number])
        else:
            stack.append(number)
    taken: set[tuple[str, str]] = set()
    places = []
    for stack in members:
        decision = _decision_of(parameters[stack[0]], found.decisions)
        ends = dict.fromkeys(parameters[i].name.rpartition("/")[2] for i in stack)
        stem = "+".join(ends) or "parameter"
        names = (stem if i == 1 else f"{stem}_{i}" for i in itertools.count(1))
        name = next(name for name in names if (decision, name) not in taken)
        taken.add((decision, name))
        places.append(Place(decision, name, tuple(stack)))
    return Layout(parameters, tuple(places))


def is_run(choice: Any, chains: Any) -> Any:
    """Whether a child runs one of the branches, ``bool[]``.

    Args:
      choice: The child, ``int32[num_decisions]``.
      chains: The branches.
    """
    found = jnp.bool(False)
    for chain in chains:
        each = [choice[decision] == branch for decision, branch in chain]
        found |= jnp.all(jnp.stack(each)) if each else jnp.bool(True)
    return found


def _are_all_branches(chains: frozenset[Chain], sizes: list[int]) -> bool:
    """Whether every branch of a choice that every child makes is among them."""
    single = [chain[0] for chain in chains if len(chain) == 1]
    return any(
        all((decision, branch) in single for branch in range(size))
        for decision, size in enumerate(sizes)
    )


def _exclude(one: Parameter, other: Parameter) -> bool:
    """Whether two parameters have the same shape, and no child uses both."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    pairs = itertools.product(one.chains or (), other.chains or ())
    return all(
        any(a[0] == b[0] and a[1] != b[1] for a in first for b in second)
        for first, second in pairs
    )


def _decision_of(parameter: Parameter, decisions: tuple[Decision, ...]) -> str:
    """The name of the decision of the first branch that uses a parameter."""
    decision, _ = min(parameter.chains or ())[-1]
    return decisions[decision].name
