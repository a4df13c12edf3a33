"""What a search space is: decisions, shared parameters, and the part a child uses.

An architecture is an ``int32[num_decisions]`` vector: for each decision, the index
of its choice. Strategies see the decisions and nothing else, so that each works on
every space.

Shared parameters that only some children use are stacked along a leading axis, and
a child is a set of rows of each stack. :func:`gather` takes them out and
:func:`scatter` puts them back, so that between the two, a training step costs what
the child costs and not what the supernet does; :func:`mask` tells the same to code
that works on all shared parameters. The rows are data: every child runs in the
compilation of the first.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.errors import UserError, shorten


class Decision(NamedTuple):
    """One choice that a space leaves open."""

    name: str
    choices: tuple[str, ...]
    ordered: bool = False  # nodes, say, the nearest one last


class Space(Protocol):
    """A supernet: every method is pure and takes the architecture as data.

    A space is hashable, and equal to another with the same settings.
    """

    name: str
    decisions: tuple[Decision, ...]

    def init(self, key: jax.Array) -> Any:
        """The shared parameters of all children."""

    def rows(self, architecture: jax.Array) -> Any:
        """Which rows of each shared parameter a child uses.

        Returns:
          A tree like the parameters; each leaf the distinct indices of the rows,
          ``int32[n]``, or ``ALL`` where every child uses the whole parameter. Where
          children differ in how many rows they use, ``PAD + i`` fills up.
        """

    def apply(
        self, child: Any, architecture: jax.Array, inputs: jax.Array, **kwargs: Any
    ) -> Any:
        """The forward pass of one child.

        Args:
          child: Its parameters, as :func:`gather` takes them out.
          architecture: ``int32[num_decisions]``.
          inputs: What the task feeds it.
          **kwargs: What the task passes besides.
        """

    def graphs(self, architecture: Any) -> dict[str, "Graph"]:
        """One child as pictures have it: its cells by their names."""


class Graph(NamedTuple):
    """A child for people to look at: nodes by name, from inputs to outputs."""

    nodes: dict[str, str]  # name to label, each after those that feed it
    edges: tuple[tuple[str, str, str], ...]  # from, to, label


ALL = slice(None)  # as rows: the whole parameter, which every child uses
PAD = 2**30  # an index from here on is of no row: a place that stays zero


def gather(params: Any, rows: Any) -> Any:
    """Takes one child's parameters out of the shared ones.

    Args:
      params: The shared parameters, or a tree like them.
      rows: As :meth:`Space.rows` gives it.

    Returns:
      A tree like ``params``, its leaves cut down to the rows; zeros for ``PAD``.
    """

    def take(p, index):
        return p if is_all(index) else p.at[index].get(mode="fill", fill_value=0)

    return jax.tree.map(take, params, rows)


def scatter(params: Any, rows: Any, child: Any) -> Any:
    """Puts one child's parameters back where :func:`gather` took them.

    Returns:
      A tree like ``params``, unchanged outside the rows.
    """

    def put(p, index, c):
        if is_all(index):
            return c
        return p.at[index].set(c, mode="drop", unique_indices=True)

    return jax.tree.map(put, params, rows, child)


def add_rows(params: Any, rows: Any, child: Any) -> Any:
    """Adds one child's parameters to where :func:`gather` would take them."""

    def add(p, index, c):
        if is_all(index):
            return p + c
        return p.at[index].add(c, mode="drop", unique_indices=True)

    return jax.tree.map(add, params, rows, child)


def mask(params: Any, rows: Any) -> Any:
    """A tree like ``params`` of 0/1 arrays that broadcast to them.

    1 on the shared parameters that the child uses.
    """

    def used(p, index):
        if is_all(index):
            return jnp.ones(())
        return jnp.zeros((len(p),) + (1,) * (p.ndim - 1)).at[index].set(1, mode="drop")

    return jax.tree.map(used, params, rows)


def real_rows(child: Any, rows: Any) -> Any:
    """A tree like ``child`` of 0/1 arrays that broadcast to it.

    1 where it holds parameters, 0 where a place is filled up with ``PAD``.
    """

    def there(c, index):
        if is_all(index):
            return jnp.ones(())
        return jnp.float32(index < PAD).reshape(-1, *(1,) * (c.ndim - 1))

    return jax.tree.map(there, child, rows)


def num_parameters(child: Any, rows: Any) -> jax.Array:
    """How many parameters a child has, ``int32[]``."""
    counts = jax.tree.map(
        lambda c, there: jnp.sum(there, dtype=jnp.int32) * (c.size // there.size),
        child,
        real_rows(child, rows),
    )
    return sum(jax.tree.leaves(counts), jnp.int32(0))


def is_all(index: Any) -> bool:
    """Whether rows are ``ALL``; an array cannot be compared with it."""
    return isinstance(index, slice)


def num_choices(decisions: Sequence[Decision]) -> tuple[int, ...]:
    """The number of choices of each decision."""
    return tuple(len(decision.choices) for decision in decisions)


def random_architecture(key: jax.Array, decisions: Sequence[Decision]) -> jax.Array:
    """Draws every decision uniformly, ``int32[num_decisions]``."""
    bounds = jnp.asarray(num_choices(decisions))
    return jax.random.randint(key, bounds.shape, 0, bounds, jnp.int32)


def names_of_choices(space: Space, architecture: Any) -> dict[str, str]:
    """What an architecture chooses, by the names of its decisions.

    Args:
      space: The space.
      architecture: ``int32[num_decisions]``.
    """
    return {
        decision.name: decision.choices[int(index)]
        for decision, index in zip(
            space.decisions, np.asarray(architecture), strict=True
        )
    }


def architecture_to_json(space: Space, architecture: Any) -> str:
    """An architecture as readable JSON, by the names of its decisions."""
    chosen = names_of_choices(space, architecture)
    return json.dumps({"space": space.name, "decisions": chosen}, indent=1) + "\n"


def architecture_from_json(space: Space, text: str) -> np.ndarray:
    """Reads what :func:`architecture_to_json` wrote.

    Returns:
      The architecture, ``int32[num_decisions]``.

    Raises:
      UserError: If the text is not JSON, is of another space, lacks a decision or
        makes one that the space does not offer.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"The architecture is not JSON: {error}.") from error
    if not isinstance(content, Mapping) or content.get("space") != space.name:
        found = content.get("space") if isinstance(content, Mapping) else content
        raise UserError(
            f"The architecture is of the space {shorten(found)}, expected "
            f"{space.name!r}. "
            "Pass the configuration that it was found with."
        )
    chosen = content.get("decisions", {})
    if not isinstance(chosen, Mapping):
        raise UserError(
            f"The architecture's decisions are {shorten(chosen)}, expected an object "
            "of their names and choices."
        )
    unknown = sorted(set(chosen) - {d.name for d in space.decisions})
    if unknown:
        raise UserError(
            f"The architecture decides {shorten(unknown)}, which {space.name} does not "
            "know. Is its configuration of the same size?"
        )
    return np.array([_index(d, chosen.get(d.name)) for d in space.decisions], np.int32)


def _index(decision: Decision, choice: Any) -> int:
    if choice not in decision.choices:
        raise UserError(
            f"The architecture has {shorten(choice)} for {decision.name}, expected "
            f"one of {list(decision.choices)}."
        )
    return decision.choices.index(choice)
