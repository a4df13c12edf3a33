"""The pool of architectures of NAO: distinct ones, the worst replaced by new ones.

Isomorphic architectures count as one, if the space lists its isomorphism classes
(:meth:`wpl_jax.supernet.Space.classes`) or says which decisions can be exchanged
(:attr:`wpl_jax.supernet.Space.exchanges`).
"""

import functools
import itertools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.strategies.limits import NO_LIMITS, Limits
from wpl_jax.supernet import Space, in_order, num_choices

_TRIES = 100  # draws of architectures, before a space has no more distinct ones


class Pool(NamedTuple):
    """Distinct architectures; a place without one is filled before any is replaced."""

    choices: jax.Array  # int32[places, decisions]
    rewards: jax.Array  # float32[places]; nan before they are measured
    born: jax.Array  # int32[places]; round that added it, -1 of an empty place

    @property
    def filled(self) -> jax.Array:
        """Which places have an architecture, ``bool[places]``."""
        return self.born >= 0

    @property
    def measured(self) -> jax.Array:
        """Which have a reward, ``bool[places]``."""
        return self.filled & jnp.isfinite(self.rewards)

    @property
    def newest(self) -> jax.Array:
        """Which the last round that found any has added, ``bool[places]``."""
        return self.filled & (self.born == jnp.max(self.born))


class Found(NamedTuple):
    """Architectures that are not in a pool, in a buffer."""

    choices: jax.Array  # int32[buffer, decisions]
    number: jax.Array  # int32[]; how many there are


def init(
    space: Space,
    key: jax.Array,
    places: int,
    number: int,
    limits: Limits = NO_LIMITS,
) -> Pool:
    """Distinct random architectures, fewer if the space has no more.

    Args:
      space: What is searched.
      key: PRNG key.
      places: Of the pool.
      number: How many of them are filled.
      limits: What they keep to.
    """
    decisions = len(space.decisions)
    empty = Pool(
        choices=jnp.zeros((places, decisions), jnp.int32),
        rewards=jnp.full(places, jnp.nan),
        born=jnp.full(places, -1),
    )

    def propose(place):
        keys = jax.random.split(jax.random.fold_in(key, place), number)
        return draw(space, keys, limits)

    found = collect(empty, nothing(number, decisions), propose, _TRIES, limits)
    return replace_worst(empty, found, jnp.int32(0))


def draw(space: Space, keys: jax.Array, limits: Limits) -> jax.Array:
    """Random architectures within the limits, ``int32[len(keys), decisions]``."""
    keep = functools.partial(limits.keep, space.sample)
    return representatives(space, jax.vmap(keep)(keys))


def nothing(buffer: int, decisions: int) -> Found:
    """A buffer without architectures."""
    return Found(jnp.zeros((buffer, decisions), jnp.int32), jnp.int32(0))


def collect(
    pool: Pool,
    found: Found,
    propose: Callable[[jax.Array], jax.Array],
    tries: int,
    limits: Limits = NO_LIMITS,
) -> Found:
    """Adds proposals that are new, until the buffer is full.

    Args:
      pool: Architectures in it are not new.
      found: New ones so far.
      propose: Architectures ``int32[n, decisions]`` of a try with a number,
        ``int32[]``.
      tries: How many there are at most.
      limits: What is added keeps to them.
    """

    def is_left(state):
        found, number = state
        return (found.number < len(found.choices)) & (number < tries)

    def add(state):
        found, number = state
        return add_new(pool, found, propose(number), limits), number + 1

    return jax.lax.while_loop(is_left, add, (found, jnp.int32(0)))[0]


def add_new(
    pool: Pool, found: Found, proposals: jax.Array, limits: Limits = NO_LIMITS
) -> Found:
    """Adds those that are in neither the pool nor the buffer, each once.

    Args:
      pool: The pool.
      found: The buffer. What does not fit into it is dropped.
      proposals: ``int32[n, decisions]``.
      limits: Those beyond them are not added.
    """
    places = len(found.choices)
    earlier = jnp.tril(jnp.ones((len(proposals), len(proposals)), bool), -1)
    known = (
        _is_among(proposals, pool.choices, pool.filled)
        | _is_among(proposals, found.choices, jnp.arange(places) < found.number)
        | _is_among(proposals, proposals, earlier)
        | ~jax.vmap(limits.allows)(proposals)
    )
    place = jnp.where(known, places, found.number + jnp.cumsum(~known) - 1)
    return Found(
        found.choices.at[place].set(proposals, mode="drop"),
        jnp.minimum(found.number + jnp.sum(~known), places),
    )


def _is_among(rows, others, which):
    """Whether each row equals any of the others that count, bool[n]."""
    equal = jnp.all(rows[:, None] == others[None], -1)
    return jnp.any(equal & which, 1)


def order(pool: Pool, values: jax.Array) -> jax.Array:
    """Places of the pool, that of the highest value first, ``int32[places]``.

    Values that are not finite come after the others, and empty places last.
    """
    values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
    return jnp.lexsort((-values, ~pool.filled))


def replace_worst(pool: Pool, found: Found, number: jax.Array) -> Pool:
    """The pool with new architectures in the place of those of lowest reward.

    Args:
      pool: With measured rewards.
      found: At most as many as there are places.
      number: Of the round, ``int32[]``.
    """
    places, buffer = len(pool.choices), len(found.choices)
    worst = order(pool, pool.rewards)[::-1][:buffer]
    place = jnp.where(jnp.arange(buffer) < found.number, worst, places)
    return Pool(
        pool.choices.at[place].set(found.choices, mode="drop"),
        pool.rewards.at[place].set(jnp.nan, mode="drop"),
        pool.born.at[place].set(number, mode="drop"),
    )


def representatives(space: Space, choices: jax.Array) -> jax.Array:
    """One architecture of the isomorphism class of each.

    The first of the class if the space lists its classes. Otherwise the one with all
    exchanges in order (:func:`wpl_jax.supernet.in_order`).

    Args:
      space: The space.
      choices: ``int32[n, decisions]``, traced.

    Returns:
      ``int32[n, decisions]``.
    """
    table = _table(cast(Hashable, space))
    if table is None:
        return in_order(space, choices)
    counts = num_choices(space.decisions)
    places = np.cumprod((1, *counts[:0:-1]))[::-1].astype(np.int32)
    return jnp.asarray(table)[choices @ places]


@functools.lru_cache(maxsize=8)
def _table(space: Any) -> np.ndarray | None:
    """The representative of every architecture, the last decision varying fastest."""
    classes = space.classes()
    if classes is None:
        return None
    of_form = {space.canonical_form(choice): choice for choice in classes}
    every = itertools.product(*map(range, num_choices(space.decisions)))
    return np.array([of_form[space.canonical_form(choice)] for choice in every])
