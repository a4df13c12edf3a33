"""Costs of children against networks that are written out, and traced."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.counting import multiply_adds
from helpers.models import MODELS, make_inputs, make_model

from wpl_jax.common.parts import TIMED_WORDS
from wpl_jax.models.export import export, import_network
from wpl_jax.spaces.darts_cell import DartsCell
from wpl_jax.spaces.genotype_network import GenotypeNetwork
from wpl_jax.spaces.genotypes import PUBLISHED
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.supernet import Architecture, count_parameters

ADDITIVE = NasBench201((8, 8, 2), 3, channels=4, cells=2)
NO_CHOICE = Architecture(np.zeros(0, np.int32))


@functools.partial(jax.jit, static_argnums=0)
def costs_of(space, architecture):
    """Compiled as a whole: one by one its operations take longer."""
    return space.costs(architecture)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0))
def costs_of_each(space, choice):
    return space.costs(Architecture(choice))


def costs(space, choice):
    found = costs_of(space, Architecture(jnp.asarray(choice)))
    return {name: float(value) for name, value in found.items()}


@pytest.mark.slow_except("nasbench201_parts")
@pytest.mark.parametrize("name", MODELS)
def test_costs_are_those_of_the_network_that_is_written_out(name, tmp_path):
    from flax import nnx

    model = make_model(name)
    module = import_network(export(model, tmp_path, "nnx"))
    network = nnx.eval_shape(lambda: module.Network(rngs=nnx.Rngs(0)))
    network.eval()
    graph, state = nnx.split(network)
    inputs = jnp.asarray(make_inputs(model, count=1), jnp.float32)
    words = 1
    if model.statistics is None:
        inputs = jnp.zeros((1, TIMED_WORDS), jnp.int32)
        words = TIMED_WORDS

    def run(state, inputs):
        return nnx.merge(graph, state)(inputs)

    found = costs(model.space, model.choice)
    assert found["multiply_adds"] == multiply_adds(run, state, inputs) / words
    weights = model.space.network(model.choice, model.params, model.statistics).weights
    counted = sum(
        value.size
        for name, value in weights.items()
        if not name.endswith((".mean", ".var"))
    )
    of_training = [p.parameters for p in model.space.parts if p.name == "auxiliary"]
    assert found["parameters"] == counted + sum(of_training)


@pytest.mark.slow_except("*_parts", "recurrent_cell", "micro_cell")
@pytest.mark.parametrize("name", MODELS)
def test_the_parts_add_up_to_the_parameters(name):
    space, _ = MODELS[name]
    choices = jax.vmap(space.sample)(jax.random.split(jax.random.key(0), 5))

    @jax.jit
    @jax.vmap
    def both(choice):
        child = Architecture(choice)
        return space.uses(child), space.costs(child)["parameters"]

    for uses, counted in zip(*both(choices), strict=True):
        found = sum(n * p.parameters for n, p in zip(uses, space.parts, strict=True))
        assert found == counted
    assert len({part.name for part in space.parts}) == len(space.parts)


def products_of(genotype, channels, size=32, cells=20):
    """Of the network of a genotype, written out cell by cell."""
    total, size, first = 27 * 3 * channels * size**2, size, channels
    before = last = 3 * channels
    for number in range(cells):
        reduction = number in (cells // 3, 2 * cells // 3)
        channels *= 2 if reduction else 1
        total += (before + last) * channels * size**2
        size //= 2 if reduction else 1
        cell, concat = genotype[2 * reduction : 2 * reduction + 2]
        for name, state in cell:
            stride = 2 if reduction and state < 2 else 1
            if name[:8] in ("sep_conv", "dil_conv"):
                repeats = 2 if name.startswith("sep") else 1
                own = repeats * (int(name[-1]) ** 2 + channels) * channels
            elif name == "conv_7x1_1x7":
                # The first of them halves the width alone.
                own = (stride + 1) * 7 * channels**2
            else:
                own = channels**2 if name == "skip_connect" and stride == 2 else 0
            total += own * size**2
        before, last = last, channels * len(concat)
    assert channels == 4 * first
    return total + 10 * last


@pytest.mark.slow_except("AmoebaNet")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_of_a_published_cell_has_the_products_of_its_definition(name):
    network = GenotypeNetwork((32, 32, 3), 10, channels=36, cells=20, cell=name)
    expected = products_of(PUBLISHED[name], 36)
    found = costs_of(network, NO_CHOICE)
    np.testing.assert_allclose(found["multiply_adds"], expected, rtol=1e-6)
    uses = np.asarray(network.uses(NO_CHOICE))
    counted = sum(n * p.parameters for n, p in zip(uses, network.parts, strict=True))
    assert counted == int(found["parameters"])
    if name in ("NASNet", "AmoebaNet", "ENAS"):
        return
    space = DartsCell((32, 32, 3), 10, channels=36, cells=20, affine=True)
    own = costs(space, space.from_notation(name))
    np.testing.assert_allclose(own["multiply_adds"], expected, rtol=1e-6)


def test_expected_costs_are_the_mean_over_all_children():
    count = len(ADDITIVE.operations)
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(count), 6).astype(np.float32)
    every = np.array(list(itertools.product(range(count), repeat=6)))
    probability = np.prod(weights[np.arange(6), every], 1)
    of_all = costs_of_each(ADDITIVE, every)
    mixture = Architecture(jnp.asarray(every[0]), weights=jnp.asarray(weights))
    found = costs_of(ADDITIVE, mixture)
    for name, values in of_all.items():
        expected = np.sum(probability * np.asarray(values, float))
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


@pytest.mark.slow_except("True")
@pytest.mark.parametrize("edge_weights", [False, True])
def test_expected_costs_of_two_inputs_a_node_are_the_mean_over_all(edge_weights):
    """One node: with two inputs, each is kept whatever its weight."""
    space = DartsCell(
        *((8, 8, 2), 3),
        channels=4,
        cells=3,
        num_nodes=1,
        edge_weights=edge_weights,
    )
    rng = np.random.default_rng(1)
    groups, count = len(space.groups), len(space.operations)
    weights = rng.dirichlet(np.ones(count), groups).astype(np.float32)
    weights[4:] = [0.5, 0.5, *[0] * (count - 2)]
    usable = weights[:4, 1:] / weights[:4, 1:].sum(1, keepdims=True)  # without none
    every = np.array(list(itertools.product(range(count - 1), repeat=4)))
    probability = np.prod(usable[np.arange(4), every], 1)
    zero = np.zeros(len(every), int)  # There is one pair of inputs.
    choices = np.stack([zero, *every.T[:2], zero, *every.T[2:]], 1).astype(np.int32)
    of_all = costs_of_each(space, choices)
    mixture = Architecture(jnp.asarray(choices[0]), weights=jnp.asarray(weights))
    for name, found in costs_of(space, mixture).items():
        expected = np.sum(probability * np.asarray(of_all[name], float))
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_expected_costs_have_a_gradient_in_the_weights():
    count = len(ADDITIVE.operations)
    weights = jnp.full((6, count), 1 / count)

    def products(weights):
        choice = jnp.zeros(6, jnp.int32)
        return ADDITIVE.costs(Architecture(choice, weights=weights))["multiply_adds"]

    slope = np.asarray(jax.jit(jax.grad(products))(weights))
    at = ADDITIVE.operations.index("nor_conv_3x3")
    # Two cells in each stage: as many products in each, since 4 pixels become 1.
    np.testing.assert_allclose(slope[:, at], 3 * 2 * 9 * 4 * 4 * 8 * 8)
    assert np.all(slope[:, ADDITIVE.operations.index("skip_connect")] == 0)


@pytest.mark.slow
def test_more_nodes_without_a_successor_cost_more():
    space = MicroCell((8, 8, 1), 3, num_nodes=2, filters=4, layers=3)
    # Inputs, then operations, of each node; the second node uses the first or not.
    chain, both = [0, 0, 4, 4, 2, 0, 4, 4], [0, 0, 4, 4, 0, 0, 4, 4]
    one, two = (costs(space, cell * 2)["multiply_adds"] for cell in (chain, both))
    # In 3 stages there are 5 cells; 16 filters of 4 pixels cost what 4 of 64 do.
    cells = (1, 2, 2)
    expected = sum(n * (4 * 2**s) ** 2 * (8 // 2**s) ** 2 for s, n in enumerate(cells))
    assert two - one == expected


def test_a_space_without_parts_counts_parameters_alone():
    class Plain(NasBench201):
        parts = ()

    space = Plain((8, 8, 2), 3, channels=4, cells=1)
    choice = jnp.zeros(6, jnp.int32)
    found = space.costs(Architecture(choice))
    assert found.keys() == {"parameters"}
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    rows = space.rows(Architecture(choice))
    assert int(found["parameters"]) == int(count_parameters(shapes, rows))
