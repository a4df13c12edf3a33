"""The parts of networks of the micro space: what each costs, programs to time it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.parts import Part, Program, example, number_of_uses
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.spaces import images
from wpl_jax.spaces.cell_graph import CONVOLUTIONS, OPERATIONS
from wpl_jax.spaces.cell_layout import Wiring, used
from wpl_jax.spaces.depthwise import average_pool, max_pool
from wpl_jax.spaces.image_parts import given_moments, size_of, with_examples
from wpl_jax.spaces.separable import Separable, separable
from wpl_jax.supernet import Architecture

# Functions of operations without weights.
_FREE: dict[str, Callable[..., Any]] = {
    "average_3x3": average_pool,
    "max_3x3": max_pool,
    "identity": lambda x: x,
}


def parts(space: Any) -> tuple[Part, ...]:
    """The stem, for each stage its inputs, operations and outputs, and the classifier.

    The output of a cell is a sum of products, one for each node without a successor.

    Args:
      space: A :class:`wpl_jax.spaces.micro_cell.MicroCell`.
    """
    height, width, inputs = space.image_shape
    channels = space.stem_channels
    found = [_stem(space, height, width, inputs, channels)]
    for stage in range(len(space.kinds_of_cells)):
        size, filters = space.size_of_stage(stage), space.filters * 2**stage
        found += [
            _inputs(space, stage, size, channels),
            *(_operation(space, stage, size, name) for name in OPERATIONS),
            _output(space, stage, size),
        ]
        channels = filters
    found.append(_head(space, size, channels))
    if space.auxiliary:  # It is for training alone.
        found.append(Part("auxiliary", size_of(space.auxiliary_head.parameters()), 0))
    return tuple(found)


def uses(space: Any, architecture: Architecture) -> jax.Array:
    """How often each part is used, ``float32[parts]``; see :func:`parts`."""
    wirings = space.wirings(architecture.choice)
    # Of both kinds of cells, branches with each operation, and nodes in the output.
    operations = jax.vmap(lambda o: number_of_uses(o.ravel(), len(OPERATIONS)))(
        wirings.operations
    )
    free = jnp.sum(~used(Wiring(*wirings)), -1, keepdims=True)
    of_kinds = jnp.concatenate([operations, free], -1)
    once = jnp.ones(1)
    found = [once]
    for kinds in space.kinds_of_cells:
        found += [once, jnp.sum(of_kinds[jnp.array(kinds)], 0)]
    return jnp.concatenate([*found, *[once] * (1 + space.auxiliary)])


def _stem(space, height, width, inputs, channels) -> Part:
    parameters = images.stem_parameters(inputs, channels, space.affine)

    def program(batch: int) -> Program:
        def run(x, child, given):
            return images.stem(x, child, given, NO_AXIS)[0]

        x = example(batch, height, width, inputs)
        return run, (x, with_examples(parameters), given_moments(channels))

    products = height * width * 9 * inputs * channels
    return Part("stem", size_of(parameters), products, program)


def _inputs(space, stage, size, channels) -> Part:
    """Both inputs of the first cell, and the affine normalizations of all outputs."""
    filters, (height, width) = space.filters * 2**stage, size
    product = images.product_parameters(channels, filters, space.affine)
    cells = len(space.kinds_of_cells[stage])
    of_outputs = images.affine_parameters((cells, filters), space.affine)
    multiply = images.halved_product if stage else jnp.matmul

    def program(batch: int) -> Program:
        def run(x, child, given):
            active = jax.nn.relu(x)
            seen = (active, x if stage else active)
            return tuple(
                images.normalized(multiply(y, child["kernel"]), child, given, NO_AXIS)[
                    0
                ]
                for y in seen
            )

        before = space.size_of_stage(stage - 1) if stage else size
        x = example(batch, *before, channels)
        return run, (x, with_examples(product), given_moments(filters))

    parameters = 2 * size_of(product) + size_of(of_outputs)
    products = 2 * height * width * channels * filters
    return Part(f"stage_{stage}/inputs", parameters, products, program)


def _operation(space, stage, size, name) -> Part:
    filters, (height, width) = space.filters * 2**stage, size
    where = f"stage_{stage}/{name}"
    if OPERATIONS.index(name) >= CONVOLUTIONS:

        def program(batch: int) -> Program:
            return _FREE[name], (example(batch, *size, filters),)

        return Part(where, 0, 0, program)
    window = int(name[-1])
    affine = images.affine_parameters((2, filters), space.affine)

    def convolution(batch: int) -> Program:
        kernels = example(2, window, window, filters)
        others = {
            "pointwise": example(2, filters, filters),
            "scale": jnp.ones((2, filters)),
            "offset": jnp.zeros((2, filters)),
        }

        def run(x, kernels, others, given):
            weights = Separable(kernels, kernels, **others)
            return separable(x, kernels, weights, given, NO_AXIS)[0]

        x = example(batch, *size, filters)
        return run, (x, kernels, others, given_moments(2, filters))

    rows = window**2 + filters
    parameters = 2 * rows * filters + size_of(affine)
    return Part(where, parameters, 2 * height * width * rows * filters, convolution)


def _output(space, stage, size) -> Part:
    """The product of one node in the output of a cell."""
    filters, (height, width) = space.filters * 2**stage, size

    def program(batch: int) -> Program:
        def run(x, kernel, given):
            return images.normalized(jax.nn.relu(x) @ kernel, {}, given, NO_AXIS)[0]

        x = example(batch, *size, filters)
        return run, (x, example(filters, filters), given_moments(filters))

    products = height * width * filters**2
    return Part(f"stage_{stage}/output", filters**2, products, program)


def _head(space, size, channels) -> Part:
    parameters = images.linear_parameters(channels, space.num_classes)

    def program(batch: int) -> Program:
        run = functools.partial(images.classify, noise=None, axis=NO_AXIS)
        return run, (example(batch, *size, channels), with_examples(parameters))

    products = channels * space.num_classes
    return Part("classifier", size_of(parameters), products, program)
