"""Penalties of the two-model experiment: those of a search, with one earlier model."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wpl_jax import penalty as penalty_lib
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.protections import PENALTIES as PROTECTIONS
from wpl_jax.protections.estimators import Batch, PerExample
from wpl_jax.protections.protection import Trained
from wpl_jax.protections.quadratic import Quadratic
from wpl_jax.supernet import ALL, Architecture
from wpl_jax.tasks.task import FisherLoss
from wpl_jax.two_models.experiment import (
    Data,
    Layers,
    apply_layers,
    cross_entropy,
    protection_mask,
    standardize,
)

_CHUNK = 128  # examples at a time


class Penalty(NamedTuple):
    """What an arm can name.

    Attributes:
      title: What reports call it.
      protection: Name of the protection of a search that it is.
      settings: Of the protection.
      alpha: Its strength; None of one that is swept, at the alphas of a study.
    """

    title: str
    protection: str
    settings: Mapping[str, Any] = {}
    alpha: float | None = None

    @property
    def is_swept(self) -> bool:
        """Whether a study names it and its alphas; the others are in every study."""
        return self.alpha is None


# The two ends of what alphas trade. No penalty is one of strength 0, and frozen layers
# are the limit of a large one: under it the proximal step moves no weight.
FREE, FROZEN = "none", "frozen"
# With one earlier model EWC is the same quadratic as WPL; what remains of the
# difference is that its Fisher takes labels drawn from the model.
PENALTIES: dict[str, Penalty] = {
    FREE: Penalty("no penalty", "l2", alpha=0.0),
    FROZEN: Penalty("frozen layers", "l2", alpha=1e12),
    "l2": Penalty("L2 to the anchor (F = 1)", "l2"),
    "ewc": Penalty(
        "EWC (per-example Fisher, labels from the model)",
        "ewc",
        {"estimator": PerExample(labels="model", chunk_size=_CHUNK)},
    ),
    "wpl_batch": Penalty("WPL, batch Fisher", "wpl", {"estimator": Batch()}),
    "wpl": Penalty(
        "WPL, per-example Fisher",
        "wpl",
        {"estimator": PerExample(chunk_size=_CHUNK)},
    ),
}


def protection_of(penalty: str, normalize: str) -> Quadratic:
    """The protection of an arm.

    Args:
      penalty: A name in ``PENALTIES``.
      normalize: Scale of the Fisher, as of :class:`Quadratic`.

    Raises:
      SettingError: If there is no such scale.
    """
    _, name, settings, _ = PENALTIES[penalty]
    return PROTECTIONS[name](normalize=normalize, start_epoch=0, **settings)


@dataclasses.dataclass(frozen=True)
class LossOfA(FisherLoss):
    """A's loss on the validation images that its Fisher is estimated on: one batch.

    Attributes:
      activation: A name in ``ACTIVATIONS``.
    """

    activation: str

    def fisher_loss(self, child, architecture, data, split, step, axis=NO_AXIS):
        """Mean over the images, in nats."""
        images, labels = self.fisher_examples(
            child, architecture, data, split, step, axis
        )
        return jnp.mean(cross_entropy(child, images, labels, self.activation))

    def fisher_examples(self, child, architecture, data, split, step, axis=NO_AXIS):
        """Images ``float32[n, pixels]`` and labels ``int32[n]``."""
        del child, architecture, split, step
        return axis.shard((standardize(data.fisher.images, data), data.fisher.labels))

    def example_loss(self, child, architecture, example):
        """Nats of one image."""
        del architecture
        image, label = example
        return cross_entropy(child, image, label, self.activation)

    def sample_labels(self, key, child, architecture, example):
        """The image with a label drawn from A."""
        del architecture
        logits = apply_layers(child, example[0], self.activation)
        return example[0], jax.random.categorical(key, logits)

    def log_probabilities(self, child, architecture, example):
        """Those of all classes of the image."""
        del architecture
        return jax.nn.log_softmax(apply_layers(child, example[0], self.activation))


def fisher_of_a(
    key: jax.Array,
    layers_a: Layers,
    share: jax.Array,
    data: Data,
    activation: str,
    protection: Quadratic,
) -> Layers:
    """The Fisher that a penalty holds once it remembers A.

    Args:
      key: PRNG key of labels drawn from A.
      layers_a: A's layers, trained.
      share: Which of them are shared, ``bool[layers]``.
      data: The data.
      activation: A name in ``ACTIVATIONS``.
      protection: What estimates and normalizes the Fisher.

    Returns:
      A tree like ``layers_a``, zero for layers that are not shared.
    """
    no_choices = Architecture(jnp.zeros(0, jnp.int32))
    trained = Trained(layers_a, no_choices, jnp.int32(0))
    found = protection.estimate(trained, LossOfA(activation), data, key)
    mask = protection_mask({"shared": layers_a}, share)["shared"]
    used = jax.tree.map(lambda m, p: jnp.broadcast_to(m > 0, p.shape), mask, layers_a)
    alpha = jnp.float32(1)
    penalized = protection.wrap(optax.identity(), 1.0, alpha)
    _, opt_state = protection.remember(
        protection.init(layers_a, no_choices),
        penalized.init(layers_a),
        trained,
        found,
        used,
        jax.tree.map(lambda _: ALL, layers_a),
        alpha,
    )
    (state,) = penalty_lib.plasticity_states(opt_state)
    return state.fisher
