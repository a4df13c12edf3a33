"""Parts of networks with choices, counted by hand, by XLA and over all children."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.choosing import CLASSES, SHAPE, Modular, convolve, plain

import wpl_jax
from wpl_jax.errors import UserError
from wpl_jax.evaluation.latency import LatencySettings, measure
from wpl_jax.spaces.architecture_json import names_of_choices
from wpl_jax.spaces.choices.choice import choice, fixed_choices
from wpl_jax.spaces.costs import Costs
from wpl_jax.strategies.limits import LimitSettings, find
from wpl_jax.supernet import Architecture

PLAIN = plain(SHAPE, CLASSES)


def every(space):
    counts = [range(len(decision.choices)) for decision in space.decisions]
    return np.array(list(itertools.product(*counts)), np.int32)


def costs_of_parts(space, choices):
    """Sums over the parts that children use, by name."""
    used = np.asarray(
        jax.jit(jax.vmap(lambda c: space.uses(Architecture(c))))(choices), float
    )
    parts = space.parts
    assert used.shape == (len(choices), len(parts))
    assert len({part.name for part in parts}) == len(parts)
    return {
        name: used @ [getattr(part, name) for part in parts]
        for name in ("parameters", "multiply_adds")
    }


def by_name(space):
    return {p.name: (p.parameters, p.multiply_adds) for p in space.parts}


def test_parts_are_branches_and_what_is_outside():
    pixels, c = 4 * 4, 4
    kernel = c * c
    assert by_name(PLAIN) == {
        # The stem, the classifier, and the offset that all branches use.
        "outside of choices": (2 * c + c * 3 + c, pixels * 2 * c + c * 3),
        "first/one": (kernel, pixels * kernel),
        "first/three": (9 * kernel, pixels * 9 * kernel),
        "first/other": (kernel, pixels * kernel),
        "first/skip": (0, 0),
        "second/nested": (0, 0),
        "second/nested/inner/sin": (0, 0),
        "second/nested/inner/inner": (kernel, pixels * kernel),
        "second/add": (0, 0),
        "second/multiply": (0, 0),
        "parameters of second/add or second/multiply": (c, 0),
    }


def test_parts_of_modules_have_their_parameters():
    found = by_name(Modular(SHAPE, CLASSES, layers=1))
    pixels, kernel, others = 4 * 4, 4 * 4, 4 + 2 * 4  # a bias, a normalization
    assert found == {
        "outside of choices": (2 * 4 + 4 + 4 * 3 + 3, pixels * 2 * 4 + 4 * 3),
        "layer_0/three": (9 * kernel + others, pixels * 9 * kernel),
        "layer_0/one": (kernel + others, pixels * kernel),
        "layer_0/skip": (0, 0),
    }


def tied(params, x):
    """A matrix of several branches of several choices, one inside of another."""

    def inner(x):
        branches = {"w": lambda x: x @ params["w"], "v": lambda x: x @ params["v"]}
        return choice("inner", {**branches, "skip": lambda x: x}, x)

    for i in range(2):
        branches = {"w": lambda x: x @ params["w"], "sin": jnp.sin, "inner": inner}
        x = choice(f"layer_{i}", branches, x) if i else jnp.cos(x)
    branches = {"w": lambda x: x @ params["w"], "u": lambda x: x @ params["u"]}
    return choice("last", {**branches, "both": lambda x: x @ params["w"] + x}, x)


TIED = wpl_jax.space_of(
    tied,
    jnp.ones(3),
    init=lambda key: {name: jax.random.normal(key, (3, 3)) for name in "wvu"},
)


@pytest.mark.parametrize("space", [PLAIN, TIED], ids=["plain", "tied"])
def test_the_parts_add_up_to_the_parameters(space):
    choices = every(space)
    counted = Costs(space).of_choices(choices)["parameters"]
    np.testing.assert_array_equal(costs_of_parts(space, choices)["parameters"], counted)


@pytest.mark.parametrize("space", [PLAIN, TIED], ids=["plain", "tied"])
def test_expected_costs_are_the_mean_over_all_children(space):
    rng = np.random.default_rng(0)
    choices, counts = every(space), [len(d.choices) for d in space.decisions]
    weights = np.zeros((len(counts), max(counts)), np.float32)
    for row, number in zip(weights, counts, strict=True):
        row[:number] = rng.dirichlet(np.ones(number))
    probability = np.prod(weights[np.arange(len(counts)), choices], 1)
    mixture = Architecture(jnp.asarray(choices[0]), weights=jnp.asarray(weights))
    found = jax.jit(space.costs)(mixture)
    for name, values in costs_of_parts(space, choices).items():
        np.testing.assert_allclose(found[name], probability @ values, rtol=1e-5)


def products_alone(params, x):
    """Products and nothing else, so that XLA counts what the parts do."""

    def steps(x):
        def step(x, w):
            branches = {
                "one": lambda x: x @ w,
                "two": lambda x: x @ params["wide"] @ params["narrow"],
            }
            return choice("step", branches, x), None

        return jax.lax.scan(step, x, params["steps"])[0]

    def grouped(x):
        return jax.lax.conv_general_dilated(
            x[:, :, None],
            params["kernel"],
            (1,),
            "VALID",
            dimension_numbers=("NCH", "OIH", "NCH"),
            feature_group_count=2,
        )[:, :, 0]

    x = choice("first", {"steps": steps, "grouped": grouped}, x)
    for _ in range(2):
        x = choice("second", {"w": lambda x: x @ params["w"]}, x, shared=True)
    return x @ params["w"]


def test_products_are_those_that_xla_counts():
    shapes = {
        "steps": (3, 4, 4),
        "wide": (4, 7),
        "narrow": (7, 4),
        "kernel": (4, 2, 1),
        "w": (4, 4),
    }
    params = {name: jnp.ones(shape) for name, shape in shapes.items()}
    x = jnp.ones((5, 4))
    space = wpl_jax.space_of(products_alone, x, init=lambda key: params)
    own = every(space)
    found = costs_of_parts(space, own)["multiply_adds"]
    after = 3 * 5 * 16
    expected = {
        "steps/one": 3 * 5 * 16,
        "steps/two": 3 * 5 * 2 * 28,
        "grouped/one": 5 * 4 * 2,
        "grouped/two": 5 * 4 * 2,
    }
    for row, products in zip(own, found, strict=True):
        names = names_of_choices(space, row)
        assert products == after + expected[f"{names['first']}/{names['step']}"]

        def run(params, x, names=names):
            with fixed_choices(names):
                return products_alone(params, x)

        counted = jax.jit(run).lower(params, x).cost_analysis()["flops"] / 2
        if names["first"] == "steps":  # XLA counts the body of a loop once.
            of_loop = expected[f"steps/{names['step']}"]
            counted += of_loop - of_loop / 3
        # Beside the products, XLA counts the addition of the loop's counter.
        assert 0 <= counted - products <= 2


def test_of_a_conditional_the_largest_branch_counts():
    def network(params, x):
        def square(x):
            branches = {"one": lambda x: x @ params["w"], "none": lambda x: x}
            return choice("layer", branches, x @ params["w"])

        return jax.lax.cond(x[0, 0] > 0, square, lambda x: x, x)

    w = jnp.ones((3, 3))
    space = wpl_jax.space_of(network, jnp.ones((2, 3)), init=lambda key: {"w": w})
    assert by_name(space) == {
        "outside of choices": (9, 18),
        "layer/one": (0, 18),
        "layer/none": (0, 0),
    }


def one_layer(params, x):
    branches = {"product": lambda x: x @ params["w"], "skip": lambda x: x}
    return choice("layer", branches, x)


def space_of_one_layer(*inputs, batched):
    params = {"w": jnp.ones((3, 3))}
    return wpl_jax.space_of(
        one_layer, *inputs, init=lambda key: params, batched=batched
    )


def test_a_network_of_batches_is_counted_for_one_example_and_timed_for_any_number():
    space = space_of_one_layer(jnp.ones((2, 3)), batched=True)
    assert by_name(space)["layer/product"] == (9, 9)
    for program in (program_of(space, "layer/product", 5), space.program([0], 5)):
        function, arguments = program
        assert arguments[0].shape == (5, 3)
        found = jax.tree.leaves(jax.eval_shape(function, *arguments))
        assert found[0].shape == (5, 3)


def test_a_network_of_fixed_inputs_is_timed_for_one_call_with_them():
    space = space_of_one_layer(jnp.ones((2, 3)), batched=False)
    assert by_name(space)["layer/product"] == (9, 18)
    assert program_of(space, "layer/product", 1)[1][0].shape == (2, 3)
    for refused in (
        lambda: program_of(space, "layer/product", 5),
        lambda: space.program([0], 5),
    ):
        with pytest.raises(UserError, match=r"5 examples.*batched=True"):
            refused()


@pytest.mark.parametrize("shapes", [[()], [(2, 3), (4, 3)], [(0, 3)]])
def test_batches_have_the_same_number_of_examples(shapes):
    with pytest.raises(UserError, match="expected the same number of examples"):
        space_of_one_layer(*map(jnp.ones, shapes), batched=True)


class Repeats:
    """A timer that keeps what it is given."""

    def __init__(self):
        self.loops = []

    def of_all(self, loops, calls):
        self.loops += loops
        for run in calls:
            run()
        return [1.0] * len(loops), [1000.0] * len(calls)


def program_of(space, name, batch):
    return next(p for p in space.parts if p.name == name).program(batch)


def test_programs_are_the_branches():
    for name, expected in {
        "first/one": lambda x, w: jnp.tanh(convolve(x, w)),
        "second/nested/inner/inner": convolve,
        "first/skip": lambda x: x,
    }.items():
        function, arguments = program_of(PLAIN, name, 3)
        images, kernels = arguments[0], jax.tree.leaves(arguments[1:])
        assert images.shape == (3, 4, 4, 4)
        found = jax.tree.leaves(function(*arguments))
        np.testing.assert_allclose(found[0], expected(images, *kernels), rtol=1e-6)


def test_what_is_timed_depends_on_the_input_and_on_all_choices():
    """Else XLA would compute it once, or not at all."""
    function, (images, *others) = program_of(PLAIN, "outside of choices", 2)
    assert images.shape == (2, *SHAPE)
    text = jax.jit(function).lower(images, *others).compile().as_text()
    assert text.count(" conditional(") == 3


def test_a_loop_runs_its_branch_as_often():
    def network(params, x):
        def step(x, _):
            branches = {"double": lambda x: 2 * x, "skip": lambda x: x}
            return choice("step", branches, x), None

        return jax.lax.scan(step, x, None, length=3)[0] + params["b"]

    params = {"b": jnp.ones(2)}
    space = wpl_jax.space_of(network, jnp.ones(2), init=lambda key: params)
    function, arguments = program_of(space, "step/double", 1)
    (loop,) = [
        equation
        for equation in jax.make_jaxpr(function)(*arguments).eqns
        if equation.primitive.name == "scan"
    ]
    assert loop.params["length"] == 3
    np.testing.assert_allclose(
        jax.tree.leaves(function(*arguments))[0], 2 * arguments[0]
    )


@pytest.mark.slow
def test_branches_and_whole_children_are_timed():
    space, timer = Modular(SHAPE, CLASSES, layers=1), Repeats()
    table = measure(space, LatencySettings(batch_size=3, children=2), timer)
    assert table.parts == {
        "outside of choices": 1.0,
        "layer_0/three": 1.0,
        "layer_0/one": 1.0,
        "layer_0/skip": 0.0,  # It computes nothing of its input.
    }
    for run in timer.loops:
        for leaf in jax.tree.leaves(run(2)):
            assert np.all(np.isfinite(np.asarray(leaf, float)))
    choices = [child.choice[0] for child in table.children]
    summed = [1001.0 + (number < 2) for number in choices]
    assert [child.summed for child in table.children] == summed


@pytest.mark.slow
def test_whole_children_run_with_their_choices_and_given_statistics():
    space = Modular(SHAPE, CLASSES, layers=1)
    function, arguments = space.program(np.array([1]), 3)
    params, stats = arguments[2:]
    own = Architecture(jnp.int32([1]))
    child = wpl_jax.supernet.gather(space.init(jax.random.key(0)), space.rows(own))
    expected = space.apply(child, own, arguments[0], batch_stats=stats).logits
    np.testing.assert_allclose(function(*arguments), expected, rtol=1e-5)
    assert jax.tree.leaves(params)


@pytest.mark.slow
def test_limits_of_products_are_kept():
    most = 700
    limits = find(Costs(PLAIN), LimitSettings(multiply_adds=most))
    keep = jax.jit(jax.vmap(lambda key: limits.keep(PLAIN.sample, key)))
    found = np.asarray(keep(jax.random.split(jax.random.key(0), 50)))
    assert np.all(costs_of_parts(PLAIN, found)["multiply_adds"] <= most)
    assert np.any(costs_of_parts(PLAIN, every(PLAIN))["multiply_adds"] > most)
    assert len(np.unique(found, axis=0)) > 5
