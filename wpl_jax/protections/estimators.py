"""Estimators of the Fisher diagonal of a trained child."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from wpl_jax import fisher
from wpl_jax.common.checks import example_shape
from wpl_jax.common.registry import Registry
from wpl_jax.common.settings import MOST_OF_A_CALL, check_choice, check_int
from wpl_jax.common.trees import widen, zero_importance
from wpl_jax.curvature.likelihood import fisher_over_classes
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.errors import UserError, for_caller
from wpl_jax.protections.protection import Trained

# Backward passes for an example that the exact Fisher takes without samples.
MOST_PASSES = 1_000

Split = Literal["valid", "train"]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Ones: all weights are equally important."""

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """A tree of ones."""
        del task, data, key, axis
        return jax.tree.map(lambda p: widen(jnp.ones_like(p)), trained.params)


@dataclasses.dataclass(frozen=True)
class _OverBatches:
    """An estimate that is the mean over some batches of a split."""

    split: Split = "valid"
    batches: int = 1

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice(self, "split", ("train", "valid"))
        check_int(self, "batches", 1, "in one call", most=MOST_OF_A_CALL)

    def _mean(
        self,
        of_batch: Callable[[jax.Array, jax.Array], Any],
        trained: Trained,
        key: jax.Array,
    ) -> Any:
        """The mean over the batches that are a child's; each child has others.

        Args:
          of_batch: The estimate of one batch, of its number and a PRNG key.
          trained: The child.
          key: PRNG key.
        """

        def add(total, i):
            number = trained.number * self.batches + i
            found = of_batch(number, jax.random.fold_in(key, i))
            return jax.tree.map(jnp.add, total, found), None

        nothing = zero_importance(trained.params)
        total, _ = jax.lax.scan(add, nothing, jnp.arange(self.batches))
        return jax.tree.map(lambda f: f / self.batches, total)


@dataclasses.dataclass(frozen=True)
class Batch(_OverBatches):
    """The squared gradient of the mean loss of a batch (Benyahia et al., 2019).

    Attributes:
      split: What it is estimated on, ``"valid"`` or ``"train"``.
      batches: How many batches of it; the estimates are averaged.
    """

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """The mean over batches."""

        def of_batch(number, key):
            del key
            gradient = jax.grad(task.fisher_loss)(
                trained.params, trained.architecture, data, self.split, number, axis
            )
            # The mean first: squares of the devices' gradients are another estimate.
            return fisher.square(axis.mean(gradient))

        return self._mean(of_batch, trained, key)


@dataclasses.dataclass(frozen=True)
class PerExample(_OverBatches):
    """The mean of the squared gradients of examples, the Fisher diagonal.

    Attributes:
      split: What it is estimated on, ``"valid"`` or ``"train"``.
      batches: How many batches of it; the estimates are averaged.
      labels: Those of the ``"data"``, or drawn from the ``"model"``.
      chunk_size: Examples at a time, see :func:`wpl_jax.fisher.per_example_fisher`.
    """

    labels: Literal["data", "model"] = "data"
    chunk_size: int = 8

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_choice(self, "labels", ("data", "model"))
        check_int(self, "chunk_size", 1)

    def check_task(self, task):
        """Checks that labels can be drawn from the model, if they are to be.

        Raises:
          UserError: If they cannot.
        """
        if self.labels == "model" and not getattr(task, "can_sample", True):
            raise UserError(
                'The penalty draws targets from the model (labels="model"), and the '
                "task does not say how. Pass sample_targets=, a function of a key and "
                'the outputs for one example, or kind="classification" or '
                '"regression" to wpl_jax.task; or take labels="data".'
            )

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """The mean over batches."""

        def loss(child, item):
            return task.example_loss(child, trained.architecture, item[1])

        def of_batch(number, key):
            def resample(_, child, item):
                place, example = item
                # A draw for each place in the batch, on whichever device it is.
                own = jax.random.fold_in(key, place)
                return place, task.sample_labels(
                    own, child, trained.architecture, example
                )

            examples = task.fisher_examples(
                trained.params, trained.architecture, data, self.split, number, axis
            )
            found = fisher.per_example_fisher(
                loss,
                trained.params,
                (_places(examples, axis), examples),
                chunk_size=self.chunk_size,
                resample=resample if self.labels == "model" else None,
                key=key,
            )
            return axis.mean(found)

        return self._mean(of_batch, trained, key)


@dataclasses.dataclass(frozen=True)
class Exact(_OverBatches):
    """The Fisher diagonal with the expectation over all classes.

    Labels are neither read nor drawn, see :func:`wpl_jax.exact_fisher`. It takes a
    backward pass for each class of each prediction, or ``samples`` of them.

    Attributes:
      split: What it is estimated on, ``"valid"`` or ``"train"``.
      batches: How many batches of it; the estimates are averaged.
      samples: Backward passes with random signs in place of one for each class; None
        for all classes. Language models need it.
      chunk_size: Examples at a time.
    """

    samples: int | None = None
    chunk_size: int = 8

    def __post_init__(self) -> None:
        """Checks the settings."""
        super().__post_init__()
        check_int(self, "samples", 1, optional=True, most=MOST_OF_A_CALL)
        check_int(self, "chunk_size", 1)

    def check_task(self, task):
        """Checks that the task has classes.

        Raises:
          UserError: If it has none.
        """
        if not getattr(task, "has_classes", hasattr(task, "log_probabilities")):
            raise UserError(
                "The estimator 'exact' takes the expectation over all classes, and the "
                "task has none. Take the estimator 'per_example', or pass "
                'kind="classification" to wpl_jax.task.'
            )

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """The mean over batches.

        Raises:
          UserError: If an example has too many classes for ``samples=None``.
        """

        def of_batch(number, key):
            examples = task.fisher_examples(
                trained.params, trained.architecture, data, self.split, number, axis
            )

            def log_probabilities(child, example):
                return task.log_probabilities(child, trained.architecture, example)

            *predictions, classes = jax.eval_shape(
                log_probabilities, trained.params, example_shape(examples)
            ).shape
            count = math.prod(predictions)
            self._check_size(count, classes)
            found = fisher_over_classes(
                log_probabilities,
                trained.params,
                examples,
                chunk_size=self.chunk_size,
                samples=self.samples,
                key=key,
                numbers=_places(examples, axis),
            )
            # The loss is the mean over predictions, the log-likelihood their sum.
            return axis.mean(jax.tree.map(lambda f: f / count**2, found))

        return self._mean(of_batch, trained, key)

    def _check_size(self, predictions: int, classes: int) -> None:
        passes = predictions * classes
        if self.samples is None and passes > MOST_PASSES:
            flag = for_caller(" (--config.penalty.NAME.exact.samples=1)", "")
            raise UserError(
                f"The estimator 'exact' would need {passes} backward passes for each "
                f"example, one for each of {classes} classes of {predictions} "
                f"predictions; with samples=None it takes at most {MOST_PASSES}. Set "
                f"its setting samples to 1 or more{flag}, or use the estimator "
                "'per_example' with labels='model'."
            )


def _places(examples: Any, axis: Axis) -> jax.Array:
    """The places of examples in the batch, whichever device they are on."""
    here = len(jax.tree.leaves(examples)[0])
    return axis.shard(jnp.arange(here * axis.size))


# By name: dataclasses with the method of :class:`Estimator`.
ESTIMATORS = Registry(
    "wpl_jax.estimators",
    {
        "batch": Batch,
        "exact": Exact,
        "per_example": PerExample,
        "uniform": Uniform,
    },
)
