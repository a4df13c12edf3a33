"""NAO: architectures improved by gradients in a continuous representation.

Luo et al., "Neural Architecture Optimization" (NeurIPS 2018), with weight sharing. A
pool of architectures is trained. After some epochs follows a round:

1. All architectures of the pool are measured on the same validation batches.
2. Encoder, predictor and decoder (:mod:`wpl_jax.strategies.nao_networks`) are trained
   on the pool.
3. The representations of the best are moved along the gradient of the prediction,
   ``h_t' = h_t + step d f / d h_t``, and decoded. ``step`` grows until enough new
   architectures are found.
4. They replace the worst of the pool.

The second version of the authors' code trains architectures in proportion to their
numbers of parameters (``sampling="parameters"``), and only those that the last round
has found (``trains="newest"``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax.common.settings import (
    SettingError,
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_parts,
    given,
    require,
)
from wpl_jax.strategies import nao_pool, nao_quality
from wpl_jax.strategies.limits import NO_LIMITS, Limits
from wpl_jax.strategies.nao_networks import Coder, Networks, Params
from wpl_jax.strategies.nao_pool import Pool
from wpl_jax.strategies.nao_quality import Seen
from wpl_jax.strategies.strategy import Candidates, Learned, RewardsFn, Strategy
from wpl_jax.supernet import Architecture, Space


class State(NamedTuple):
    """The pool, the networks and what a round measured."""

    pool: Pool
    weights: jax.Array  # float32[places]; in proportion to which they are trained
    params: Params
    opt_state: optax.OptState
    round: jax.Array  # int32[]; rounds so far
    seen: Seen


@dataclasses.dataclass(frozen=True)
class Nao(Strategy):
    """The strategy. The defaults are those of the authors' code for Penn Treebank.

    Attributes:
      space: What is searched.
      pool: Places for architectures.
      initial: Random architectures at the start; None for as many as there are places.
        Places that are left are filled before an architecture is replaced.
      every: Epochs from one round to the next; the first is after as many.
      updates: Of the networks in a round.
      score_batches: Validation batches that the pool is measured on, the same for all.
      target: What is predicted: the ``"reward"``, or ``"log_reward"``. For a language
        model the latter is minus the loss, but for a constant. Both are scaled to
        [0, 1] in the pool.
      held_out: Share of the places whose rewards the networks are not trained on, to
        measure the predictor.
      networks: The networks and their training.
      reset_optimizer: Whether Adam starts anew in each round.
      seeds: How many of the best are moved along the gradient.
      step_size: By which the step along the gradient grows from try to try.
      most_steps: Tries at most.
      new: Architectures that a round is to find so.
      random: Random architectures that a round adds.
      sampling: How children are drawn: ``"uniform"``, or in proportion to their
        ``"parameters"``.
      trains: Architectures that children are drawn from: all of the ``"pool"``, or the
        ``"newest"``.
      finalists_by: What the candidates of the selection are the best of the pool by:
        ``"measured"`` rewards, or ``"predicted"`` ones.
      candidates: How the best is selected.
      limits: What the architectures of the pool keep to.
    """

    space: Space
    pool: int = 1000
    initial: int | None = None
    every: int = 200
    updates: int = 10_000
    score_batches: int = 1
    target: Literal["reward", "log_reward"] = "log_reward"
    held_out: float = 0.1
    networks: Networks = Networks()
    reset_optimizer: bool = False
    seeds: int = 100
    step_size: float = 1.0
    most_steps: int = 30
    new: int = 300
    random: int = 50
    sampling: Literal["uniform", "parameters"] = "uniform"
    trains: Literal["pool", "newest"] = "pool"
    finalists_by: Literal["measured", "predicted"] = "measured"
    candidates: Candidates = Candidates()
    limits: Limits = given(NO_LIMITS)

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        for name in ("pool", "every", "updates", "score_batches", "most_steps", "new"):
            check_int(self, name, 1)
        check_int(self, "initial", 1, "in the pool", optional=True, most=self.pool)
        check_int(self, "random", 0)
        check_int(self, "seeds", 1, "in the pool", most=self.pool)
        check_choice(self, "target", ("log_reward", "reward"))
        check_number(self, "held_out", least=0, below=1)
        check_bool(self, "reset_optimizer")
        check_number(self, "step_size", above=0)
        check_choice(self, "sampling", ("parameters", "uniform"))
        check_choice(self, "trains", ("newest", "pool"))
        check_choice(self, "finalists_by", ("measured", "predicted"))
        fits = self.new + self.random <= self.pool
        expected = f"at most the {self.pool} places of the pool, with those of random"
        require(self, "new", fits, expected)

    def check_epochs(self, number: int) -> None:
        """Checks that there is a round."""
        if number < self.every:
            expected = (
                f"at least {self.every}, the epochs before the first round of NAO"
            )
            raise SettingError("epochs", number, expected)

    @staticmethod
    def unread(settings: Mapping[str, Any]) -> dict[str, str]:
        """Settings that are not read, and why."""
        if settings.get("networks", {}).get("layers", 1):
            return {}
        without = ("networks.units", "networks.predictor_dropout")
        return dict.fromkeys(without, "networks.layers is 0")

    def init(self, key: jax.Array) -> State:
        """A pool of random architectures, and random networks."""
        keys = jax.random.split(key)
        initial = self.pool if self.initial is None else self.initial
        pool = nao_pool.init(self.space, keys[0], self.pool, initial, self.limits)
        params = self._coder.init(keys[1])
        return State(
            pool=pool,
            weights=self._weights(pool),
            params=params,
            opt_state=self.networks.optimizer.init(params),
            round=jnp.int32(0),
            seen=nao_quality.unknown(pool, self._held_out),
        )

    def propose(self, state: State, key: jax.Array) -> Architecture:
        """Draws from the pool."""
        place = jax.random.categorical(key, jnp.log(state.weights))
        return Architecture(state.pool.choices[place])

    def steps_after(self, epoch: int) -> int:
        """The updates of the networks, after epochs with a round."""
        return 0 if (epoch + 1) % self.every else self.updates

    def learn(
        self,
        state: State,
        key: jax.Array,
        rewards_fn: RewardsFn,
        first: jax.Array,
        steps: int,
    ) -> tuple[State, Learned]:
        """Some updates of the networks.

        The pool is measured before the first one, and renewed after the last one.
        """
        key_of_batches, key_of_updates, key_of_pool = jax.random.split(key, 3)

        def measure(state):
            return self._measure(state, key_of_batches, rewards_fn)

        def renew(state):
            return self._renew(state, key_of_pool)

        def same(state):
            return state

        state = jax.lax.cond(first == 0, measure, same, state)
        state = self._train(state, key_of_updates, first + jnp.arange(steps))
        measured = state.pool.measured
        reward = jnp.mean(state.pool.rewards, where=measured)
        p = state.weights / jnp.sum(state.weights)
        entropy = -jnp.sum(p * jnp.log(jnp.where(p > 0, p, 1)))
        state = jax.lax.cond(first + steps == self.updates, renew, same, state)
        return state, Learned(reward, entropy)

    def propose_finalists(self, state: State, keys: jax.Array) -> Architecture:
        """The best of the pool, by measured or by predicted rewards."""
        values = state.pool.rewards
        if self.finalists_by == "predicted":
            values = self._coder.expect(state.params, state.pool.choices)
        return Architecture(self._best(state.pool, values, len(keys)))

    def watch(self, state: State) -> dict[str, jax.Array]:
        """Rounds so far, and what the last one has measured of the networks."""
        return {"rounds": state.round, **nao_quality.record(state.seen)}

    def _measure(self, state: State, key: jax.Array, rewards_fn: RewardsFn) -> State:
        """Measures the rewards of all on the same validation batches."""
        pool, number = state.pool, self.score_batches
        # The batch depends on the key alone.
        keys = jnp.tile(jax.random.split(key, number), self.pool)
        choices = jnp.repeat(pool.choices, number, 0)
        rewards = rewards_fn(keys, choices, jnp.int32(0))
        rewards = jnp.mean(rewards.reshape(self.pool, number), 1)
        rewards = jnp.where(pool.filled, rewards, jnp.nan)
        opt_state = state.opt_state
        if self.reset_optimizer:
            opt_state = self.networks.optimizer.init(state.params)
        return state._replace(pool=pool._replace(rewards=rewards), opt_state=opt_state)

    def _train(self, state: State, key: jax.Array, numbers: jax.Array) -> State:
        """Updates of the networks on batches of the pool."""
        pool, target = state.pool, self._target(state.pool)
        # The decoder is trained on those that are held out, too. Otherwise it would not
        # return them, and what it returned in their place would count as found.
        there, known = pool.filled, pool.measured & ~self._held_out
        optimizer, size = self.networks.optimizer, self.networks.batch_size

        def update(networks, number):
            params, opt_state = networks
            keys = jax.random.split(jax.random.fold_in(key, number))
            # Without replacement; empty places come last.
            order = jnp.where(there, jax.random.uniform(keys[0], there.shape), -1)
            places = jax.lax.top_k(order, min(size, self.pool))[1]
            batch = (each[places] for each in (pool.choices, target, known, there))
            gradient = jax.grad(self._coder.loss)(params, *batch, keys[1])
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), None

        networks = state.params, state.opt_state
        (params, opt_state), _ = jax.lax.scan(update, networks, numbers)
        return state._replace(params=params, opt_state=opt_state)

    def _target(self, pool: Pool) -> jax.Array:
        """The rewards of the pool, or their logarithms, scaled to [0, 1]."""
        values = pool.rewards
        if self.target == "log_reward":
            values = jnp.log(values)
        there = jnp.isfinite(values)
        lowest = jnp.min(values, where=there, initial=jnp.inf)
        highest = jnp.max(values, where=there, initial=-jnp.inf)
        # A reward of 0 is that of a loss that is not finite.
        values = jnp.where(there, values, lowest)
        span = highest - lowest
        return jnp.where(span > 0, (values - lowest) / jnp.where(span > 0, span, 1), 0)

    def _best(self, pool: Pool, values: jax.Array, count: int) -> jax.Array:
        """Choices with the highest values; all of the pool again, if it has fewer."""
        places = jnp.arange(count) % jnp.sum(pool.filled)
        return pool.choices[nao_pool.order(pool, values)[places]]

    def _renew(self, state: State, key: jax.Array) -> State:
        """Replaces the worst by what the best are improved to."""
        pool, coder, params = state.pool, self._coder, state.params
        best = self._best(pool, pool.rewards, self.seeds)
        encoded = coder.encode(params, best)
        slope = coder.slope(params, encoded)

        def improve(number):
            moved = self._coder.move(encoded, slope, self.step_size * (number + 1))
            return nao_pool.representatives(self.space, coder.decode(params, moved))

        found = nao_pool.nothing(self.new + self.random, len(self.space.decisions))
        if self.random:
            keys = jax.random.split(key, self.random)
            drawn = nao_pool.draw(self.space, keys, self.limits)
            found = nao_pool.add_new(pool, found, drawn, self.limits)
        drawn_number = found.number
        found = nao_pool.collect(pool, found, improve, self.most_steps, self.limits)
        number = state.round + 1
        renewed = nao_pool.replace_worst(pool, found, number)
        return state._replace(
            pool=renewed,
            weights=self._weights(renewed),
            round=number,
            seen=nao_quality.look(
                coder, params, pool, self._held_out, found.number - drawn_number
            ),
        )

    def _weights(self, pool: Pool) -> jax.Array:
        """In proportion to which children are drawn, float32[places]."""
        drawn = pool.newest if self.trains == "newest" else pool.filled
        if self.sampling == "uniform":
            return drawn.astype(jnp.float32)

        def parameters(choice):
            return self.space.costs(Architecture(choice))["parameters"]

        numbers = jax.vmap(parameters)(pool.choices)
        return jnp.where(drawn, numbers.astype(jnp.float32), 0)

    @property
    def candidates_are(self) -> str:
        """What the candidates are the best of the pool by."""
        return f"the best of the pool by {self.finalists_by} rewards"

    @property
    def _held_out(self) -> np.ndarray:
        """Places whose rewards the networks do not learn, bool[pool]; evenly spread."""
        ends = np.floor(np.arange(self.pool + 1) * self.held_out)
        return np.diff(ends) > 0

    @property
    def _coder(self) -> Coder:
        return Coder(self.networks, self.space.decisions)
