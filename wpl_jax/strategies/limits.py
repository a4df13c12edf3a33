"""Limits of what children may cost: proposals keep to them, whatever proposes.

A proposal beyond a limit is drawn again, at most so many times, within the compiled
call. If none of the draws fits, the last one is moved towards an architecture that is
known to fit: decision after decision, in a random order, takes the choice of the known
one, until the limits are kept. So what is proposed is always within the limits.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import SettingError, check_int, check_number
from wpl_jax.errors import for_caller
from wpl_jax.spaces.costs import LATENCY, UNITS, Costs
from wpl_jax.supernet import Architecture, Space, is_choice, num_choices

# Of a key, a number that no draw splits it into.
_OF_OTHERS = 2**31 - 1
_SAMPLES = 2000  # random architectures that tell how tight limits are


@dataclasses.dataclass(frozen=True)
class LimitSettings:
    """The most that a child may cost; None for no limit.

    Attributes:
      parameters: Number of parameters.
      multiply_adds: Of one image, or of one word.
      latency_ms: Milliseconds of a call, by the table that is measured on the device
        (``config.latency``).
      draws: Draws of a proposal, before it is moved to within the limits.
      weight: Of strategies that learn from gradients: factor of the term that is added
        to the loss, ``max(0, log(expected cost / limit))``.
    """

    parameters: float | None = None
    multiply_adds: float | None = None
    latency_ms: float | None = None
    draws: int = 100
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in UNITS:
            check_number(self, name, optional=True, above=0)
        check_int(self, "draws", 1)
        check_number(self, "weight", least=0)

    @property
    def most(self) -> tuple[tuple[str, float], ...]:
        """Names of limited costs, and their limits."""
        found = ((name, getattr(self, name)) for name in UNITS)
        return tuple((name, float(most)) for name, most in found if most is not None)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits that can be kept; :func:`find` makes them. By default there are none.

    Attributes:
      costs: What children cost; None without limits.
      most: Names of limited costs, and their limits.
      known: An architecture within the limits, the choices of its decisions.
      draws: Draws of a proposal, before it is moved towards ``known``.
      weight: Of the term of :meth:`loss`.
      share: Of random architectures, those within the limits.
    """

    costs: Costs | None = None
    most: tuple[tuple[str, float], ...] = ()
    known: tuple[int, ...] = ()
    draws: int = 100
    weight: float = 1.0
    share: float = 1.0

    def allows(self, choice: jax.Array) -> jax.Array:
        """Whether a child is within the limits, ``bool[]``.

        Args:
          choice: ``int32[num_decisions]``.
        """
        if self.costs is None:
            return jnp.bool(True)
        costs = self.costs(Architecture(choice))
        return jnp.all(jnp.stack([_within(costs[n], most) for n, most in self.most]))

    def keep(self, draw: Callable[[jax.Array], jax.Array], key: jax.Array) -> jax.Array:
        """A draw within the limits, ``int32[num_decisions]``.

        Args:
          draw: A function of a PRNG key that draws a child's choices.
          key: Of the first draw; those of the others are derived from it.
        """
        return self.redraw(draw(key), draw, key)

    def redraw(
        self,
        choice: jax.Array,
        draw: Callable[[jax.Array], jax.Array],
        key: jax.Array,
    ) -> jax.Array:
        """The choices if they are within the limits, otherwise other ones that are.

        Args:
          choice: The first draw, ``int32[num_decisions]``.
          draw: As of :meth:`keep`.
          key: As of :meth:`keep`.
        """
        if self.costs is None:
            return choice

        of_draws, of_order = jax.random.split(jax.random.fold_in(key, _OF_OTHERS))

        def is_left(state):
            number, choice = state
            return (number < self.draws) & ~self.allows(choice)

        def again(state):
            number, _ = state
            return number + 1, draw(jax.random.fold_in(of_draws, number))

        _, choice = jax.lax.while_loop(is_left, again, (jnp.int32(1), choice))
        order = jax.random.permutation(of_order, len(self.known))
        known = jnp.asarray(self.known, jnp.int32)

        def is_beyond(state):
            number, choice = state
            return (number < len(self.known)) & ~self.allows(choice)

        def move(state):
            number, choice = state
            at = order[number]
            return number + 1, choice.at[at].set(known[at])

        return jax.lax.while_loop(is_beyond, move, (jnp.int32(0), choice))[1]

    def loss(self, architecture: Architecture) -> jax.Array:
        """What expected costs beyond the limits add to the loss of a mixture.

        ``weight * sum_c max(0, log(cost_c / limit_c))``, ``float32[]``.

        Args:
          architecture: The mixture.
        """
        total = jnp.float32(0)
        if self.costs is not None:
            costs = self.costs(architecture)
            for name, most in self.most:
                total += jnp.maximum(0, jnp.log(costs[name] / most))
        return self.weight * total

    def discretize(self, space: Space, weights: jax.Array) -> jax.Array:
        """The child of a mixture within the limits, ``int32[num_decisions]``.

        Each weight is multiplied by ``exp(-l s)``, where ``s`` is the slope of the
        expected costs in it, as shares of their limits. The smallest ``l`` is taken
        whose child is within the limits; if none is, the known architecture.

        Args:
          space: The space.
          weights: ``float32[num_groups, max_choices]``.
        """
        best, costs_of = space.discretize(weights), self.costs
        if costs_of is None:
            return best

        def shares(weights):
            costs = costs_of(Architecture(best, weights=weights))
            return sum(costs[name] / most for name, most in self.most)

        slope = jax.grad(shares)(weights)
        slope /= jnp.maximum(jnp.max(jnp.abs(slope)), 1e-20)
        factors = jnp.concatenate([jnp.zeros(1), jnp.geomspace(1e-2, 1e3, 64)])
        # Padding costs nothing, and would be all that is left of dear choices.
        log_weights = jnp.where(
            is_choice(space.groups), jnp.log(jnp.maximum(weights, 1e-30)), -jnp.inf
        )

        def child(factor):
            moved = jax.nn.softmax(log_weights - factor * slope, -1)
            return space.discretize(jnp.where(factor > 0, moved, weights))

        children = jax.vmap(child)(factors)
        allowed = jax.vmap(self.allows)(children)
        known = jnp.asarray(self.known, jnp.int32)
        return jnp.where(jnp.any(allowed), children[jnp.argmax(allowed)], known)

    def describe(self) -> str:
        """A line about the limits; empty without any."""
        if self.costs is None:
            return ""
        limits = " and ".join(
            f"at most {_shown(most)} {UNITS[name]}" for name, most in self.most
        )
        said = f"Limits: {limits}. {self.share:.1%} of {_SAMPLES:,} random children"
        return f"{said} are within them."


NO_LIMITS = Limits()


def find(costs: Costs, settings: LimitSettings) -> Limits:
    """Limits that at least one architecture keeps, which is found on the host.

    Args:
      costs: What children cost.
      settings: With at least one limit.

    Raises:
      SettingError: If the space does not count a cost, or no architecture is known to
        be within the limits.
    """
    names = costs.names
    for name, most in settings.most:
        if name not in names:
            why = (
                "for which its parts have to be measured first, "
                + for_caller("with --mode=latency", "and given to Costs as latency")
                if name == LATENCY and costs.space.parts
                else f"as the space {costs.space.name} counts {', '.join(names)} alone"
            )
            raise SettingError(name, most, f"None, {why}")
    within = _Shares(costs, dict(settings.most))
    keys = jax.random.split(jax.random.key(0), _SAMPLES)
    drawn = np.asarray(jax.jit(jax.vmap(costs.space.sample))(keys))
    largest = within(drawn).max(1)
    known = drawn[np.argmin(largest)]
    if largest.min() > 1:
        known = within.cheapest(known)
    if within(known[None]).max() > 1:
        _refuse(costs, settings, known)
    return Limits(
        costs,
        settings.most,
        tuple(known.tolist()),
        settings.draws,
        settings.weight,
        float(np.mean(largest <= 1)),
    )


def _refuse(costs: Costs, settings: LimitSettings, known: np.ndarray) -> None:
    """Names a limit that no architecture is within, or all of them together."""
    for name, most in settings.most:
        alone = _Shares(costs, {name: most})
        least = costs.of_choices(alone.cheapest(known)[None])[name].item()
        if least > most:
            expected = (
                f"at least {_shown(least)}, the {UNITS[name]} of the cheapest child of "
                f"the space {costs.space.name}"
            )
            raise SettingError(name, most, expected)
    found = costs.of_choices(known[None])
    told = ", ".join(f"{_shown(found[n].item())} {UNITS[n]}" for n, _ in settings.most)
    name, most = settings.most[0]
    expected = (
        f"limits that a child can keep together: the cheapest that was found has {told}"
    )
    raise SettingError(name, most, expected)


class _Shares:
    """Costs as shares of their limits, ``float64[n, limits]`` of architectures."""

    def __init__(self, costs: Costs, most: dict[str, float]):
        self._costs, self._most = costs, most

    def __call__(self, choices: np.ndarray) -> np.ndarray:
        found = self._costs.of_choices(choices)
        return np.stack([found[n] / most for n, most in self._most.items()], 1)

    def cheapest(self, choice: np.ndarray) -> np.ndarray:
        """The architecture that is reached by changes of one decision at a time.

        Of one cost that is a sum over decisions, it is the cheapest.
        """
        counts = num_choices(self._costs.space.decisions)

        def score(choices):
            shares = self(choices)
            return list(zip(shares.max(1), shares.sum(1), strict=True))

        (lowest,) = score(choice[None])
        while True:
            others = [choice]
            for decision, count in enumerate(counts):
                for other in range(count):
                    others.append(choice.copy())
                    others[-1][decision] = other
            scores = score(np.stack(others))
            best = min(range(len(others)), key=scores.__getitem__)
            if not scores[best] < lowest:
                return choice
            choice, lowest = others[best], scores[best]


def _within(cost: jax.Array, most: float) -> jax.Array:
    """Whether a cost is within a limit; sums of floats may differ by rounding."""
    if jnp.issubdtype(cost.dtype, jnp.integer):
        return cost <= int(min(most, np.iinfo(np.int32).max))
    return cost <= most * (1 + 1e-6)


def _shown(value: Any) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
