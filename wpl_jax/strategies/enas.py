"""ENAS: an LSTM controller, trained by REINFORCE (Pham et al., 2018)."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wpl_jax import controller
from wpl_jax.common.settings import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_parts,
    given,
)
from wpl_jax.strategies import reinforce
from wpl_jax.strategies.limits import NO_LIMITS, Limits
from wpl_jax.strategies.strategy import Candidates, Learned, RewardsFn, Strategy
from wpl_jax.supernet import Architecture, Decision, Space, num_choices

_MOST_SAMPLES = 10_000  # which one step holds in memory


class State(NamedTuple):
    """The controller and what its training remembers."""

    params: controller.Params
    opt_state: optax.OptState
    baseline: reinforce.Baseline


@dataclasses.dataclass(frozen=True)
class Enas(Strategy):
    """The strategy, a controller that learns by :mod:`wpl_jax.strategies.reinforce`.

    Attributes:
      space: What is searched.
      steps: Updates after each epoch.
      candidates: How the best is selected.
      hidden: Units of the LSTM.
      learning_rate: Of Adam.
      samples_per_step: Architectures whose rewards an update averages.
      baseline_decay: Of the moving average of the rewards.
      reset_baseline: Whether each epoch starts the average anew, as the WPL
        authors' code does.
      entropy_weight: Reward that a nat of entropy is worth.
      entropy_mode: ``"reward"`` or ``"regularizer"``.
      temperature: Divides the logits.
      tanh_constant: Bounds them, None for no bound.
      prior: ``"none"``, or ``"distance"``: ``-d^2 / 6`` in nats on the ordered
        choices, ``d`` the distance to the last, counted from 1 (the official code).
      limits: What proposals keep to. The controller learns from all that it draws; what
        is beyond the limits has a reward of 0.
    """

    space: Space
    steps: int = 2000
    candidates: Candidates = Candidates()
    hidden: int = 100
    learning_rate: float = 3.5e-4
    samples_per_step: int = 1
    baseline_decay: float = 0.95
    reset_baseline: bool = False
    entropy_weight: float = 1e-4
    entropy_mode: reinforce.EntropyMode = "reward"
    temperature: float = 5.0
    tanh_constant: float | None = 2.5
    prior: Literal["none", "distance"] = "none"
    limits: Limits = given(NO_LIMITS)

    candidates_are = "drawn from the controller"

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        for name in ("steps", "hidden"):
            check_int(self, name, 1)
        check_int(self, "samples_per_step", 1, "all at once", most=_MOST_SAMPLES)
        for name in ("learning_rate", "temperature"):
            check_number(self, name, above=0)
        check_number(self, "baseline_decay", least=0, below=1)
        check_number(self, "entropy_weight", least=0)
        check_choice(self, "entropy_mode", ("regularizer", "reward"))
        check_choice(self, "prior", ("distance", "none"))
        check_bool(self, "reset_baseline")
        check_number(self, "tanh_constant", optional=True, above=0)

    def init(self, key: jax.Array) -> State:
        """Random parameters of the controller, and its optimizer state."""
        params = controller.init(key, self._counts, hidden=self.hidden)
        return State(params, self._optimizer.init(params), reinforce.init_baseline())

    def begin_epoch(self, state: State, epoch: jax.Array) -> State:
        """Forgets the baseline, if it is to be reset."""
        del epoch
        if not self.reset_baseline:
            return state
        return state._replace(baseline=reinforce.init_baseline())

    def steps_after(self, epoch: int) -> int:
        """As many after each epoch."""
        del epoch
        return self.steps

    def propose(self, state: State, key: jax.Array) -> Architecture:
        """Draws from the controller."""

        def draw(key):
            policy = self._policy
            return controller.sample(
                state.params, key, self._counts, **policy
            ).architecture

        return Architecture(self.limits.keep(draw, key))

    def learn(
        self,
        state: State,
        key: jax.Array,
        rewards_fn: RewardsFn,
        first: jax.Array,
        steps: int,
    ) -> tuple[State, Learned]:
        """Steps of REINFORCE on freshly drawn architectures."""
        *new, seen = reinforce.train(
            *state,
            key,
            rewards_fn,
            self._optimizer,
            self._counts,
            steps=steps,
            samples_per_step=self.samples_per_step,
            first_step=first,
            decay=self.baseline_decay,
            entropy_weight=self.entropy_weight,
            entropy_mode=self.entropy_mode,
            **self._policy,
        )
        return State(*new), Learned(jnp.mean(seen.reward), jnp.mean(seen.entropy))

    @property
    def _counts(self) -> tuple[int, ...]:
        return num_choices(self.space.decisions)

    @property
    def _optimizer(self) -> optax.GradientTransformation:
        return optax.adam(self.learning_rate)

    @property
    def _policy(self) -> dict[str, Any]:
        prior = (
            distance_prior(self.space.decisions) if self.prior == "distance" else None
        )
        return {
            "temperature": self.temperature,
            "tanh_constant": self.tanh_constant,
            "prior": prior,
        }


def distance_prior(decisions: tuple[Decision, ...]) -> np.ndarray:
    """``-d^2 / 6`` on ordered choices, ``float32[decisions, max_choices]``."""
    counts = num_choices(decisions)
    prior = np.zeros((len(counts), max(counts)), np.float32)
    for row, decision, count in zip(prior, decisions, counts, strict=True):
        if decision.ordered:
            row[:count] = -(np.arange(count, 0, -1) ** 2) / 6
    return prior
