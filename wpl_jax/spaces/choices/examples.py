"""Networks with choices as classes of spaces, which configurations name."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.errors import UserError
from wpl_jax.spaces.choices.branches import describe
from wpl_jax.spaces.choices.networks import (
    FunctionNetwork,
    Mode,
    ModuleNetwork,
    Network,
)
from wpl_jax.spaces.choices.space import ChoiceSpace
from wpl_jax.spaces.images import Noise, Outputs
from wpl_jax.supernet import Architecture

# What the data gives: the shape of an example, then that of what is predicted.
_SHAPES = {"image_shape": tuple[int, int, int], "input_shape": tuple[int, ...]}
_PREDICTED = {"num_classes": int, "target_shape": tuple[int, ...]}


class ExampleSpace(ChoiceSpace):
    """A space of :func:`wpl_jax.space`: a network for a batch of examples.

    Attributes:
      dtype: Of an input.
    """

    dtype: Any = jnp.float32
    traced = 2

    def __post_init__(self) -> None:
        """Derives the space, and checks what the network returns."""
        form, classes = self.derived.found.form, getattr(self, "num_classes", None)
        shape = getattr(form, "shape", ())
        if classes is not None and shape != (self.traced, classes):
            raise UserError(
                f"{type(self).__name__} returns {describe(form)} for {self.traced} "
                f"examples, expected float32[{self.traced},{classes}]: a score for "
                "each class."
            )
        if shape[:1] != (self.traced,):
            raise UserError(
                f"{type(self).__name__} returns {describe(form)} for {self.traced} "
                "examples, expected an array with a leading axis of examples."
            )

    def __repr__(self) -> str:
        """The settings, functions by their names: the same in each process."""
        itself: Any = self  # of a class that :func:`space` makes a dataclass
        fields = [(f.name, getattr(self, f.name)) for f in dataclasses.fields(itself)]
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in fields)
        return f"{type(self).__qualname__}({shown})"

    def inputs_of(self, batch: int) -> tuple[Any, ...]:
        """The shape of a batch."""
        shape = next(getattr(self, name) for name in _SHAPES if hasattr(self, name))
        return (jax.ShapeDtypeStruct((batch, *shape), self.dtype),)

    def apply(
        self,
        child: Any,
        architecture: Architecture,
        inputs: jax.Array,
        *,
        noise: Noise | None = None,
        batch_stats: Any = None,
        axis: Axis = NO_AXIS,
    ) -> Outputs:
        """One child, or the mixture, on a batch.

        Args:
          child: Its parameters.
          architecture: The child or the mixture.
          inputs: ``[batch, ...]``.
          noise: For training: its key seeds the network's own dropout. Rates of the
            task do not apply.
          batch_stats: Batch statistics to normalize with; None for those of the batch.
          axis: Devices that divide the batch.

        Returns:
          What the network returns, ``logits``, and its batch statistics.
        """
        mode = Mode(None if noise is None else noise.key, batch_stats, axis)
        found, stats = self.run(child, architecture, inputs, mode=mode)
        return Outputs(found, None, stats)


def space(
    network: Any = None,
    *,
    init: Callable[..., Any] | None = None,
    dtype: Any = jnp.float32,
) -> Any:
    """Makes a class of search spaces of a network that calls :func:`wpl_jax.choice`.

    It decorates the class of a Flax NNX module, with ``__init__(self, image_shape,
    num_classes, ..., *, rngs)``; or a function of parameters and a batch, with
    ``init(key, image_shape, num_classes, ...)``. The first arguments are what the data
    gives: ``image_shape`` or ``input_shape``, without the axis of examples, then
    ``num_classes`` or ``target_shape`` if the network needs one of them. All others are
    settings: fields of the class of spaces, which a configuration sets and a retraining
    changes. A function is given the settings that it has arguments for.

    The network takes a batch, ``[batch, ...]``, and returns ``[batch, ...]``, of images
    the scores of the classes. ``nnx.BatchNorm`` normalizes with the statistics of the
    batch, or with those of training examples where the task says so. ``nnx.Dropout``,
    and an argument ``key`` of a function, have their randomness from the task. A
    function that does not treat each example by itself has an argument ``axis``
    (:class:`wpl_jax.devices.axis.Axis`): devices that divide the batch.

    Args:
      network: The class of the module, or the function.
      init: Draws the parameters of a function.
      dtype: Of the inputs: ``jnp.int32`` for numbers of words, say.

    Returns:
      The class of spaces, a frozen dataclass. Making a space of it raises a UserError
      if a choice is wrong, before anything is compiled.

    Raises:
      UserError: If the signature is another one.
    """
    if network is None:
        return lambda network: space(network, init=init, dtype=dtype)
    arguments = _arguments(network, init)
    fields = [_field(a) for a in arguments]
    names = [a.name for a in arguments]

    def settings(self: Any) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    def of_module(self: Any) -> Network:
        return ModuleNetwork(lambda rngs: network(**settings(self), rngs=rngs))

    def of_function(self: Any) -> Network:
        given = settings(self)
        draw: Any = init
        return FunctionNetwork(network, lambda key: draw(key, **given), **given)

    content = {
        "__doc__": network.__doc__,
        "__module__": network.__module__,
        "__qualname__": network.__qualname__,
        "name": re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", network.__name__).lower(),
        "dtype": dtype,
        "make_network": of_module if init is None else of_function,
    }
    return dataclasses.make_dataclass(
        network.__name__,
        fields,
        bases=(ExampleSpace,),
        frozen=True,
        namespace=content,
        repr=False,
    )


def _shown(value: Any) -> str:
    """A setting; of a function or a class its name, which JAX may have wrapped."""
    name = getattr(value, "__qualname__", None)
    return f"{value.__module__}.{name}" if callable(value) and name else repr(value)


def _arguments(network: Any, init: Any) -> list[inspect.Parameter]:
    """What a network is made from: sizes of the data, then settings.

    Raises:
      UserError: If the signature is another one.
    """
    found = list(inspect.signature(init or network.__init__).parameters.values())
    expected = "init(key, image_shape, num_classes, ...)"
    seeded = True
    if init is None:
        expected = f"{network.__name__}(image_shape, num_classes, ..., *, rngs)"
        seeded = isinstance(network, type) and any(a.name == "rngs" for a in found)
    found = [a for a in found[1:] if a.name != "rngs"]
    plain = all(a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in found)
    if not seeded or not plain or not found or found[0].name not in _SHAPES:
        names = ", ".join(a.name for a in found)
        raise UserError(
            f"{network.__name__} is made from ({names}), expected {expected}: the data "
            "gives image_shape or input_shape, and num_classes or target_shape."
        )
    return found


def _field(argument: inspect.Parameter) -> Any:
    """An argument as a field of a dataclass."""
    name, hint = argument.name, argument.annotation
    known = {**_SHAPES, **_PREDICTED}
    if argument.default is argument.empty:
        return name, known.get(name, Any if hint is argument.empty else hint)
    hint = type(argument.default) if hint is argument.empty else hint
    return name, hint, dataclasses.field(default=argument.default)
