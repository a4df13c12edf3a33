"""The protocol of a search strategy."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax

from wpl_jax.common.settings import SettingError, check_choice, check_int
from wpl_jax.strategies.limits import NO_LIMITS, Limits
from wpl_jax.strategies.reinforce import RewardsFn
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Evaluation, ranking

State = Any
# The loss of the architecture of(theta) on a batch of the split "train" or "valid", and
# its gradient in theta: see :class:`wpl_jax.engine.slope.Slope`.
Slope = Callable[..., tuple[jax.Array, Any]]


class Learned(NamedTuple):
    """Rewards and entropies in some steps of a strategy's learning."""

    reward: jax.Array  # float[]; mean over the steps
    entropy: jax.Array  # float[]; mean entropy of what it proposed, in nats


@dataclasses.dataclass(frozen=True)
class Candidates:
    """How a strategy's best architecture is selected at the end of a search.

    In two stages. *Screen* evaluates every candidate on a few validation batches.
    *Judge* evaluates the best of them on more, and the best of these is the result. All
    use the shared weights.

    Attributes:
      proposed: Architectures that the strategy proposes.
      screen_batches: Validation batches on which each is evaluated first.
      keep: How many of the best are then judged.
      judge_batches: Validation batches on which these are evaluated; None for the whole
        validation set.
      by: Whether they are ordered by their ``"error"`` or their ``"loss"``, in both
        stages. On few images many have the same number of mistakes, and the loss tells
        them apart.
    """

    proposed: int = 100
    screen_batches: int = 10
    keep: int = 10
    judge_batches: int | None = None
    by: Literal["error", "loss"] = "error"

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice(self, "by", ("error", "loss"))
        for name in ("proposed", "screen_batches", "keep"):
            check_int(self, name, 1)
        check_int(self, "judge_batches", 1, optional=True)

    def order(
        self, evaluation: Evaluation, allowed: jax.Array | bool = True
    ) -> jax.Array:
        """The order of candidates, the best first, ``int32[n]``.

        By :attr:`by`, and by the other of error and loss where it is equal; those that
        are not finite come after them, and those that are not allowed last.

        Args:
          evaluation: Of all.
          allowed: ``bool[n]``.
        """
        return ranking(evaluation, allowed, self.by)


class Strategy(Protocol):
    """A way to search, on any space. Its functions are pure.

    It learns between epochs from rewards (:meth:`learn`), or while weights are trained
    from gradients (:meth:`step`) or their norms (:meth:`after_step`), or not at all. A
    class that inherits from this one implements what it does and leaves out the rest.

    Attributes:
      differentiable: Whether it learns from gradients. It then trains one architecture
        at a time, of a space that supports weights and gates.
      uses_norms: Whether it learns from norms of the shared weights' gradients
        (:meth:`after_step`).
      limits: What its proposals keep to. A strategy that can do so has a field of this
        name, ``limits: Limits = given(NO_LIMITS)``.
    """

    differentiable: bool = False
    uses_norms: bool = False
    limits: Limits = NO_LIMITS

    @property
    def shares_pass(self) -> bool:
        """Whether :meth:`step` is called after each batch, on its mixture.

        One pass then gives the gradients in the shared weights and in the mixture's,
        and ``slope`` may be asked for the loss on ``"train"`` alone. With a protection
        that rehearses other children, :meth:`step` has a pass of its own before.
        """
        return False

    @property
    def candidates(self) -> Candidates:
        """How its best is selected."""

    @property
    def candidates_are(self) -> str:
        """What the candidates for the best are, in a few words for the report."""
        return "proposed by the strategy"

    def check_children(self, number: int) -> None:
        """Checks the number of children that are trained together.

        By default it may be any if the strategy does not learn from gradients.

        Args:
          number: Of children in a training step.

        Raises:
          SettingError: About ``children_per_step``.
        """
        if self.differentiable and number > 1:
            expected = "1, as the strategy trains one architecture at a time"
            raise SettingError("children_per_step", number, expected)

    def check_epochs(self, number: int) -> None:
        """Checks the number of epochs of a search; by default it may be any.

        Args:
          number: Of epochs.

        Raises:
          SettingError: About ``epochs``.
        """
        del number

    def init(self, key: jax.Array) -> State:
        """What it starts from; by default, no state."""
        del key
        return ()

    def begin_epoch(self, state: State, epoch: jax.Array) -> State:
        """What it does before an epoch's first child; by default, nothing.

        Args:
          state: The strategy's state.
          epoch: Number of the epoch, ``int32[]``.
        """
        del epoch
        return state

    def propose(self, state: State, key: jax.Array) -> Architecture:
        """The next child, or the mixture that is trained next."""

    def propose_several(self, state: State, keys: jax.Array) -> Architecture:
        """The next children, which are trained together; by default, proposals.

        Args:
          state: The strategy's state.
          keys: PRNG keys, one for each child.

        Returns:
          Arrays with a leading axis of children.
        """
        return jax.vmap(functools.partial(self.propose, state))(keys)

    def step(
        self, state: State, architecture: Architecture, slope: Slope, key: jax.Array
    ) -> tuple[State, Architecture]:
        """Learns from gradients, before each batch that weights are trained on.

        By default it does nothing.

        Args:
          state: The strategy's state.
          architecture: What has been trained up to now.
          slope: A function of ``(of, theta, split)``. It returns the loss, on a batch
            of the split, of the architecture ``of(theta)`` with the shared weights as
            they are, ``float32[]``, and the gradient in ``theta``, a tree like it. Its
            options ``own_batch`` and ``unrolled`` are those of
            :class:`wpl_jax.engine.slope.Slope`.
          key: PRNG key of the step.

        Returns:
          The new state, and what is trained on the batch.
        """
        del slope, key
        return state, architecture

    def after_step(
        self, state: State, architectures: Architecture, norms: jax.Array
    ) -> State:
        """Learns from a training step, if :attr:`uses_norms`; by default, nothing.

        Args:
          state: The strategy's state.
          architectures: What was trained in the step, arrays ``[children, ...]``.
          norms: Norms of the gradients of each choice's rows, ``float32[children,
            decisions]``, see :func:`wpl_jax.supernet.norms_of_choices`. They are 0 for
            a child whose loss or gradient is not finite.
        """
        del architectures, norms
        return state

    def steps_after(self, epoch: int) -> int:
        """How many steps it learns for from rewards after an epoch; by default, 0."""
        del epoch
        return 0

    def learn(
        self,
        state: State,
        key: jax.Array,
        rewards_fn: RewardsFn,
        first: jax.Array,
        steps: int,
    ) -> tuple[State, Learned]:
        """Learns in the steps ``first`` to ``first + steps - 1`` of an epoch.

        Args:
          state: The strategy's state.
          key: PRNG key of the epoch; a step's draws depend on it and the step.
          rewards_fn: Rewards of architectures, traced. Several at once are divided
            among the devices.
          first: Number of the first step, ``int32[]``.
          steps: How many, at least 1.
        """
        raise NotImplementedError(f"{type(self).__name__} learns from no rewards.")

    def finalists(self, state: State, key: jax.Array) -> Architecture:
        """A candidate for the best, after the last epoch; by default a proposal.

        Its ``choice`` alone is selected and trained from scratch.
        """
        return self.propose(state, key)

    def propose_finalists(self, state: State, keys: jax.Array) -> Architecture:
        """The candidates for the best together; by default :meth:`finalists`.

        Args:
          state: The strategy's state.
          keys: PRNG keys, one for each candidate.

        Returns:
          Arrays with a leading axis of candidates.
        """
        return jax.vmap(functools.partial(self.finalists, state))(keys)

    def watch(self, state: State) -> dict[str, jax.Array]:
        """What is recorded of the state after each epoch, by name."""
        del state
        return {}
