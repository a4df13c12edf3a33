"""How the weights of a child are trained, with the learning rate as data."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from wpl_jax.config_fields import get_field, require_int, require_number, require_only


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent as language models of this kind are trained.

    Attributes:
      learning_rate: Before it decays.
      decay: Factor on it for each epoch from ``decay_from`` on.
      decay_from: That epoch, counted from 0.
      clip_norm: Limit of the gradient's norm over all of the child, None for none.
      weight_decay: Times the weights, added to the gradient.
      momentum: Of the heavy ball, None for none.
    """

    learning_rate: float
    decay: float = 1.0
    decay_from: int = 0
    clip_norm: float | None = None
    weight_decay: float = 0.0
    momentum: float | None = None

    def rate(self, epoch: jax.Array) -> jax.Array:
        """The learning rate in an epoch, ``float32[]``."""
        steps = jnp.maximum(epoch - self.decay_from + 1, 0)
        return jnp.float32(self.learning_rate) * jnp.float32(self.decay) ** steps

    def transform(self, rate: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer under a learning rate, which may be traced."""
        parts = [optax.add_decayed_weights(self.weight_decay)]
        if self.clip_norm is not None:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.momentum is not None:
            parts.append(optax.trace(self.momentum))
        return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def make_sgd(config: ConfigDict, path: str = "optimizer") -> Sgd:
    """The settings under a path of the configuration, checked.

    Raises:
      ConfigError: Naming the field that is wrong.
    """
    require_number(config, f"{path}.learning_rate", above=0)
    require_number(config, f"{path}.decay", above=0, most=1)
    require_int(config, f"{path}.decay_from", 0)
    require_number(config, f"{path}.weight_decay", least=0)
    require_number(config, f"{path}.clip_norm", above=0, optional=True)
    require_number(config, f"{path}.momentum", least=0, below=1, optional=True)
    require_only(config, path, [field.name for field in dataclasses.fields(Sgd)])
    return Sgd(**get_field(config, path).to_dict())
