"""Quadratic penalties around the weights that earlier children left: L2, EWC, WPL."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from wpl_jax import penalty
from wpl_jax.common.settings import (
    check_bool,
    check_choice,
    check_int,
    check_number,
    check_parts,
    chosen,
    require,
)
from wpl_jax.common.trees import zero_importance
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.protections import fisher_changes
from wpl_jax.protections.estimators import ESTIMATORS, PerExample, Uniform
from wpl_jax.protections.fisher_changes import Change, Child, RunningAverage
from wpl_jax.protections.protection import Estimator, Protection


def _explicit(optimizer, rate, alpha):
    del rate
    return optax.chain(penalty.weight_plasticity(alpha), optimizer)


def _proximal(optimizer, rate, alpha):
    return optax.chain(optimizer, penalty.proximal_weight_plasticity(alpha, rate))


# Each maps (optimizer, learning rate, alpha) to the optimizer under the penalty.
STEPS = {"explicit": _explicit, "proximal": _proximal}


@dataclasses.dataclass(frozen=True)
class Quadratic(Protection):
    """What L2, EWC and WPL have in common.

    Attributes:
      strength: Alpha before it decays.
      decay_from: Epoch from which alpha falls, linearly.
      decay_epochs: Epochs in which it falls to zero, None for never.
      step: ``"explicit"`` or ``"proximal"``, see :mod:`wpl_jax.penalty`.
      normalize: Scale of the Fisher: over the ``"tree"`` of what a child uses, per
        ``"tensor"``, or ``"none"``.
      protect: ``"all"`` weights, or only those of the ``"choices"``, which not all
        children share (the authors' code).
      start_epoch: First epoch whose children leave a Fisher.
      flush_every: Epochs after which all Fishers are forgotten, None for never.
    """

    strength: float = 0.03
    decay_from: int = 0
    decay_epochs: int | None = None
    step: Literal["explicit", "proximal"] = "proximal"
    normalize: Literal["none", "tree", "tensor"] = "tree"
    protect: Literal["all", "choices"] = "all"
    start_epoch: int = 5
    flush_every: int | None = 3

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_number(self, "strength", least=0)
        check_int(self, "decay_from", 0)
        check_int(self, "decay_epochs", 1, optional=True)
        check_choice(self, "step", STEPS)
        check_choice(self, "normalize", ("none", "tensor", "tree"))
        check_choice(self, "protect", ("all", "choices"))
        check_int(self, "start_epoch", 0)
        check_int(self, "flush_every", 1, optional=True)

    @staticmethod
    def unread(settings: Mapping[str, Any]) -> dict[str, str]:
        """Settings that are not read, and why."""
        if settings.get("decay_epochs") is None:
            return {"decay_from": "decay_epochs is None"}
        return {}

    def check_task(self, task):
        """Checks that the task has what the estimator needs."""
        # An estimator of one's own need not check anything.
        check = getattr(self._estimator, "check_task", None)
        if check is not None:
            check(task)

    def alpha(self, epoch):
        """Alpha: ``strength``, which falls linearly from ``decay_from`` on."""
        if self.decay_epochs is None:
            return jnp.full_like(epoch, self.strength, jnp.float32)
        fallen = jnp.maximum(epoch - self.decay_from, 0) / self.decay_epochs
        return self.strength * jnp.maximum(1 - fallen, 0)

    def active(self, epoch):
        """Whether children leave a Fisher: from ``start_epoch`` on."""
        return epoch >= self.start_epoch

    def wrap(self, optimizer, rate, alpha):
        """The penalty first if it is a gradient, last if it is a proximal step."""
        return STEPS[self.step](optimizer, rate, alpha)

    def init(self, params, child):
        """The running average, zero; nothing where there is none."""
        del child
        return zero_importance(params) if self._average else ()

    def memory_rows(self, memory, rows):
        """The rows of the running average."""
        del memory
        return rows if self._average else ()

    def begin_epoch(self, memory, opt_state, epoch):
        """Flushes the average and the penalty's Fisher every ``flush_every`` epochs."""
        if self.flush_every is None:
            return memory, opt_state
        since = epoch - self.start_epoch
        flush = (since > 0) & (since % self.flush_every == 0)

        def flushed(tree):
            return jax.tree.map(lambda f: jnp.where(flush, 0, f), tree)

        def forget(state):
            return state._replace(fisher=flushed(state.fisher))

        return flushed(memory), penalty.map_states(forget, opt_state)

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """The Fisher of the child."""
        return self._estimator.estimate(trained, task, data, key, axis)

    def remember(self, memory, opt_state, trained, found, used, rows, alpha):
        """Moves the anchor to the parameters, with their Fisher."""
        child = Child(used, rows, alpha)
        if average := self._average:
            fisher = average.update(memory, found, child)
            memory = jax.tree.map(
                lambda f, u, old: jnp.where(u, f, old), fisher, used, memory
            )
        else:
            fisher = fisher_changes.of_used(found, child)
        fisher = fisher_changes.apply(self._changes, fisher, child)
        return memory, penalty.consolidate(
            opt_state, trained.params, fisher, rule=self._rule, mask=used
        )

    @property
    def _rule(self) -> penalty.Rule:
        """How a child's Fisher and anchor meet the earlier ones."""
        raise NotImplementedError

    @property
    def _estimator(self) -> Estimator:
        raise NotImplementedError

    @property
    def _average(self) -> RunningAverage | None:
        return None

    @property
    def _changes(self) -> tuple[Change, ...]:
        changes: list[Change] = []
        counted: Callable[[Child], Any] = fisher_changes.used
        if self.protect == "choices":
            changes, counted = [fisher_changes.of_choices], fisher_changes.used_choices
        if self.normalize != "none":
            changes.append(fisher_changes.normalize(self.normalize, counted))
        return tuple(changes)


@dataclasses.dataclass(frozen=True)
class L2(Quadratic):
    """The same penalty for all weights: the baseline for penalties with a Fisher."""

    @property
    def _rule(self) -> penalty.Rule:
        return penalty.replace

    @property
    def _estimator(self) -> Estimator:
        return Uniform()


@dataclasses.dataclass(frozen=True)
class ElasticWeightConsolidation(Quadratic):
    """A quadratic for each child (EWC; Kirkpatrick et al., 2017).

    The Fishers of children add up, until they are flushed.

    Attributes:
      estimator: Of the Fisher.
    """

    estimator: Estimator = chosen(ESTIMATORS, PerExample())

    @property
    def _rule(self) -> penalty.Rule:
        return penalty.accumulate

    @property
    def _estimator(self) -> Estimator:
        return self.estimator


@dataclasses.dataclass(frozen=True)
class WeightPlasticity(Quadratic):
    """A running average of Fishers around the newest anchor (Benyahia et al., 2019).

    With ``anchor_decay`` the anchor is a moving average of the weights that earlier
    children left, as in a term of the loss of CASSO (2026).

    Attributes:
      estimator: Of the Fisher.
      eta: Share of the newest Fisher in the running average.
      average: ``"paper"`` or ``"code"``, see :func:`wpl_jax.fisher.update_average`.
      max_norm: Limit of each tensor's norm in the average, None for none; a row of
        stacked parameters is a tensor of its own.
      alpha_inside_average: Whether the average is multiplied by alpha as it is stored,
        as in the authors' code, where alpha thereby enters once for each visit.
      anchor_decay: Share of the earlier anchor that a child keeps of each weight, see
        :func:`wpl_jax.moving_average`. 0 for the newest weights.
    """

    estimator: Estimator = chosen(ESTIMATORS, PerExample())
    eta: float = 0.9
    average: Literal["paper", "code"] = "paper"
    max_norm: float | None = None
    alpha_inside_average: bool = False
    anchor_decay: float = 0.0

    @property
    def _rule(self) -> penalty.Rule:
        if not self.anchor_decay:
            return penalty.replace
        # The Fisher that a child leaves is a running average already.
        return penalty.moving_average(self.anchor_decay, fisher_decay=0)

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_number(self, "eta", least=0, most=1)
        check_choice(self, "average", ("code", "paper"))
        check_number(self, "max_norm", optional=True, above=0)
        check_bool(self, "alpha_inside_average")
        check_number(self, "anchor_decay", least=0, below=1)
        require(
            self,
            "normalize",
            not self.alpha_inside_average or self.normalize == "none",
            "'none' where alpha_inside_average is True: a normalized Fisher would undo "
            "it",
        )

    def wrap(self, optimizer, rate, alpha):
        """The same; the strength is 1 where it is part of the Fisher."""
        inside = self.alpha_inside_average
        return super().wrap(optimizer, rate, 1.0 if inside else alpha)

    @property
    def _estimator(self) -> Estimator:
        return self.estimator

    @property
    def _average(self) -> RunningAverage:
        changes: list[Change] = []
        if self.max_norm is not None:
            changes.append(fisher_changes.clip_norm(self.max_norm))
        if self.alpha_inside_average:
            changes.append(fisher_changes.times_alpha)
        return RunningAverage(self.eta, self.average, tuple(changes))
