"""Networks with choices that classify images, as spaces that configurations name."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.choices.branches import describe
from wpl_jax.choices.networks import FunctionNetwork, Mode, ModuleNetwork, Network
from wpl_jax.choices.space import ChoiceSpace
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.errors import UserError
from wpl_jax.spaces.images import Noise, Outputs
from wpl_jax.supernet import Architecture

_SIZES = ("image_shape", "num_classes")  # that the data gives


class ImageChoiceSpace(ChoiceSpace):
    """A space of :func:`wpl_jax.image_space`."""

    image_shape: tuple[int, int, int]
    num_classes: int

    def __post_init__(self) -> None:
        """Derives the space, and checks what the network returns."""
        form = self.derived.found.form
        expected = 2, self.num_classes
        if getattr(form, "shape", None) != expected:
            raise UserError(
                f"{type(self).__name__} returns {describe(form)} for 2 images, "
                f"expected float32[2,{self.num_classes}]: a score for each class."
            )

    @property
    def examples(self) -> tuple[Any, ...]:
        """Two images."""
        return (jax.ShapeDtypeStruct((2, *self.image_shape), jnp.float32),)

    def apply(
        self,
        child: Any,
        architecture: Architecture,
        images: jax.Array,
        *,
        noise: Noise | None = None,
        batch_stats: Any = None,
        axis: Axis = NO_AXIS,
    ) -> Outputs:
        """One child, or the mixture, on a batch of images.

        Args:
          child: Its parameters.
          architecture: The child or the mixture.
          images: ``float[batch, height, width, channels]``.
          noise: For training: its key seeds the network's own dropout. Rates of the
            task do not apply.
          batch_stats: Batch statistics to normalize with; None for those of the batch.
          axis: Devices that divide the batch.
        """
        mode = Mode(None if noise is None else noise.key, batch_stats, axis)
        logits, found = self.run(child, architecture, images, mode=mode)
        return Outputs(logits, None, found)


def image_space(network: Any = None, *, init: Callable[..., Any] | None = None) -> Any:
    """Makes a class of search spaces for images of a network with choices.

    It decorates the class of a Flax NNX module whose ``__init__(self, image_shape,
    num_classes, ..., *, rngs)`` has further arguments as settings; or a function of
    parameters and images, with ``init(key, image_shape, num_classes, ...)``. Both take
    images, ``float[batch, height, width, channels]``, and return scores of the classes,
    ``float[batch, classes]``. The settings are fields of the class of spaces, so that a
    configuration sets them, and a retraining changes them. A function is given those
    settings that it has arguments for.

    ``nnx.BatchNorm`` normalizes with the statistics of the batch, or with those of
    training images where the task says so. ``nnx.Dropout``, and an argument ``key`` of
    a function, have their randomness from the task. A function that does not treat each
    image by itself has an argument ``axis``
    (:class:`wpl_jax.devices.axis.Axis`): devices that divide the batch.

    Args:
      network: The class of the module, or the function.
      init: Draws the parameters of a function.

    Returns:
      The class of spaces, a frozen dataclass with ``image_shape``, ``num_classes`` and
      the settings. Making a space of it raises a UserError if a choice is wrong.

    Raises:
      UserError: If the signature is another one.
    """
    if network is None:
        return lambda network: image_space(network, init=init)
    arguments = list(inspect.signature(init or network.__init__).parameters.values())
    expected = "init(key, image_shape, num_classes, ...)"
    if init is None:
        expected = f"{network.__name__}(image_shape, num_classes, ..., *, rngs)"
        if not any(a.name == "rngs" for a in arguments) or not isinstance(
            network, type
        ):
            raise _wrong(network, arguments, expected)
    arguments = [a for a in arguments[1:] if a.name != "rngs"]
    plain = all(a.kind not in (a.VAR_POSITIONAL, a.VAR_KEYWORD) for a in arguments)
    if tuple(a.name for a in arguments[:2]) != _SIZES or not plain:
        raise _wrong(network, arguments, expected)
    hints = {"image_shape": tuple[int, int, int], "num_classes": int}
    fields: list[Any] = [(name, hints[name]) for name in _SIZES]
    for a in arguments[2:]:
        hint = a.annotation
        if a.default is a.empty:
            fields.append((a.name, Any if hint is a.empty else hint))
        else:
            hint = type(a.default) if hint is a.empty else hint
            fields.append((a.name, hint, dataclasses.field(default=a.default)))
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
        "make_network": of_module if init is None else of_function,
    }
    return dataclasses.make_dataclass(
        network.__name__,
        fields,
        bases=(ImageChoiceSpace,),
        frozen=True,
        namespace=content,
    )


def _wrong(network: Any, arguments: Any, expected: str) -> UserError:
    names = ", ".join(a.name for a in arguments if a.name != "self")
    return UserError(
        f"{network.__name__} is made from ({names}), expected {expected}: the data "
        "gives the shape of an image and the number of classes."
    )
