"""The parts of networks of DARTS cells: what each costs, and programs to time it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.parts import Part, Program, example
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.spaces import images, partial_channels
from wpl_jax.spaces.darts_operations import (
    CONVOLUTIONS,
    MOST_REPEATS,
    SKIP,
    apply_operation,
    skip_parameters,
)
from wpl_jax.spaces.image_parts import given_moments, size_of, with_examples
from wpl_jax.spaces.nasbench201_operations import (
    affine_convolution,
    convolve_channels_last,
)


def stem_part(space: Any, channels: int) -> Part:
    """The stem.

    Args:
      space: A :class:`wpl_jax.spaces.darts_network.DartsNetwork`.
      channels: Of its output.
    """
    height, width, inputs = space.image_shape
    parameters = affine_convolution(9 * inputs, channels)

    def program(batch: int) -> Program:
        def run(x, child, given):
            return convolve_channels_last(x, child, given, NO_AXIS)[0]

        x = example(batch, height, width, inputs)
        return run, (x, with_examples(parameters), given_moments(channels))

    products = height * width * 9 * inputs * channels
    return Part("stem", size_of(parameters), products, program)


def inputs_part(name: str, place: Any, affine: bool) -> Part:
    """The products that bring both inputs of a cell to its channels.

    Args:
      name: Of the cells.
      place: A :class:`wpl_jax.spaces.darts_network.Place`.
      affine: Whether normalization has a scale and an offset.
    """
    parameters, channels = place.inputs(affine), place.channels
    height, width = (size * _stride(place) for size in place.size)
    factors = {"first": 2 if place.halves else 1, "second": 1}

    def program(batch: int) -> Program:
        def run(x, second, child, given):
            found = []
            for key, y in (("first", x), ("second", second)):
                multiply = images.halved_product if factors[key] > 1 else jnp.matmul
                y = multiply(jax.nn.relu(y), child[key]["kernel"])
                found.append(images.normalized(y, child[key], given, NO_AXIS)[0])
            return tuple(found)

        first, second = (
            example(batch, factors[key] * height, factors[key] * width, inputs)
            for key, inputs in (("first", place.first), ("second", place.second))
        )
        child = with_examples(parameters)
        return run, (first, second, child, given_moments(channels))

    products = height * width * (place.first + place.second) * channels
    return Part(f"{name}/inputs", size_of(parameters), products, program)


def operation_part(
    name: str, operation: str, place: Any, halves: bool, space: Any, parts: int = 1
) -> Part:
    """One operation on one edge.

    Args:
      name: Of the cells.
      operation: Its name.
      place: Of the cells, a :class:`wpl_jax.spaces.darts_network.Place`.
      halves: Whether it halves the image.
      space: A :class:`wpl_jax.spaces.darts_network.DartsNetwork`.
      parts: Parts of the channels, of which it computes one.
    """
    channels, stride = place.channels // parts, 2 if halves else 1
    parameters: dict[str, Any] = {}
    products = 0
    (height, width), full = place.size, place.channels
    if operation in CONVOLUTIONS:
        form = CONVOLUTIONS[operation]
        parameters = form.parameters(1, channels, space.affine)
        products = form.repeats * (form.size**2 + channels) * channels
    elif operation == SKIP and halves:
        parameters = skip_parameters(1, channels, space.affine)
        products = channels**2

    def program(batch: int) -> Program:
        def run(x, weights, given):
            own, rest = partial_channels.split(x, parts)
            own_weights = {operation: jax.tree.map(lambda w: w[0], weights)}
            y, _ = apply_operation(
                *(operation, own, own_weights, stride, given, NO_AXIS),
                space.normalize_pools,
            )
            return partial_channels.join(y, rest[:, ::stride, ::stride])

        x = example(batch, stride * height, stride * width, full)
        given = given_moments(MOST_REPEATS, channels)
        return run, (x, with_examples(parameters), given)

    return Part(
        f"{name}/{operation}{'/2' if halves else ''}",
        size_of(parameters),
        height * width * products,
        program,
    )


def crossed_part(
    name: str,
    operation: str,
    place: Any,
    halves: bool,
    parameters: Any,
    length: int,
    apply: Callable[..., Any],
) -> Part:
    """A convolution of ``1 x length`` and one of ``length x 1``, not depthwise.

    Args:
      name: Of the cells.
      operation: Its name.
      place: Of the cells.
      halves: Whether it halves the image.
      parameters: Of one operation.
      length: Of the windows.
      apply: A function of the image, the weights, the stride, moments and an axis.
    """
    stride, channels = 2 if halves else 1, place.channels
    height, width = place.size

    def program(batch: int) -> Program:
        def run(x, weights, given):
            return apply(x, weights, stride, given, NO_AXIS)[0]

        x = example(batch, stride * height, stride * width, channels)
        return run, (x, with_examples(parameters), given_moments(2, channels))

    # The first of them halves the width, the second the height.
    products = height * width * (stride + 1) * length * channels**2
    where = f"{name}/{operation}{'/2' if halves else ''}"
    return Part(where, size_of(parameters), products, program)


def head_part(space: Any, place: Any, features: int) -> Part:
    """The mean over pixels and the classifier.

    Args:
      space: A :class:`wpl_jax.spaces.darts_network.DartsNetwork`.
      place: Of the last cells.
      features: Channels of their output.
    """
    parameters = images.linear_parameters(features, space.num_classes)

    def program(batch: int) -> Program:
        classify = functools.partial(images.classify_features, noise=None, axis=NO_AXIS)

        def run(x, child):
            return classify(jnp.mean(x, (1, 2)), child)

        x = example(batch, *place.size, features)
        return run, (x, with_examples(parameters))

    products = features * space.num_classes
    return Part("classifier", size_of(parameters), products, program)


def _stride(place: Any) -> int:
    """The size of a cell's inputs by that of its nodes."""
    return 2 if place.kind else 1
