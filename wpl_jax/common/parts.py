"""The parts that children consist of: operations at their places, and what is fixed.

A space lists its parts (:attr:`wpl_jax.supernet.Space.parts`) and counts how often a
child uses each (:meth:`wpl_jax.supernet.Space.uses`). A cost of a child is the sum of
the costs of the parts that it uses. The expected cost of a mixture is the same sum with
expected numbers of uses, which is linear in the weights of the mixture.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TIMED_WORDS = 32  # words of each sequence in programs of language models
# A function of arrays that is timed, and the arrays: the first one is the input.
Program = tuple[Callable[..., Any], tuple[Any, ...]]


class Part(NamedTuple):
    """One operation at one place of a network, or what all children have.

    Attributes:
      name: In tables, such as ``"stage_0/nor_conv_3x3"``.
      parameters: Number of parameters of one use.
      multiply_adds: Number of products in convolutions and matrix products for one
        image, or one word. Normalization, pooling and activations do not count, nor
        does what training alone needs.
      program: A function of the number of images, or of sequences of words. It returns
        what is timed; None for a part that takes no time.
    """

    name: str
    parameters: int
    multiply_adds: int
    program: Callable[[int], Program] | None = None


def sum_of_uses(uses: jax.Array, costs: Sequence[float]) -> jax.Array:
    """The sum of the costs of all uses, ``float32[]``.

    Args:
      uses: How often each part is used, ``float32[parts]``.
      costs: Cost of one use of each part.
    """
    return jnp.sum(uses * np.asarray(costs, np.float32))


def number_of_uses(weights: jax.Array, choices: int) -> jax.Array:
    """How often each choice is chosen, ``float32[choices]``.

    Args:
      weights: Of a mixture ``float32[decisions, choices]``, or ``int32[decisions]`` of
        a child.
      choices: Number of choices.
    """
    if weights.ndim == 1:
        weights = jax.nn.one_hot(weights, choices)
    return jnp.sum(weights[:, :choices], 0)


def example(*shape: int) -> jax.Array:
    """An array for a program that is timed, positive and not constant."""
    size = int(np.prod(shape))
    return jnp.asarray(0.5 + np.arange(size) % 7 / 7, jnp.float32).reshape(shape)
