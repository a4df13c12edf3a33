"""Counts, lists and samples the architectures of a space."""

import itertools
import math

import jax
import numpy as np

from wpl_jax.errors import UserError
from wpl_jax.supernet import Space, first_of_each_class, num_choices

MOST = 200_000  # architectures that are enumerated
_ROUNDS = 7  # each draws twice as many as the last, until enough are distinct


def count(space: Space) -> int:
    """The number of architectures: the product of the numbers of choices."""
    return math.prod(num_choices(space.decisions))


def check_count(space: Space) -> None:
    """Checks that the architectures of a space can be enumerated.

    Raises:
      UserError: If there are more than :data:`MOST`.
    """
    if (number := count(space)) > MOST:
        raise UserError(
            f"The space {space.name} has {number:.3g} architectures, expected at most "
            f"{MOST:,} for all of them to be ranked. Rank a sample instead "
            '(config.ranking.which="sample", config.ranking.architectures=1000).'
        )


def every(space: Space) -> np.ndarray:
    """All architectures of a space, the last decision varying fastest.

    Args:
      space: The space.

    Returns:
      ``int32[count(space), decisions]``.

    Raises:
      UserError: As :func:`check_count` does.
    """
    check_count(space)
    choices = itertools.product(*map(range, num_choices(space.decisions)))
    return np.array(list(choices), np.int32)


def one_of_each_class(space: Space) -> np.ndarray:
    """The first architecture of each isomorphism class, ``int32[n, decisions]``.

    Classes are those of equal :meth:`wpl_jax.supernet.Space.canonical_form`.

    Args:
      space: The space.

    Raises:
      UserError: As :func:`check_count` does.
    """
    return first_of_each_class(space, every(space))


def sample(space: Space, number: int, seed: int = 0) -> np.ndarray:
    """Distinct random architectures, ``int32[number, decisions]``.

    With the same seed, a smaller sample is the beginning of a larger one.

    Args:
      space: The space.
      number: Of architectures.
      seed: Of the random draws.

    Raises:
      UserError: If the draws do not give so many distinct architectures.
    """
    drawn = jax.vmap(space.sample)
    for round_ in range(_ROUNDS):
        keys = jax.random.split(jax.random.key(seed), number * 2**round_)
        choices = np.asarray(drawn(keys))
        first = np.sort(np.unique(choices, axis=0, return_index=True)[1])
        if len(first) >= number:
            return choices[first[:number]]
    raise UserError(
        f"{len(keys):,} draws from the space {space.name} gave {len(first):,} distinct "
        f"architectures, expected {number:,}. Lower config.ranking.architectures, or "
        'set config.ranking.which="all".'
    )
