"""What the parts of networks for images share: parameters and moments as examples."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.parts import Program, example
from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.images import is_parameter
from wpl_jax.supernet import Architecture, gather


def size_of(parameters: Any) -> int:
    """The number of parameters in a tree of ``Kernel`` and ``Constant``."""
    leaves = jax.tree.leaves(parameters, is_leaf=is_parameter)
    return sum(math.prod(leaf.shape) for leaf in leaves)


def with_examples(parameters: Any) -> Any:
    """The same tree of arrays, for a program that is timed."""
    return jax.tree.map(
        lambda leaf: example(*leaf.shape), parameters, is_leaf=is_parameter
    )


def given_moments(*shape: int) -> Moments:
    """Moments to normalize with, means of 0 and variances of 1."""
    return Moments(jnp.zeros(shape), jnp.ones(shape))


def program(space: Any, choice: Any, batch: int) -> Program:
    """A whole child on images; the choice is a constant of the program.

    Args:
      space: A space for images.
      choice: ``int32[num_decisions]``.
      batch: Number of images.
    """
    architecture = Architecture(jnp.asarray(choice))
    params = gather(space.init(jax.random.key(0)), space.rows(architecture))

    def run(images, child, batch_stats):
        return space.apply(child, architecture, images, batch_stats=batch_stats).logits

    images = example(batch, *space.image_shape)
    form = jax.eval_shape(lambda: space.apply(params, architecture, images).batch_stats)
    given = jax.tree.map(
        lambda moments: given_moments(*moments.mean.shape),
        form,
        is_leaf=lambda leaf: isinstance(leaf, Moments),
    )
    return run, (images, params, given)
