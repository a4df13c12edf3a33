"""Estimators of the Fisher diagonal of a trained child."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from wpl_jax import fisher
from wpl_jax.common.settings import MOST_OF_A_CALL, check_choice, check_int
from wpl_jax.common.trees import widen, zero_importance
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.protections.protection import Trained
from wpl_jax.registry import Registry

Split = Literal["valid", "train"]


@dataclasses.dataclass(frozen=True)
class Uniform:
    """Ones: all weights are equally important."""

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """A tree of ones."""
        del task, data, key, axis
        return jax.tree.map(lambda p: widen(jnp.ones_like(p)), trained.params)


@dataclasses.dataclass(frozen=True)
class Batch:
    """The squared gradient of the mean loss of a batch (Benyahia et al., 2019).

    Attributes:
      split: What it is estimated on, ``"valid"`` or ``"train"``.
      batches: How many batches of it; the estimates are averaged.
    """

    split: Split = "valid"
    batches: int = 1

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice(self, "split", ("train", "valid"))
        check_int(self, "batches", 1, "in one call", most=MOST_OF_A_CALL)

    def estimate(self, trained, task, data, key, axis=NO_AXIS):
        """The mean over batches."""

        def of_batch(number, key):
            del key
            gradient = jax.grad(task.fisher_loss)(
                trained.params, trained.architecture, data, self.split, number, axis
            )
            # The mean first: squares of the devices' gradients are another estimate.
            return fisher.square(axis.mean(gradient))

        return _mean_over_batches(of_batch, trained, self.batches, key)


@dataclasses.dataclass(frozen=True)
class PerExample:
    """The mean of the squared gradients of examples, the Fisher diagonal.

    Attributes:
      split: What it is estimated on, ``"valid"`` or ``"train"``.
      batches: How many batches of it; the estimates are averaged.
      labels: Those of the ``"data"``, or drawn from the ``"model"``.
      chunk_size: Examples at a time, see :func:`wpl_jax.fisher.per_example_fisher`.
    """

    split: Split = "valid"
    batches: int = 1
    labels: Literal["data", "model"] = "data"
    chunk_size: int = 8

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_choice(self, "split", ("train", "valid"))
        check_int(self, "batches", 1, "in one call", most=MOST_OF_A_CALL)
        check_choice(self, "labels", ("data", "model"))
        check_int(self, "chunk_size", 1)

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
            here = len(jax.tree.leaves(examples)[0])
            places = axis.shard(jnp.arange(here * axis.size))
            found = fisher.per_example_fisher(
                loss,
                trained.params,
                (places, examples),
                chunk_size=self.chunk_size,
                resample=resample if self.labels == "model" else None,
                key=key,
            )
            return axis.mean(found)

        return _mean_over_batches(of_batch, trained, self.batches, key)


def _mean_over_batches(
    of_batch: Callable[[jax.Array, jax.Array], Any],
    trained: Trained,
    batches: int,
    key: jax.Array,
) -> Any:
    """The mean over the batches that are a child's; each child has others."""

    def add(total, i):
        number = trained.number * batches + i
        found = of_batch(number, jax.random.fold_in(key, i))
        return jax.tree.map(jnp.add, total, found), None

    total, _ = jax.lax.scan(add, zero_importance(trained.params), jnp.arange(batches))
    return jax.tree.map(lambda f: f / batches, total)


# By name: dataclasses with the method of :class:`Estimator`.
ESTIMATORS = Registry(
    "wpl_jax.estimators",
    {
        "batch": Batch,
        "per_example": PerExample,
        "uniform": Uniform,
    },
)
