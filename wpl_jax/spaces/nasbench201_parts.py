"""The parts of networks of NAS-Bench-201: what each costs, and programs to time it."""

from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.parts import Part, Program, example, number_of_uses
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.spaces import images, partial_channels
from wpl_jax.spaces.image_parts import given_moments, size_of, with_examples
from wpl_jax.spaces.nasbench201_architectures import EDGES
from wpl_jax.spaces.nasbench201_operations import (
    CHANNELS,
    ON_ONE_EDGE,
    affine_convolution,
    channels_last,
    convolve,
    reduce,
)
from wpl_jax.supernet import Architecture


def parts(space: Any, stages: int) -> tuple[Part, ...]:
    """The stem, for each stage its reduction and its operations, and the classifier.

    Args:
      space: A :class:`wpl_jax.spaces.nasbench201.NasBench201`.
      stages: How many it has.
    """
    (height, width, inputs), channels = space.image_shape, space.channels
    found = [_stem(height, width, inputs, channels)]
    for stage in range(stages):
        place = height // 2**stage, width // 2**stage, channels * 2**stage
        if stage:
            found.append(_reduction(stage, *place))
        found += [
            _operation(space, f"stage_{stage}/{name}", name, place)
            for name in space.operations
        ]
    return (*found, _head(*place, space.num_classes))


def uses(space: Any, stages: int, architecture: Architecture) -> jax.Array:
    """How often each part is used, ``float32[parts]``; see :func:`parts`."""
    weights = architecture.weights
    chosen = architecture.choice if weights is None else weights[: len(EDGES)]
    of_cell = space.cells * number_of_uses(chosen, len(space.operations))
    once = jnp.ones(1)
    of_stages = [once, of_cell]  # the stem, and the first stage
    for _ in range(1, stages):
        of_stages += [once, of_cell]
    return jnp.concatenate([*of_stages, once])


def _stem(height, width, inputs, channels) -> Part:
    parameters = affine_convolution(9 * inputs, channels)

    def program(batch: int) -> Program:
        def run(x, child, given):
            return convolve(x, child, given, NO_AXIS)[0]

        return run, (
            example(inputs, height, width, batch),
            with_examples(parameters),
            given_moments(channels),
        )

    products = height * width * 9 * inputs * channels
    return Part("stem", size_of(parameters), products, program)


def _reduction(stage, height, width, channels) -> Part:
    """The residual block before a stage; the size is that after it."""
    inputs = channels // 2
    parameters = {
        "first": affine_convolution(9 * inputs, channels),
        "second": affine_convolution(9 * channels, channels),
        "shortcut": {"kernel": images.Kernel((inputs, channels), inputs)},
    }

    def program(batch: int) -> Program:
        def run(x, child, given):
            return reduce(x, child, given, NO_AXIS)[0]

        given = {name: given_moments(channels) for name in ("first", "second")}
        x = example(inputs, 2 * height, 2 * width, batch)
        return run, (x, with_examples(parameters), given)

    rows = 9 * inputs + 9 * channels + inputs
    products = height * width * rows * channels
    return Part(f"reduction_{stage}", size_of(parameters), products, program)


def _operation(space, name, operation, place) -> Part:
    height, width, channels = place
    part = channels // space.channel_parts
    rows = {"nor_conv_1x1": part, "nor_conv_3x3": 9 * part}.get(operation, 0)

    def program(batch: int) -> Program:
        def run(x, kernels, given):
            own, rest = partial_channels.split(x, space.channel_parts, CHANNELS)
            y, _ = ON_ONE_EDGE[operation](NO_AXIS, own, kernels, given)
            return partial_channels.join(y, rest, CHANNELS)

        kernels = {
            "conv_1x1": example(part, part),
            "conv_3x3": example(9 * part, part),
        }
        given = {name: given_moments(part) for name in kernels}
        return run, (example(channels, height, width, batch), kernels, given)

    products = height * width * rows * part
    return Part(name, rows * part, products, program)


def _head(height, width, channels, classes) -> Part:
    """The last normalization and the classifier."""
    parameters = {
        "normalization": images.affine_parameters((channels,), affine=True),
        "classifier": images.linear_parameters(channels, classes),
    }

    def program(batch: int) -> Program:
        def run(x, child, given):
            own = child["normalization"], given, NO_AXIS
            x, _ = images.normalized(x, *own, CHANNELS)
            return images.classify(channels_last(x), child["classifier"], None, NO_AXIS)

        x = example(channels, height, width, batch)
        return run, (x, with_examples(parameters), given_moments(channels))

    return Part("classifier", size_of(parameters), channels * classes, program)
