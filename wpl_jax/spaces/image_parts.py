"""What the parts of networks for images share: parameters and moments as examples."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.parts import example
from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.images import is_parameter


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
