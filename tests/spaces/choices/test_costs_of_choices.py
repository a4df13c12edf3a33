"""A child costs what the network costs that is written by hand with its choices.

XLA counts the operations of a conditional as those of its largest branch, so children
with the largest branches are compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.choosing import Modular, modular_by_hand, plain, plain_by_hand

from wpl_jax.spaces.architecture_json import names_of_choices
from wpl_jax.supernet import Architecture, gather


def counted(function, *arguments):
    """Counted operations, and bytes of temporary memory, of a gradient."""
    compiled = jax.jit(jax.grad(function)).lower(*arguments).compile()
    memory = compiled.memory_analysis().temp_size_in_bytes
    return np.array([compiled.cost_analysis()["flops"], memory])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "by_hand", "choice", "settings"),
    [
        (Modular, modular_by_hand, [0] * 4, {"layers": 4, "channels": 16}),
        (plain, plain_by_hand, [1, 0, 1, 2], {"channels": 16}),
    ],
)
def test_gradients_of_children_cost_those_by_hand(cls, by_hand, choice, settings):
    space = cls((16, 16, 3), 10, **settings)
    images = jnp.ones((32, 16, 16, 3))
    params = space.init(jax.random.key(0))
    architecture = Architecture(jnp.int32(choice))
    child = gather(params, space.rows(architecture))
    chosen = names_of_choices(space, np.array(choice))

    def loss(child, choice):
        logits = space.apply(child, Architecture(choice), images).logits
        return jnp.mean(logits**2)

    def static(own):
        return jnp.mean(by_hand(own, images, chosen) ** 2)

    found = counted(loss, child, architecture.choice)
    expected = counted(static, space.params_of(params, whole=True))
    assert np.all(found <= 1.15 * expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cls", "by_hand", "choice", "settings", "more"),
    [
        # The input that is added to what the conditional returns, whatever the depth.
        (Modular, modular_by_hand, [0] * 2, {"layers": 2}, 1),
        (Modular, modular_by_hand, [0] * 8, {"layers": 8}, 1),
        # The two inputs that choice_of_inputs takes.
        (plain, plain_by_hand, [1, 0, 1, 2], {}, 2),
    ],
)
def test_an_evaluation_needs_few_more_arrays(cls, by_hand, choice, settings, more):
    space = cls((16, 16, 3), 10, channels=16, **settings)
    images = jnp.ones((32, 16, 16, 3))
    params = space.init(jax.random.key(0))
    chosen = names_of_choices(space, np.array(choice))

    child = gather(params, space.rows(Architecture(jnp.int32(choice))))

    def chosen_by_data(own, choice):
        return space.apply(own, Architecture(choice), images).logits

    def static(own):
        return by_hand(own, images, chosen)

    own = space.params_of(params, whole=True)
    found, expected = (
        jax.jit(function).lower(*arguments).compile().memory_analysis()
        for function, arguments in (
            (chosen_by_data, (child, jnp.int32(choice))),
            (static, (own,)),
        )
    )
    array = 4 * 32 * 16 * 16 * 16
    temporary = found.temp_size_in_bytes - expected.temp_size_in_bytes
    assert temporary <= (more + 0.05) * array


def test_a_child_runs_one_branch_alone():
    """Each convolution of the compiled program is inside of a conditional."""
    space = Modular((4, 4, 1), 2, layers=1)
    architecture = Architecture(jnp.int32([0]))
    child = jax.eval_shape(
        lambda: gather(space.init(jax.random.key(0)), space.rows(architecture))
    )
    images = jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)

    def logits(child, choice, images):
        return space.apply(child, Architecture(choice), images).logits

    jaxpr = jax.make_jaxpr(logits)(child, architecture.choice, images).jaxpr
    names = [equation.primitive.name for equation in jaxpr.eqns]
    assert names.count("conv_general_dilated") == 1  # the stem
    assert names.count("cond") == 1
