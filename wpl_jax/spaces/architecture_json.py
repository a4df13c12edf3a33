"""Architectures as JSON, by the names of their decisions and choices."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from wpl_jax.errors import UserError, shorten
from wpl_jax.supernet import Decision, Space


def names_of_choices(space: Space, choice: Any) -> dict[str, str]:
    """What an architecture chooses, by the names of its decisions.

    Args:
      space: The space.
      choice: ``int32[num_decisions]``.
    """
    return {
        decision.name: decision.choices[int(index)]
        for decision, index in zip(space.decisions, np.asarray(choice), strict=True)
    }


def architecture_to_json(space: Space, choice: Any) -> str:
    """An architecture as readable JSON, by the names of its decisions.

    It also has the notation of published code, if the space has one.

    Args:
      space: The space.
      choice: ``int32[num_decisions]``.
    """
    content = {"space": space.name, "decisions": names_of_choices(space, choice)}
    notation = space.to_notation(choice)
    if notation is not None:  # For people and other programs: it is not read again.
        content["notation"] = notation
    return json.dumps(content, indent=1) + "\n"


def architecture_from_json(space: Space, text: str) -> np.ndarray:
    """Reads what :func:`architecture_to_json` wrote.

    Returns:
      Its choice, ``int32[num_decisions]``.

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
