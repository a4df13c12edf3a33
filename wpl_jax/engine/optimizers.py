"""Optimizers of the weights of a child, with the learning rate as a traced argument."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.registry import Registry
from wpl_jax.common.settings import (
    SettingError,
    check_bool,
    check_int,
    check_number,
    check_parts,
    chosen,
    require,
)
from wpl_jax.common.trees import is_key
from wpl_jax.supernet import Architecture, Space


@dataclasses.dataclass(frozen=True)
class Children:
    """The children of a call, for optimizers that treat children differently.

    Attributes:
      space: Their space.
      architectures: Arrays with a leading axis of children.
    """

    space: Space
    architectures: Architecture

    def share_of_parameters(self) -> jax.Array:
        """Parameters of each, as a share of all shared ones, ``float32[children]``."""
        whole = jax.eval_shape(self.space.init, jax.eval_shape(jax.random.key, 0))
        total = sum(p.size for p in jax.tree.leaves(whole))

        def parameters(architecture):
            return self.space.costs(architecture)["parameters"]

        return jax.vmap(parameters)(self.architectures) / jnp.float32(total)


class Schedule(Protocol):
    """How the learning rate changes from epoch to epoch.

    Attributes:
      of_children: Whether the rate depends on the children that are trained.
    """

    of_children: bool = False

    def rate(self, highest: float, epoch: jax.Array) -> jax.Array:
        """The learning rate in an epoch, ``float32[]``, from the one it starts with."""

    def rate_of(
        self, highest: float, epoch: jax.Array, children: Children
    ) -> jax.Array:
        """The learning rate of children in an epoch; by default that of all."""
        del children
        return self.rate(highest, epoch)


@dataclasses.dataclass(frozen=True)
class Exponential(Schedule):
    """A factor for each epoch.

    Attributes:
      decay: The factor.
      decay_from: The first epoch that it is applied in, counted from 0.
    """

    decay: float = 1.0
    decay_from: int = 0

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_number(self, "decay", above=0, most=1)
        check_int(self, "decay_from", 0)

    def rate(self, highest, epoch):
        """Constant, then falling."""
        steps = jnp.maximum(epoch - self.decay_from + 1, 0)
        return jnp.float32(highest) * jnp.float32(self.decay) ** steps


@dataclasses.dataclass(frozen=True)
class Cosine(Schedule):
    """Falls as a cosine, again and again (Loshchilov and Hutter, SGDR, 2017).

    Attributes:
      lowest: Learning rate that a period falls to.
      period: Epochs of the first.
      growth: How many times as long each is than the one before, a whole number.
    """

    lowest: float = 0.0
    period: int = 10
    growth: int = 1

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_number(self, "lowest", least=0)
        check_int(self, "period", 1)
        check_int(self, "growth", 1)

    def rate(self, highest, epoch):
        """From the highest to the lowest in each period."""
        epoch = jnp.asarray(epoch)
        if self.growth == 1:
            # Whole numbers first: XLA multiplies by the inverse of the period, and 41
            # times that of 41 is less than 1.
            place = jnp.float32(epoch % self.period) / self.period
        else:  # n periods are (growth^n - 1) / (growth - 1) first ones.
            passed = jnp.float32(epoch) / self.period  # in first periods
            done = jnp.log1p(passed * (self.growth - 1)) / jnp.log(self.growth)
            done = jnp.floor(done + 1e-5)
            length = jnp.float32(self.growth) ** done
            place = (passed - (length - 1) / (self.growth - 1)) / length
        fall = (1 + jnp.cos(jnp.pi * place)) / 2
        return jnp.float32(self.lowest) + (highest - self.lowest) * fall


# By name: dataclasses.
SCHEDULES = Registry(
    "wpl_jax.schedules",
    {
        "complexity": "wpl_jax.engine.complexity:Complexity",
        "cosine": Cosine,
        "exponential": Exponential,
    },
)


class Optimizer(Protocol):
    """How weights are trained, with a learning rate that may be traced."""

    @property
    def of_children(self) -> bool:
        """Whether a step depends on the children that are trained; by default, no."""
        return False

    def rate(self, epoch: jax.Array) -> jax.Array:
        """The learning rate in an epoch, ``float32[]``."""

    def transform(self, rate: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer under a learning rate, ``float32[]``.

        The shape of its state does not depend on the rate.
        """

    def rate_of(self, epoch: jax.Array, children: Children) -> jax.Array:
        """The learning rate of children in an epoch; by default that of all."""
        del children
        return self.rate(epoch)

    def check_children(self, space: Space, number: int) -> None:
        """Checks a space, and the number of children that are trained together.

        Args:
          space: The space.
          number: Of children in a call.

        Raises:
          SettingError: About one of its own settings.
        """

    def transform_of(
        self, rate: Any, children: Children
    ) -> optax.GradientTransformationExtraArgs:
        """:meth:`transform` for children; by default, it does not depend on them.

        The shape of its state does not depend on their architectures.
        """
        del children
        return self.transform(rate)


class Scheduled(Optimizer, Protocol):
    """An optimizer whose learning rate follows a schedule."""

    learning_rate: float
    schedule: Schedule

    @property
    def of_children(self) -> bool:
        """Whether the schedule depends on them."""
        return self.schedule.of_children

    def rate(self, epoch: jax.Array) -> jax.Array:
        """The learning rate in an epoch, ``float32[]``."""
        return self.schedule.rate(self.learning_rate, epoch)

    def rate_of(self, epoch: jax.Array, children: Children) -> jax.Array:
        """The learning rate of children in an epoch, ``float32[]``."""
        return self.schedule.rate_of(self.learning_rate, epoch, children)


@dataclasses.dataclass(frozen=True)
class Sgd(Scheduled):
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
    schedule: Schedule = chosen(SCHEDULES, Exponential())
    clip_norm: float | None = None
    weight_decay: float = 0.0
    momentum: float | None = None
    nesterov: bool = False

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_number(self, "learning_rate", above=0)
        check_number(self, "weight_decay", least=0)
        check_number(self, "clip_norm", optional=True, above=0)
        check_number(self, "momentum", optional=True, least=0, below=1)
        check_bool(self, "nesterov")

    @staticmethod
    def unread(settings: Mapping[str, Any]) -> dict[str, str]:
        """Settings that are not read, and why."""
        if settings.get("momentum") is None:
            return {"nesterov": "momentum is None"}
        return {}

    def transform(self, rate: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer under a learning rate, which may be traced."""
        if self.momentum is None:
            return self._chain(rate)
        return self._chain(rate, optax.trace(self.momentum, self.nesterov))

    def _chain(self, rate: Any, *momentum: optax.GradientTransformation) -> Any:
        parts = [optax.add_decayed_weights(self.weight_decay), *momentum]
        if self.clip_norm is not None:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        return optax.chain(*parts, optax.scale_by_learning_rate(rate))


@dataclasses.dataclass(frozen=True)
class OptaxOptimizer(Scheduled):
    """Any optimizer of optax that takes a learning rate, by the name of its function.

    Attributes:
      function: Name in optax, such as ``"adamw"``.
      learning_rate: That of the first epoch.
      schedule: How it changes.
      clip_norm: Limit of the gradient's norm over all of the child, None for none.
      options: Further arguments of the function, such as ``{"b1": 0.5}``.
    """

    function: str = "adam"
    learning_rate: float = 1e-3
    schedule: Schedule = chosen(SCHEDULES, Exponential())
    clip_norm: float | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_parts(self)
        check_number(self, "learning_rate", above=0)
        check_number(self, "clip_norm", optional=True, above=0)
        known = isinstance(self.function, str) and _options_of(self.function)
        require(
            self,
            "function",
            bool(known),
            "the name of an optimizer in optax that takes a learning_rate, as 'adamw'",
        )
        options = dict(self.options)
        object.__setattr__(self, "options", options)
        valid = set(options) <= set(known or ())
        require(self, "options", valid, f"arguments of {sorted(known or ())}")
        try:
            self._try_step(jax.ShapeDtypeStruct((2, 3), jnp.float32))
        except (TypeError, ValueError) as error:
            raise SettingError(
                "function",
                self.function,
                f"an optimizer that takes the options {options}, needs nothing but "
                "gradients and parameters, and has states like the parameters, which "
                f"can be those of a child ({error})",
            ) from error

    def _try_step(self, params: jax.ShapeDtypeStruct) -> None:
        transform = self.transform(self.learning_rate)

        def step(params):
            return transform.update(params, transform.init(params), params)

        _, state = jax.eval_shape(step, params)
        if any(is_key(x) for x in jax.tree.leaves(state)):
            raise ValueError(
                "its state has a PRNG key, the same for all seeds of a search"
            )
        shapes: list[Any] = []
        optax.tree.map_params(transform, lambda x: shapes.append(x.shape), state)
        if any(shape != params.shape for shape in shapes):
            raise ValueError(f"for parameters {params.shape} it has states {shapes}")

    def transform(self, rate: Any) -> optax.GradientTransformationExtraArgs:
        """The optimizer under a learning rate, which may be traced."""
        parts = [getattr(optax, self.function)(learning_rate=rate, **self.options)]
        if self.clip_norm is not None:
            parts.insert(0, optax.clip_by_global_norm(self.clip_norm))
        return optax.chain(*parts)


def _options_of(function: str) -> list[str]:
    """Arguments beside the learning rate, none if it takes no learning rate."""
    found = getattr(optax, function, None)
    if not callable(found):
        return []
    names = list(inspect.signature(found).parameters)
    if "learning_rate" not in names:
        return []
    return [name for name in names if name != "learning_rate"]


# By name: dataclasses with the methods of :class:`Optimizer`.
OPTIMIZERS = Registry(
    "wpl_jax.optimizers",
    {
        "separate_momentum": "wpl_jax.engine.separate_momentum:SeparateMomentum",
        "sgd": Sgd,
        "optax": OptaxOptimizer,
    },
)
