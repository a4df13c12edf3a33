"""The parts of children of networks with choices: branches, and what is outside.

A part is used if the child runs its branch; a branch inside of another, if it runs
both. Parameters that several branches use are a part of their own, which is used if the
child runs any of them.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr

from wpl_jax.common.parts import Part, Program
from wpl_jax.spaces.choices.discovery import Discovered
from wpl_jax.spaces.choices.layout import Layout
from wpl_jax.spaces.choices.products import PRODUCTS, count
from wpl_jax.spaces.choices.uses import Chain
from wpl_jax.supernet import Architecture, Decision

OUTSIDE: Chain = ()


class Piece(NamedTuple):
    """A part, and the branches that use it."""

    part: Part
    chains: frozenset[Chain]


class Body(NamedTuple):
    """Operations of a branch, without those of choices inside of it."""

    jaxpr: Jaxpr
    first: int | None  # see wpl_jax.spaces.choices.discovery.Body
    times: int  # it runs, if the child runs the branch
    products: int  # of each time


def bodies(found: Discovered) -> dict[Chain, list[Body]]:
    """The operations outside of choices, and those of each branch.

    A branch has one body for each call of its choice.
    """
    by_chain: dict[Chain, list[Body]] = {}

    def visit(chain: Chain, jaxpr: Jaxpr, first: int | None, times: int) -> None:
        counted = count(jaxpr)
        body = Body(jaxpr, first, times, counted.pop(PRODUCTS, 0))
        by_chain.setdefault(chain, []).append(body)
        for call, number in counted.items():
            for decision, branch, inner, first in found.calls[call]:
                visit((*chain, (decision, branch)), inner, first, times * number)

    constants = len(found.outside.constvars)
    visit(OUTSIDE, found.outside, constants + len(found.parameters), 1)
    return by_chain


def find(
    found: Discovered,
    layout: Layout,
    examples: int,
    program_of: Callable[[Chain, int], Program],
) -> tuple[Piece, ...]:
    """Lists the parts of a network.

    Args:
      found: Its choices, traced.
      layout: Where its parameters are.
      examples: In the batch that it was traced with.
      program_of: The program that times a branch, or what is outside of choices, on a
        number of examples.
    """
    of_chains: dict[frozenset[Chain], int] = {}
    for number, parameter in enumerate(found.parameters):
        chains = parameter.chains or frozenset()
        if layout.is_shared(number):
            chains = frozenset([OUTSIDE])
        size = of_chains.get(chains, 0)
        of_chains[chains] = size + math.prod(parameter.shape)
    pieces, names = [], _Names(found.decisions)
    for chain, own in bodies(found).items():
        products = sum(body.times * body.products for body in own)
        program = functools.partial(program_of, chain)
        part = Part(
            names.new([chain]),
            of_chains.pop(frozenset([chain]), 0),
            products // examples,
            None if all(body.first is None for body in own) else program,
        )
        pieces.append(Piece(part, frozenset([chain])))
    for chains, size in of_chains.items():
        part = Part(f"parameters of {names.new(sorted(chains))}", size, 0)
        pieces.append(Piece(part, chains))
    return tuple(pieces)


def uses(
    pieces: Iterable[Piece], decisions: tuple[Decision, ...], architecture: Architecture
) -> jax.Array:
    """Whether each part is used, ``float32[parts]``.

    Args:
      pieces: The parts.
      decisions: Of the network.
      architecture: A child; or a mixture, of which a child is drawn by its weights.
        Then these are the probabilities that the child uses them.
    """
    weights = architecture.weights
    if weights is None:
        most = max(len(decision.choices) for decision in decisions)
        weights = jax.nn.one_hot(architecture.choice, most)
    known: dict[frozenset[Chain], jax.Array] = {}
    return jnp.stack([_probability(p.chains, weights, known) for p in pieces])


def _probability(
    chains: frozenset[Chain],
    weights: jax.Array,
    known: dict[frozenset[Chain], jax.Array],
) -> jax.Array:
    """The probability that a child runs one of the branches, ``float32[]``.

    Decisions are independent. The probability is that given the branch of one of
    them, weighted by the probability of the branch.
    """
    if OUTSIDE in chains or not chains:
        return jnp.float32(OUTSIDE in chains)
    if chains in known:
        return known[chains]
    decision = min(chains)[0][0]
    branches = {b for chain in chains for d, b in chain if d == decision}
    rest = 1.0 - sum(weights[decision, branch] for branch in branches)
    # With a branch that no chain names, and with each of the others.
    total = rest * _probability(_given(chains, decision, -1), weights, known)
    for branch in branches:
        own = _probability(_given(chains, decision, branch), weights, known)
        total += weights[decision, branch] * own
    known[chains] = total
    return total


def _given(chains: frozenset[Chain], decision: int, branch: int) -> frozenset[Chain]:
    """What is left of branches that may run if a decision is known."""
    return frozenset(
        tuple(pair for pair in chain if pair[0] != decision)
        for chain in chains
        if all(pair[1] == branch for pair in chain if pair[0] == decision)
    )


class _Names:
    """Names of parts, all different."""

    def __init__(self, decisions: tuple[Decision, ...]):
        self._decisions = decisions
        self._taken: set[str] = set()

    def new(self, chains: list[Chain]) -> str:
        """The name of the part that some branches use."""
        stem = " or ".join(map(self._name, chains[:2]))
        if len(chains) > 2:
            stem = f"{self._name(chains[0])} or {len(chains) - 1} others"
        names = (stem if i == 1 else f"{stem} ({i})" for i in itertools.count(1))
        name = next(name for name in names if name not in self._taken)
        self._taken.add(name)
        return name

    def _name(self, chain: Chain) -> str:
        found = (self._decisions[decision] for decision, _ in chain)
        names = (
            f"{decision.name}/{decision.choices[branch]}"
            for decision, (_, branch) in zip(found, chain, strict=True)
        )
        return "/".join(names) or "outside of choices"
