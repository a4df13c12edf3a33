"""How the weights of a child are trained, with the learning rate as data."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from wpl_jax.common.config_fields import (
    get_field,
    require_choice,
    require_int,
    require_number,
    require_only,
)


class Schedule(Protocol):
    """How the learning rate changes from epoch to epoch."""

    def rate(self, highest: float, epoch: jax.Array) -> jax.Array:
        """The learning rate in an epoch, ``float32[]``, from the one it starts with."""


@dataclasses.dataclass(frozen=True)
class Exponential:
    """A factor for each epoch.

    Attributes:
      decay: The factor.
      decay_from: The first epoch that it is applied in, counted from 0.
    """

    decay: float = 1.0
    decay_from: int = 0

    def rate(self, highest, epoch):
        """Constant, then falling."""
        steps = jnp.maximum(epoch - self.decay_from + 1, 0)
        return jnp.float32(highest) * jnp.float32(self.decay) ** steps


@dataclasses.dataclass(frozen=True)
class Cosine:
    """Falls as a cosine, again and again (Loshchilov and Hutter, SGDR, 2017).

    Attributes:
      lowest: Learning rate that a period falls to.
      period: Epochs of the first.
      growth: How many times as long each is than the one before, a whole number.
    """

    lowest: float
    period: int
    growth: int = 1

    def rate(self, highest, epoch):
        """From the highest to the lowest in each period."""
        passed = jnp.asarray(epoch, jnp.float32) / self.period  # in first periods
        if self.growth == 1:
            place = passed % 1
        else:  # n periods are (growth^n - 1) / (growth - 1) first ones.
            done = jnp.log1p(passed * (self.growth - 1)) / jnp.log(self.growth)
            done = jnp.floor(done + 1e-5)
            length = jnp.float32(self.growth) ** done
            place = (passed - (length - 1) / (self.growth - 1)) / length
        fall = (1 + jnp.cos(jnp.pi * place)) / 2
        return jnp.float32(self.lowest) + (highest - self.lowest) * fall


@dataclasses.dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent.

    Attributes:
      learning_rate: That of the first epoch.
      schedule: How it changes.
      clip_norm: Limit of the gradient's norm over all of the child, None for none.
      weight_decay: Times the weights, added to the gradient.
      momentum: Of the heavy ball, None for none.
      nesterov: Whether the momentum is Nesterov's.
    """

    learning_rate: float
    schedule: Schedule = Exponential()
    clip_norm: float | None = None
    weight_decay: float = 0.0
    momentum: float | None = None
    nesterov: bool = False

    def rate(self, epoch: jax.Array) -> jax.Array:
        """The learning rate in an epoch, ``float32[]``."""
        return self.schedule.rate(self.learning_rate, epoch)

    def transform(self, rate: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer under a learning rate, which may be traced."""
        parts = [optax.add_decayed_weights(self.weight_decay)]
        if self.clip_norm is not None:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        if self.momentum is not None:
            parts.append(optax.trace(self.momentum, self.nesterov))
        return optax.chain(*parts, optax.scale_by_learning_rate(rate))


def _make_exponential(config: ConfigDict, path: str) -> Exponential:
    require_number(config, f"{path}.decay", above=0, most=1)
    require_int(config, f"{path}.decay_from", 0)
    require_only(config, path, _fields(Exponential))
    return Exponential(**get_field(config, path).to_dict())


def _make_cosine(config: ConfigDict, path: str) -> Cosine:
    require_number(config, f"{path}.lowest", least=0)
    require_int(config, f"{path}.period", 1)
    require_int(config, f"{path}.growth", 1)
    require_only(config, path, _fields(Cosine))
    return Cosine(**get_field(config, path).to_dict())


# By name: functions of the configuration and of the path under which the settings are,
# which check them.
SCHEDULES: dict[str, Callable[[ConfigDict, str], Schedule]] = {
    "cosine": _make_cosine,
    "exponential": _make_exponential,
}


def make_sgd(config: ConfigDict, path: str = "optimizer") -> Sgd:
    """The settings under a path of the configuration, checked.

    Raises:
      ConfigError: Naming the field that is wrong.
    """
    require_number(config, f"{path}.learning_rate", above=0)
    require_number(config, f"{path}.weight_decay", least=0)
    require_number(config, f"{path}.clip_norm", above=0, optional=True)
    require_number(config, f"{path}.momentum", least=0, below=1, optional=True)
    require_choice(config, f"{path}.nesterov", (False, True))
    require_choice(config, f"{path}.schedule", SCHEDULES)
    name = get_field(config, f"{path}.schedule")
    schedule = SCHEDULES[name](config, f"{path}.{name}")
    fields = _fields(Sgd)
    require_only(config, path, fields | set(SCHEDULES))
    settings = get_field(config, path).to_dict()
    return Sgd(
        **{k: v for k, v in settings.items() if k in fields} | {"schedule": schedule}
    )


def unread(config: ConfigDict, path: str) -> dict[str, str]:
    """Settings under a path that the optimizer does not read, and why."""
    require_choice(config, f"{path}.schedule", SCHEDULES)
    name = get_field(config, f"{path}.schedule")
    why = f"config.{path}.schedule is {name!r}"
    found = {f"{path}.{other}": why for other in SCHEDULES if other != name}
    if get_field(config, f"{path}.momentum") is None:
        found[f"{path}.nesterov"] = f"config.{path}.momentum is None"
    return found


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}
