"""Wrong choices are refused when the space is derived, by the name of the choice."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import wpl_jax
from wpl_jax.errors import UserError
from wpl_jax.spaces.choices.choice import choice, choice_of_inputs, fixed_choices
from wpl_jax.supernet import Architecture


def derive(body, *inputs, params=None):
    """The space of a function of parameters and ``float32[2, 3]``."""
    params = {"w": jnp.ones((3, 3))} if params is None else params
    inputs = inputs or (jnp.ones((2, 3)),)
    return wpl_jax.space_of(body, *inputs, init=lambda key: params)


def refuse(body, *said, **options):
    with pytest.raises(UserError) as caught:
        derive(body, **options)
    for text in said:
        assert text in str(caught.value)


def test_branches_of_different_shapes_are_named_with_their_shapes():
    def wrong(params, x):
        branches = {
            "product": lambda x: x @ params["w"],
            "sum": lambda x: x.sum(1),
            "same": lambda x: x,
        }
        return choice("layer", branches, x)

    refuse(
        wrong,
        *("'layer'", "'product', 'same': float32[2,3]", "'sum': float32[2]"),
    )


def test_branches_of_different_dtypes_or_trees_are_named():
    def dtypes(params, x):
        branches = {"half": lambda x: x.astype(jnp.bfloat16), "same": lambda x: x}
        return choice("layer", branches, x)

    refuse(dtypes, "'layer'", "'half': bfloat16[2,3]", "'same': float32[2,3]")

    def trees(params, x):
        return choice("layer", {"pair": lambda x: (x, x), "one": lambda x: x}, x)

    refuse(trees, "'pair': (float32[2,3], float32[2,3])", "'one': float32[2,3]")

    def nothing(params, x):
        return choice("layer", {"a": lambda x: None, "b": lambda x: None}, x)

    refuse(nothing, "'layer'", "no array")

    def inputs(params, x):
        return choice_of_inputs("source", {"x": x, "y": x[:1]})

    refuse(inputs, "The inputs of the choice 'source'", "'y': float32[1,3]")


def test_a_name_in_a_loop_is_refused():
    def loop(params, x):
        for _ in range(2):
            x = choice("layer", {"sin": jnp.sin, "cos": jnp.cos}, x)
        return x

    refuse(loop, "'layer' is that of two choices", 'f"layer_{i}"', "shared=True")

    def once_shared(params, x):
        x = choice("layer", {"sin": jnp.sin, "cos": jnp.cos}, x, shared=True)
        return choice("layer", {"sin": jnp.sin, "cos": jnp.cos}, x)

    refuse(once_shared, "'layer' is that of two choices")

    def others(params, x):
        x = choice("layer", {"sin": jnp.sin, "cos": jnp.cos}, x, shared=True)
        return choice("layer", {"sin": jnp.sin}, x, shared=True)

    refuse(others, "['sin'] in one call and ['sin', 'cos'] in another")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((3, {"a": jnp.sin}), "The name of a choice is 3"),
        (("", {"a": jnp.sin}), "The name of a choice is ''"),
        (("layer", {}), "expected at least one, functions by name"),
        (("layer", [jnp.sin]), "functions by name"),
        (("layer", {"a": 1.0}), "'a' of the choice 'layer' is 1.0"),
        (("layer", {"a": jnp.sin}, "x"), "Operand 0 of the choice 'layer' is 'x'"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    refuse(lambda params, x: choice(*arguments), said)


@pytest.mark.parametrize(
    ("count", "number", "said"),
    [
        (0, 3, "count=0 inputs, expected a number from 1 to 3"),
        (4, 3, "count=4 inputs"),
        (8, 16, "12,870 sets of 8 of 16 inputs, expected at most 1,000"),
        (1, 0, "expected at least one, arrays by name"),
    ],
)
def test_wrong_counts_of_inputs_are_named(count, number, said):
    refuse(lambda params, x: choice_of_inputs("in", [x] * number, count), said)


def test_a_network_without_choices_is_refused():
    refuse(lambda params, x: x @ params["w"], "makes no choice")


def test_parameters_are_floats():
    def network(params, x):
        return choice("layer", {"sin": jnp.sin, "cos": jnp.cos}, x)

    with pytest.raises(ValueError, match="'steps' has the dtype int32"):
        derive(network, params={"steps": jnp.arange(3)})


def test_a_choice_needs_a_pass():
    with pytest.raises(UserError, match=r"'layer' is made outside of a search space"):
        choice("layer", {"sin": jnp.sin}, 1.0)
    with (
        fixed_choices({"layer": "tan"}),
        pytest.raises(UserError, match=r"'layer' is fixed to 'tan'.*\['sin'\]"),
    ):
        choice("layer", {"sin": jnp.sin}, 1.0)


def test_a_choice_that_depends_on_the_inputs_is_refused():
    def network(params, x):
        name = "few" if len(x) < 4 else "many"
        return choice(name, {"sin": jnp.sin, "cos": jnp.cos}, x)

    space = derive(network)
    child = space.init(jax.random.key(0))
    architecture = Architecture(jnp.zeros(1, jnp.int32))
    with pytest.raises(UserError, match=r"'many' among .* was not made when"):
        space.apply(child, architecture, jnp.ones((4, 3)))


def test_integers_cannot_be_mixed():
    def network(params, x):
        return choice("layer", {"most": jnp.argmax, "least": jnp.argmin}, x)

    space = derive(network)
    params = space.init(jax.random.key(0))
    mixture = Architecture(jnp.zeros(1, jnp.int32), weights=jnp.ones((1, 2)) / 2)
    with pytest.raises(UserError, match=r"'layer' returns int32\[\], and a mixture"):
        space.apply(params, mixture, jnp.ones((2, 3)))


@pytest.mark.parametrize(
    ("scores", "said"), [(4, r"float32\[2,4\] for 2 examples"), (3, None)]
)
def test_scores_of_the_classes_are_expected(scores, said):
    @wpl_jax.space
    class Network(nnx.Module):
        def __init__(self, image_shape, num_classes, *, rngs):
            self.last = nnx.Linear(image_shape[0], scores, rngs=rngs)

        def __call__(self, images):
            x = images.mean((2, 3))
            return self.last(choice("layer", {"sin": jnp.sin, "cos": jnp.cos}, x))

    if said is None:
        assert Network((4, 4, 1), 3).decisions[0].name == "layer"
        return
    with pytest.raises(UserError, match=said):
        Network((4, 4, 1), 3)


def test_signatures_without_sizes_are_refused():
    class NoRngs(nnx.Module):
        def __init__(self, image_shape, num_classes):
            pass

    class NoSizes(nnx.Module):
        def __init__(self, hidden, *, rngs):
            pass

    with pytest.raises(
        UserError, match=r"NoRngs is made from \(image_shape, num_classes\)"
    ):
        wpl_jax.space(NoRngs)
    with pytest.raises(UserError, match=r"NoSizes is made from \(hidden\)"):
        wpl_jax.space(NoSizes)
    with pytest.raises(UserError, match=r"init\(key, image_shape, num_classes"):
        wpl_jax.space(lambda params, x: x, init=lambda key: {})
