"""Architecture weights trained by gradients: DARTS, GDAS, PC-DARTS, DrNAS, and GAEA.

A decision has an architecture weight for each of its choices, and the loss of a mixture
has a gradient in these weights. Each of these methods is a setting of one class:

    =================  ==========  ========================  ============
    method             relaxation  optimizer                 split
    =================  ==========  ========================  ============
    DARTS              mixture     Adam on logits            valid
    GDAS               gumbel      Adam on logits            valid
    PC-DARTS           mixture     Adam on logits            valid
    DrNAS              mixture     Adam on concentrations    valid
    GAEA of these      the same    exponentiated gradient    valid, train
    =================  ==========  ========================  ============

DARTS: Liu, Simonyan, Yang (ICLR 2019). GDAS: Dong and Yang (CVPR 2019). PC-DARTS: Xu
et al. (ICLR 2020); its partial channels and weights of edges are fields of the space.
DrNAS: Chen et al. (ICLR 2021). GAEA: Li, Khodak, Balcan, Talwalkar (ICLR 2021).
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.settings import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_parts,
    chosen,
    given,
    require,
)
from wpl_jax.errors import UserError
from wpl_jax.strategies.architecture_optimizers import (
    ARCHITECTURE_OPTIMIZERS,
    NEVER,
    AdamOnLogits,
    ArchitectureOptimizer,
)
from wpl_jax.strategies.limits import NO_LIMITS, Limits
from wpl_jax.strategies.rewards import Reward, TaskReward
from wpl_jax.strategies.strategy import Candidates, Slope, Strategy
from wpl_jax.supernet import Architecture, Space, is_choice


class State(NamedTuple):
    """Architecture weights and the state of their optimizer."""

    theta: jax.Array  # float32[groups, choices]; parameters of the optimizer
    opt_state: optax.OptState
    epoch: jax.Array  # int32[]
    # PRNG key of the mixture that is trained next, if its pass trains both weights. The
    # gradient is then of the draw that was trained, and not of a new one.
    draw: Any = ()


@dataclasses.dataclass(frozen=True)
class Differentiable(Strategy):
    """Trains architecture weights before each batch of the shared weights.

    Attributes:
      space: The space; it has to support weights and gates (``mixes``).
      optimizer: Of the architecture weights.
      relaxation: ``"mixture"`` of all choices by their weights, or ``"gumbel"``: one
        choice, drawn anew in each forward pass, with a straight-through gradient.
      split: Data of the loss that the architecture weights minimise: ``"valid"``
        (bilevel), or ``"train"`` for the batch that the shared weights are trained on
        (single level).
      shared_pass: Whether one pass over a training batch computes the gradients in both
        kinds of weights. The shared weights are updated first. A step costs half,
        unless the protection rehearses other children. Only for mixtures with
        ``split="train"``.
      own_batch: Whether the architecture weights have another training batch than the
        shared weights (the code of GAEA). Only for ``split="train"``.
      order: ``"first"``, or ``"second"`` for the loss after the next step of the shared
        weights. The latter only for mixtures.
      warmup: Epochs before the architecture weights are trained.
      temperature: Of the Gumbel softmax in the first epoch.
      last_temperature: The same after ``temperature_epochs``; linear in between.
      temperature_epochs: Epochs over which the temperature falls.
      entropy_weight: Factor of the weights' mean entropy, which is added to the loss.
      candidates: How the best is selected. All finalists are the same architecture,
        so one is enough.
      limits: What finalists keep to. Expected costs beyond them add to the loss.
      reward: Of the search; what it has about costs is added to the loss.
    """

    space: Space
    optimizer: ArchitectureOptimizer = chosen(ARCHITECTURE_OPTIMIZERS, AdamOnLogits())
    relaxation: Literal["mixture", "gumbel"] = "mixture"
    split: Literal["valid", "train"] = "valid"
    shared_pass: bool = False
    own_batch: bool = False
    order: Literal["first", "second"] = "first"
    warmup: int = 0
    temperature: float = 10.0
    last_temperature: float = 0.1
    temperature_epochs: int = 250
    entropy_weight: float = 0.0
    candidates: Candidates = Candidates(proposed=1, screen_batches=1, keep=1)
    limits: Limits = given(NO_LIMITS)
    reward: Reward = given(TaskReward())

    differentiable = True
    candidates_are = "discretized from the architecture weights"

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_choice(self, "relaxation", ("gumbel", "mixture"))
        check_choice(self, "split", ("train", "valid"))
        check_int(self, "warmup", 0)
        check_choice(self, "order", ("first", "second"))
        for name in ("shared_pass", "own_batch"):
            check_bool(self, name)
        mixed, first = self.relaxation == "mixture", self.order == "first"
        possible = mixed and first and self.split == "train" and not self.own_batch
        expected = (
            'False, but for relaxation="mixture", split="train", order="first" and no '
            "own_batch"
        )
        require(self, "shared_pass", possible or not self.shared_pass, expected)
        possible = self.split == "train" or not self.own_batch
        require(self, "own_batch", possible, 'False, but for split="train"')
        require(self, "order", mixed or first, '"first", but for relaxation="mixture"')
        for name in ("temperature", "last_temperature"):
            check_number(self, name, above=0)
        check_int(self, "temperature_epochs", 1)
        check_number(self, "entropy_weight", least=0)
        if not self.space.mixes:
            raise UserError(
                "This strategy trains weights of all choices, and the space "
                f"{self.space.name} has no mixtures of choices with these settings. "
                "Take a strategy of single paths, which is not differentiable, or "
                "another space."
            )
        possible = mixed or self.space.draws
        expected = '"mixture", as the space draws no single path by its weights'
        require(self, "relaxation", possible, expected)
        costs = self.limits.costs or getattr(self.reward, "costs", None)
        if costs is not None and not self.space.parts:
            raise UserError(
                f"The space {self.space.name} does not list what its children consist "
                "of (Space.parts), so a mixture has no expected costs for its loss. "
                "Leave out limits and rewards with costs, or take a strategy of "
                "single paths."
            )

    @property
    def shares_pass(self) -> bool:
        """The setting ``shared_pass``."""
        return self.shared_pass

    def init(self, key: jax.Array) -> State:
        """The initial architecture weights and optimizer state."""
        theta = self.optimizer.init(key, self._there)
        opt_state = self.optimizer.transform().init(theta)
        draw = jax.random.fold_in(key, 1) if self.shared_pass else ()
        return State(theta, opt_state, jnp.int32(0), draw)

    def begin_epoch(self, state: State, epoch: jax.Array) -> State:
        """Notes the epoch, for the warm-up and the temperature."""
        return state._replace(epoch=epoch)

    def propose(self, state: State, key: jax.Array) -> Architecture:
        """The mixture, or an architecture drawn by its weights."""
        return self._relax(state, self._key_of(state, key))(state.theta)

    def step(
        self, state: State, architecture: Architecture, slope: Slope, key: jax.Array
    ) -> tuple[State, Architecture]:
        """Updates the architecture weights, then proposes the architecture to train.

        The forward pass of the update and the proposal draw independently. In a shared
        pass, that of the update is the one that has trained the earlier proposal.
        """
        del architecture
        key_of_step, key_of_proposal = jax.random.split(key)
        _, gradient = slope(
            self._relax(state, self._key_of(state, key_of_step)),
            state.theta,
            self.split,
            own_batch=self.own_batch,
            unrolled=self.order == "second",
        )
        gradient += self.entropy_weight * jax.grad(self._entropy)(state.theta)
        gradient += jax.grad(self._loss_of_costs)(state.theta)
        updates, opt_state = self.optimizer.transform().update(
            gradient, state.opt_state, state.theta
        )
        moved = state._replace(
            theta=optax.apply_updates(state.theta, updates), opt_state=opt_state
        )
        trains = state.epoch >= self.warmup
        state = jax.tree.map(lambda a, b: jnp.where(trains, a, b), moved, state)
        if self.shared_pass:
            state = state._replace(draw=key_of_proposal)
        return state, self.propose(state, key_of_proposal)

    def finalists(self, state: State, key: jax.Array) -> Architecture:
        """The architecture to which the weights are discretized, within the limits."""
        del key
        return Architecture(self._derived(self._probabilities(state.theta)))

    def watch(self, state: State) -> dict[str, jax.Array]:
        """The weights, their entropy in nats, and the derived architecture."""
        weights = self._probabilities(state.theta)
        return {
            "weights": weights,
            "entropy_of_weights": self._entropy(state.theta),
            "derived": self._derived(weights),
        }

    def _derived(self, weights: jax.Array) -> jax.Array:
        return self.limits.discretize(self.space, weights)

    def _key_of(self, state: State, key: jax.Array) -> jax.Array:
        """The key of a pass: in a shared one, that of the mixture that is trained."""
        return state.draw if self.shared_pass else key

    @property
    def _there(self) -> jax.Array:
        return jnp.asarray(is_choice(self.space.groups))

    def _probabilities(self, theta: jax.Array) -> jax.Array:
        return self.optimizer.probabilities(theta, self._there)

    def _entropy(self, theta: jax.Array) -> jax.Array:
        """Mean entropy of the groups' weights, float32[]; nats."""
        p = self._probabilities(theta)
        log_p = jnp.log(jnp.where(p > 0, p, 1))
        return -jnp.mean(jnp.sum(p * log_p, -1))

    def _loss_of_costs(self, theta: jax.Array) -> jax.Array:
        """What the expected costs of the mixture add to the loss, float32[]."""
        p = self._probabilities(theta)
        choice = self.space.discretize(jax.lax.stop_gradient(p))
        mixture = Architecture(choice, weights=p)
        return self.limits.loss(mixture) + self.reward.loss(self.space, mixture)

    def _relax(self, state: State, key: jax.Array) -> Any:
        """A differentiable function from parameters to the architecture."""
        if self.relaxation == "mixture":

            def mixture(theta):
                weights = self.optimizer.weights(theta, self._there, key)
                p = jax.lax.stop_gradient(self._probabilities(theta))
                choice = self.space.discretize(p)
                return Architecture(choice, weights=weights)

            return mixture
        noise = jax.random.gumbel(key, self._there.shape)
        temperature = self._temperature(state.epoch)

        def single_path(theta):
            p = self._probabilities(theta)
            log_p = jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1)), NEVER)
            soft = jax.nn.softmax((log_p + noise) / temperature)
            hard = jax.nn.one_hot(jnp.argmax(soft, -1), soft.shape[-1])
            choice = self.space.discretize(hard)
            # The difference first: it is exactly 0, and the gate exactly 0 or 1.
            gates = hard + (soft - jax.lax.stop_gradient(soft))
            return Architecture(choice, gates=gates)

        return single_path

    def _temperature(self, epoch: jax.Array) -> jax.Array:
        passed = jnp.minimum(epoch / self.temperature_epochs, 1)
        fall = self.temperature - self.last_temperature
        return self.temperature - fall * passed
