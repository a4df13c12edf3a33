"""How random search draws the architectures of a training step.

``uniform`` draws each decision independently, unless the space draws otherwise.

``fair`` is the strict fairness of Chu, Zhang, Xu, "FairNAS: Rethinking Evaluation
Fairness of Weight Sharing Neural Architecture Search" (ICCV 2021). The children that
are trained together contain every choice of every decision equally often. For ``K``
choices, child ``k`` has the choice ``p_d(k)`` in decision ``d``, where ``p_d`` are
independent random permutations.

``classes`` is the de-isomorphic sampling of Ning et al., "Evaluating Efficient
Performance Estimators of Neural Architectures" (NeurIPS 2021). Isomorphism classes are
drawn uniformly, and one architecture represents each.
"""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp

from wpl_jax.common.registry import Registry
from wpl_jax.common.settings import SettingError
from wpl_jax.supernet import Space, num_choices


class Sampler(Protocol):
    """Draws architectures; its methods are pure.

    A class that inherits from this one has the defaults of its checks.

    Attributes:
      joint: Whether architectures that are drawn together belong together, so that a
        single one cannot be drawn again.
    """

    joint: bool = False

    def draw(self, space: Space, keys: jax.Array) -> jax.Array:
        """Architectures that are trained together, ``int32[len(keys), decisions]``.

        A single one is drawn with a single key.

        Args:
          space: What is searched.
          keys: PRNG keys, one for each.
        """

    def check(self, space: Space) -> None:
        """Checks that it can draw from a space; by default from all.

        Raises:
          SettingError: About the ``sampler`` of a strategy.
        """
        del space

    def check_children(self, space: Space, number: int) -> None:
        """Checks the number of children that are trained together; by default, any.

        Raises:
          SettingError: About ``children_per_step``.
        """
        del space, number


@dataclasses.dataclass(frozen=True)
class Uniform(Sampler):
    """As the space draws: each decision uniformly, unless it knows better."""

    def draw(self, space, keys):
        """Draws each architecture by itself."""
        return jax.vmap(space.sample)(keys)


@dataclasses.dataclass(frozen=True)
class Fair(Sampler):
    """Every choice of every decision equally often (FairNAS)."""

    joint = True

    def draw(self, space, keys):
        """Random permutations of the choices, one for each decision."""
        counts = num_choices(space.decisions)
        choices = counts[0]

        def one_of_each(key):
            keys = jax.random.split(key, len(counts))
            permuted = jax.vmap(jax.random.permutation, (0, None))(keys, choices)
            return permuted.T.astype(jnp.int32)

        drawn = jax.vmap(one_of_each)(keys[::choices])
        return drawn.reshape(-1, len(counts))[: len(keys)]

    def check(self, space):
        """Checks that all decisions have as many choices."""
        counts = num_choices(space.decisions)
        if len(set(counts)) > 1:
            expected = (
                f"another one for the space {space.name}, whose decisions have "
                f"{min(counts)} to {max(counts)} choices: 'fair' needs equally many"
            )
            raise SettingError("sampler", "fair", expected)

    def check_children(self, space, number):
        """Checks that they can have every choice equally often."""
        choices = num_choices(space.decisions)[0]
        if number % choices:
            expected = (
                f"a multiple of {choices}, the choices of each decision, as the "
                "sampler is 'fair'"
            )
            raise SettingError("children_per_step", number, expected)


@dataclasses.dataclass(frozen=True)
class Classes(Sampler):
    """Isomorphism classes uniformly, each as one of its architectures."""

    def draw(self, space, keys):
        """Draws each class by itself."""
        classes = jnp.asarray(space.classes())
        number = len(classes)
        drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, number))(keys)
        return classes[drawn]

    def check(self, space):
        """Checks that the space lists its classes."""
        if space.classes() is None:
            expected = (
                f"another one for the space {space.name}, which does not list its "
                "isomorphism classes"
            )
            raise SettingError("sampler", "classes", expected)


# By name: dataclasses with the methods of :class:`Sampler`.
SAMPLERS = Registry(
    "wpl_jax.samplers",
    {
        "classes": Classes,
        "fair": Fair,
        "uniform": Uniform,
    },
)
