"""What a search space is: decisions, shared parameters, one child's mask.

An architecture is an ``int32[num_decisions]`` vector: for each decision, the index
of its choice. Strategies see the decisions and nothing else, so that each works on
every space.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.errors import UserError


class Decision(NamedTuple):
    """One choice that a space leaves open."""

    name: str
    choices: tuple[str, ...]


class Space(Protocol):
    """A supernet: every method is pure and takes the architecture as data."""

    name: str
    decisions: tuple[Decision, ...]

    def init(self, key: jax.Array) -> Any:
        """The shared parameters of all children."""

    def apply(
        self, params: Any, architecture: jax.Array, inputs: jax.Array, **kwargs: Any
    ) -> Any:
        """The forward pass of one child."""

    def mask(self, params: Any, architecture: jax.Array) -> Any:
        """A tree like ``params`` of 0/1 arrays that broadcast to them.

        1 on the shared parameters that the child uses.
        """


def num_choices(decisions: Sequence[Decision]) -> tuple[int, ...]:
    """The number of choices of each decision."""
    return tuple(len(decision.choices) for decision in decisions)


def random_architecture(key: jax.Array, decisions: Sequence[Decision]) -> jax.Array:
    """Draws every decision uniformly, ``int32[num_decisions]``."""
    bounds = jnp.asarray(num_choices(decisions))
    return jax.random.randint(key, bounds.shape, 0, bounds, jnp.int32)


def architecture_to_json(space: Space, architecture: Any) -> str:
    """An architecture as readable JSON, by the names of its decisions."""
    chosen = {
        decision.name: decision.choices[int(index)]
        for decision, index in zip(
            space.decisions, np.asarray(architecture), strict=True
        )
    }
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
    except ValueError as error:
        raise UserError(f"The architecture is not JSON: {error}.") from error
    if not isinstance(content, Mapping) or content.get("space") != space.name:
        found = content.get("space") if isinstance(content, Mapping) else content
        raise UserError(
            f"The architecture is of the space {found!r}, expected {space.name!r}. "
            "Pass the configuration that it was found with."
        )
    chosen = content.get("decisions", {})
    unknown = sorted(set(chosen) - {d.name for d in space.decisions})
    if unknown:
        raise UserError(
            f"The architecture decides {unknown}, which {space.name} does not know. "
            "Is its configuration of the same size?"
        )
    return np.array([_index(d, chosen.get(d.name)) for d in space.decisions], np.int32)


def _index(decision: Decision, choice: Any) -> int:
    if choice not in decision.choices:
        raise UserError(
            f"The architecture has {choice!r} for {decision.name}, expected one of "
            f"{list(decision.choices)}."
        )
    return decision.choices.index(choice)
