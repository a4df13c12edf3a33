"""What a search does against forgetting: a Fisher a child, and where it is kept.

Benyahia et al. (2019), section 3.2. After a child has been trained, the Fisher of
the weights that it used is estimated, mixed into a running average, and written with
the weights themselves, the new anchor, into the optimizer's penalty
(:mod:`wpl_jax.penalty`), which the next children then train under.

Everything here works on the parameters of one child; weights that it does not use
keep their Fisher and anchor. Theirs need no new anchor: they have not moved.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from wpl_jax import fisher, penalty
from wpl_jax.common.config_fields import (
    MOST_OF_A_CALL,
    get_field,
    require,
    require_choice,
    require_int,
    require_number,
    require_only,
)
from wpl_jax.common.trees import widen, zero_importance
from wpl_jax.devices.parallel import ALONE, Axis
from wpl_jax.supernet import is_all
from wpl_jax.tasks.task import Data, Task

Memory = Any  # a tree like the parameters, or nothing

ESTIMATORS = ("batch", "per_example", "uniform")


class Trained(NamedTuple):
    """A child that has just been trained."""

    params: Any
    architecture: jax.Array  # int32[num_decisions]
    number: jax.Array  # int32[]; how many were trained before it


class Protection(Protocol):
    """What protects the shared weights. Its functions are pure."""

    def alpha(self, epoch: jax.Array) -> jax.Array:
        """Strength of the penalty in an epoch."""

    def active(self, epoch: jax.Array) -> jax.Array:
        """Whether children leave a Fisher in this epoch, ``bool[]``."""

    def wrap(self, optimizer: Any, rate: Any, alpha: Any) -> Any:
        """The optimizer under the penalty.

        Args:
          optimizer: What would train a child without one.
          rate: Its learning rate.
          alpha: Strength of the penalty.
        """

    def init(self, params: Any) -> Memory:
        """What is remembered beside the optimizer's state."""

    def memory_rows(self, rows: Any) -> Any:
        """Which rows of the memory belong to a child that uses these of the weights."""

    def begin_epoch(
        self, memory: Memory, opt_state: Any, epoch: jax.Array
    ) -> tuple[Memory, Any]:
        """Forgets what is to be forgotten as an epoch begins."""

    def estimate(
        self,
        trained: Trained,
        task: Task,
        data: Data,
        key: jax.Array,
        axis: Axis = ALONE,
    ) -> Any:
        """What a trained child leaves behind, a tree like its parameters.

        Args:
          trained: The child.
          task: For its loss.
          data: Of the task.
          key: PRNG key.
          axis: Devices that share each batch.
        """

    def remember(
        self,
        memory: Memory,
        opt_state: Any,
        params: Any,
        found: Any,
        used: Any,
        rows: Any,
        alpha: jax.Array,
    ) -> tuple[Memory, Any]:
        """Remembers parameters as they have been trained.

        All trees are of one child, or all are of the shared parameters.

        Args:
          memory: What is remembered so far.
          opt_state: The optimizer's state, with the penalty.
          params: Where the parameters are now.
          found: What :meth:`estimate` found, or a mean over children.
          used: 0/1 or bool, broadcast to them: what is to be remembered.
          rows: Of any child; they tell what all children share.
          alpha: Strength of the penalty.
        """


@dataclasses.dataclass(frozen=True)
class NoProtection:
    """No penalty."""

    def alpha(self, epoch):
        """Zero."""
        return jnp.zeros_like(epoch, jnp.float32)

    def active(self, epoch):
        """Never."""
        return jnp.zeros_like(epoch, bool)

    def wrap(self, optimizer, rate, alpha):
        """The optimizer as it is."""
        del rate, alpha
        return optimizer

    def init(self, params):
        """Nothing."""
        del params
        return ()

    def memory_rows(self, rows):
        """Nothing."""
        del rows
        return ()

    def begin_epoch(self, memory, opt_state, epoch):
        """Nothing."""
        del epoch
        return memory, opt_state

    def estimate(self, trained, *args):
        """Zeros."""
        del args
        return jax.tree.map(jnp.zeros_like, trained.params)

    def remember(self, memory, opt_state, *args):
        """Nothing."""
        del args
        return memory, opt_state


@dataclasses.dataclass(frozen=True)
class QuadraticProtection:
    """A quadratic penalty around the weights that the last children left.

    Attributes:
      strength: Alpha before it decays.
      decay_from: Epoch from which alpha falls, linearly.
      decay_epochs: Epochs in which it falls to zero, None for never.
      form: ``"explicit"`` or ``"proximal"``, see :mod:`wpl_jax.penalty`.
      rule: How a child's Fisher and anchor meet the earlier ones.
      estimator: ``"batch"``, the squared gradient of a batch; ``"per_example"``, the
        mean of the squared gradients of its examples; ``"uniform"``, ones.
      labels: Of ``"per_example"``: those of the ``"data"``, or drawn from the
        ``"model"``.
      split: What the Fisher is estimated on, ``"valid"`` or ``"train"``.
      batches: How many batches of it.
      chunk_size: Of ``"per_example"``, see :mod:`wpl_jax.fisher`.
      eta: Share of the newest Fisher in the running average.
      average: ``"printed"`` or ``"coded"``, see
        :func:`wpl_jax.fisher.update_average`; None for none, where the newest Fisher
        counts as it is and nothing is remembered beside the penalty.
      max_norm: Limit of each tensor's norm in the average, None for none; a row of
        stacked parameters is a tensor of its own.
      normalize: Scale of the Fisher: over the ``"tree"`` of what a child uses, per
        ``"tensor"``, or ``"none"``.
      protect: ``"all"`` weights, or only those of the ``"choices"``, which not all
        children share (the authors' code).
      compound: Whether the average is multiplied by alpha as it is stored, as in the
        authors' code, where alpha thereby enters once for each visit.
      start_epoch: First epoch whose children leave a Fisher.
      flush_every: Epochs after which all Fishers are forgotten, None for never.
    """

    strength: float
    decay_from: int
    decay_epochs: int | None
    form: Literal["explicit", "proximal"]
    rule: penalty.Rule
    estimator: Literal["batch", "per_example", "uniform"]
    labels: Literal["data", "model"]
    split: Literal["valid", "train"]
    batches: int
    chunk_size: int
    eta: float
    average: Literal["printed", "coded"] | None
    max_norm: float | None
    normalize: Literal["none", "tree", "tensor"]
    protect: Literal["all", "choices"]
    compound: bool
    start_epoch: int
    flush_every: int | None

    def alpha(self, epoch):
        """Constant, then falling linearly."""
        if self.decay_epochs is None:
            return jnp.full_like(epoch, self.strength, jnp.float32)
        fallen = jnp.maximum(epoch - self.decay_from, 0) / self.decay_epochs
        return self.strength * jnp.maximum(1 - fallen, 0)

    def active(self, epoch):
        """From ``start_epoch`` on."""
        return epoch >= self.start_epoch

    def wrap(self, optimizer, rate, alpha):
        """The penalty first if it is a gradient, last if it is a proximal step."""
        if self.compound:
            alpha = 1.0
        if self.form == "explicit":
            return optax.chain(penalty.weight_plasticity(alpha), optimizer)
        return optax.chain(optimizer, penalty.proximal_weight_plasticity(alpha, rate))

    def init(self, params):
        """The running average, zero."""
        return () if self.average is None else zero_importance(params)

    def memory_rows(self, rows):
        """The same."""
        return () if self.average is None else rows

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

    def remember(self, memory, opt_state, params, found, used, rows, alpha):
        """Mixes the Fisher in, and moves the anchor to the parameters."""
        new = found
        if self.average is not None:
            new = fisher.update_average(memory, found, eta=self.eta, form=self.average)
        # What is not used counts for nothing below, and stays as it was.
        new = jax.tree.map(lambda f, u: jnp.where(u, f, 0), new, used)
        if self.max_norm is not None:
            clip = functools.partial(fisher.clip_norm, max_norm=self.max_norm)
            new = _of_each_tensor(clip, rows, new)
        if self.compound:
            new = jax.tree.map(lambda f: alpha * f, new)
        protected = jax.tree.map(
            lambda there, index: there * (self.protect == "all" or not is_all(index)),
            used,
            rows,
        )
        importance = jax.tree.map(jnp.multiply, new, protected)
        if self.normalize == "tree":
            importance = fisher.normalize(importance, protected)
        elif self.normalize == "tensor":
            importance = _of_each_tensor(fisher.normalize, rows, importance, protected)
        if self.average is not None:
            memory = jax.tree.map(
                lambda f, u, old: jnp.where(u, f, old), new, used, memory
            )
        return memory, penalty.consolidate(
            opt_state, params, importance, rule=self.rule, mask=used
        )

    def estimate(self, trained, task, data, key, axis=ALONE):
        """The Fisher of the child on some batches."""
        if self.estimator == "uniform":
            return jax.tree.map(lambda p: widen(jnp.ones_like(p)), trained.params)
        estimate = self._of_batch if self.estimator == "batch" else self._of_examples

        def add(total, i):
            batch = trained.number * self.batches + i
            key_of_batch = jax.random.fold_in(key, i)
            found = estimate(trained, task, data, batch, key_of_batch, axis)
            return jax.tree.map(jnp.add, total, found), None

        total, _ = jax.lax.scan(
            add, zero_importance(trained.params), jnp.arange(self.batches)
        )
        return jax.tree.map(lambda f: f / self.batches, total)

    def _of_batch(self, trained, task, data, batch, key, axis):
        del key
        gradient = jax.grad(task.fisher_loss)(
            trained.params, trained.architecture, data, self.split, batch, axis
        )
        # The mean first: squares of the devices' gradients are another estimate.
        return fisher.square(axis.mean(gradient))

    def _of_examples(self, trained, task, data, batch, key, axis):
        def loss(child, item):
            return task.example_loss(child, trained.architecture, item[1])

        def resample(_, child, item):
            number, example = item
            # A draw for each place in the batch, on whichever device it is.
            own = jax.random.fold_in(key, number)
            return number, task.sample_labels(own, child, trained.architecture, example)

        examples = task.fisher_examples(
            trained.params, trained.architecture, data, self.split, batch, axis
        )
        here = len(jax.tree.leaves(examples)[0])
        numbers = axis.share(jnp.arange(here * axis.size))
        found = fisher.per_example_fisher(
            loss,
            trained.params,
            (numbers, examples),
            chunk_size=self.chunk_size,
            resample=resample if self.labels == "model" else None,
            key=key,
        )
        return axis.mean(found)


def _of_each_tensor(function, rows, *trees):
    """Maps over tensors; where parameters are a stack of them, over its rows."""

    def of_leaf(index, *leaves):
        return (function if is_all(index) else jax.vmap(function))(*leaves)

    return jax.tree.map(of_leaf, rows, *trees)


# Without a running average its settings, eta among them, mean nothing.
_AS_IT_COMES = {"average": None, "max_norm": None, "compound": False}
_OF_EXAMPLES = ("chunk_size", "labels")  # settings of the estimator "per_example"
_OF_BATCHES = (*_OF_EXAMPLES, "batches", "split")  # of all but "uniform"


def make_wpl(config: ConfigDict) -> Protection:
    """The Weight Plasticity Loss: a running average around the newest anchor."""
    return QuadraticProtection(rule=penalty.replace, **_settings(config))


def make_ewc(config: ConfigDict) -> Protection:
    """Elastic Weight Consolidation, a quadratic for each child (Kirkpatrick, 2017).

    Its Fishers add up, until they are flushed.
    """
    settings = _settings(config) | _AS_IT_COMES
    return QuadraticProtection(rule=penalty.accumulate, **settings)


def make_l2(config: ConfigDict) -> Protection:
    """The same distance for all weights: what the Fisher adds is told by it."""
    settings = _settings(config) | _AS_IT_COMES | {"estimator": "uniform"}
    return QuadraticProtection(rule=penalty.replace, **settings)


# By name: functions of the configuration, which check ``config.penalty``.
PENALTIES: dict[str, Callable[[ConfigDict], Protection]] = {
    "none": lambda config: NoProtection(),
    "l2": make_l2,
    "ewc": make_ewc,
    "wpl": make_wpl,
}


def unread(config: ConfigDict) -> dict[str, str]:
    """Settings under ``config.penalty`` that the penalty does not read, and why."""
    require_choice(config, "penalty.name", PENALTIES)
    name = config.penalty.name
    why = f"config.penalty.name is {name!r}"
    found: dict[str, str] = {}
    if name == "none":
        others = (field for field in config.penalty if field != "name")
        return {f"penalty.{field}": why for field in others}
    if get_field(config, "penalty.decay_epochs") is None:
        found["penalty.decay_from"] = "config.penalty.decay_epochs is None"
    estimator = get_field(config, "penalty.estimator")
    if name != "l2" and estimator != "per_example":
        unused = _OF_BATCHES if estimator == "uniform" else _OF_EXAMPLES
        because = f"config.penalty.estimator is {estimator!r}"
        found |= {f"penalty.{field}": because for field in unused}
    if name in ("ewc", "l2"):
        found |= {f"penalty.{field}": why for field in (*_AS_IT_COMES, "eta")}
    if name == "l2":
        found |= {f"penalty.{field}": why for field in ("estimator", *_OF_BATCHES)}
    return found


def make_protection(config: ConfigDict) -> Protection:
    """The penalty that ``config.penalty.name`` names.

    Raises:
      ConfigError: If there is none, or a setting is wrong.
    """
    require_choice(config, "penalty.name", PENALTIES)
    return PENALTIES[config.penalty.name](config)


_CHOICES = {
    "form": ("explicit", "proximal"),
    "estimator": ESTIMATORS,
    "labels": ("data", "model"),
    "split": ("train", "valid"),
    "average": ("coded", "printed"),
    "normalize": ("none", "tensor", "tree"),
    "protect": ("all", "choices"),
    "compound": (False, True),
}


def _settings(config: ConfigDict) -> dict[str, Any]:
    fields = {field.name for field in dataclasses.fields(QuadraticProtection)}
    require_only(config, "penalty", fields - {"rule"} | {"name"})
    require_number(config, "penalty.strength", least=0)
    require_number(config, "penalty.eta", least=0, most=1)
    for name, known in _CHOICES.items():
        require_choice(config, f"penalty.{name}", known)
    require_int(config, "penalty.batches", 1, "in one call", most=MOST_OF_A_CALL)
    require_int(config, "penalty.chunk_size", 1)
    for name in ("start_epoch", "decay_from"):
        require_int(config, f"penalty.{name}", 0)
    for name in ("decay_epochs", "flush_every"):
        require_int(config, f"penalty.{name}", 1, optional=True)
    require_number(config, "penalty.max_norm", above=0, optional=True)
    require(
        not config.penalty.compound or config.penalty.normalize == "none",
        config,
        "penalty.normalize",
        "'none' where compound is True: a normalized Fisher would undo it",
    )
    return {k: v for k, v in config.penalty.items() if k != "name"}
