"""The NAS-Bench-201 supernet, against the same network in float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.common.settings import SettingError
from wpl_jax.devices.parallel import Devices
from wpl_jax.errors import UserError
from wpl_jax.spaces.images import Noise
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.nasbench201_architectures import EDGES, OPERATIONS
from wpl_jax.supernet import Architecture, gather, mask

SPACE = NasBench201((8, 8, 2), 3, channels=4, cells=1)
PARTIAL = NasBench201((4, 4, 1), 2, 4, 1, channel_parts=2, edge_weights=True)
LOOPING = NasBench201((4, 4, 1), 2, channels=2, cells=2, exclude_none=True)
BATCH = 4


@functools.cache
def params_of(space):
    return jax.jit(space.init)(jax.random.key(0))


@functools.cache
def images_of(space):
    rng = np.random.default_rng(1)
    return rng.normal(size=(BATCH, *space.image_shape)).astype(np.float32)


def draw(space, seed):
    return np.asarray(space.sample(jax.random.key(seed)))


# The network as the paper has it, edge by edge.


def neighbours(x):
    """Of each pixel the nine around it, zero beyond the image, [..., 9, channels]."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return np.stack(
        [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)],
        -2,
    )


def convolve(x, kernel, stride=1):
    around = neighbours(x)[:, ::stride, ::stride]
    return np.einsum("bhwoc,ocd->bhwd", around, kernel.reshape(9, x.shape[-1], -1))


def normalize(x):
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return (x - mean) / np.sqrt(variance + 1e-5)


def affine(x, child):
    return normalize(x) * child["scale"] + child["offset"]


def relu(x):
    return np.maximum(x, 0)


def numpy_cell(x, kernels, weights, shares, parts):
    """Of an edge's weights by the names of the operations, and of each edge its share.

    Of several parts of the channels the first is operated on. Then the first channels
    of all parts come first, then the second.
    """
    states = [x, 0, 0, 0]
    ones = neighbours(np.ones((1, *x.shape[1:3], 1))).sum(-2)
    for edge, (source, target) in enumerate(EDGES):
        y, *rest = np.split(states[source], parts, -1)
        operations = {
            "none": 0 * y,
            "skip_connect": y,
            "nor_conv_1x1": normalize(relu(y) @ kernels["conv_1x1"][edge]),
            "nor_conv_3x3": normalize(convolve(relu(y), kernels["conv_3x3"][edge])),
            "avg_pool_3x3": neighbours(y).sum(-2) / ones,
        }
        mixed = sum(weight * operations[name] for name, weight in weights[edge].items())
        whole = np.stack([mixed, *rest], -1).reshape(x.shape)
        states[target] = states[target] + shares[edge] * whole
    return states[-1]


def numpy_network(space, params, weights, images, shares=(1,) * 6):
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)
    named = [dict(zip(space.operations, w, strict=True)) for w in weights]
    x = affine(convolve(np.asarray(images, float), p["stem"]["kernel"]), p["stem"])
    for stage in range(3):
        if stage:
            block = p[f"reduction_{stage}"]
            first, second = block["first"], block["second"]
            y = affine(convolve(relu(x), first["kernel"], 2), first)
            y = affine(convolve(relu(y), second["kernel"]), second)
            b, h, w, c = x.shape
            halved = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
            x = halved @ block["shortcut"]["kernel"] + y
        for cell in range(space.cells):
            kernels = {
                name: stack[6 * cell : 6 * cell + 6]
                for name, stack in p[f"stage_{stage}"].items()
            }
            x = numpy_cell(x, kernels, named, shares, space.channel_parts)
    features = relu(affine(x, p["normalization"])).mean((1, 2))
    return features @ p["classifier"]["kernel"] + p["classifier"]["bias"]


@functools.partial(jax.jit, static_argnums=0)
def run(space, params, architecture, images, gradient):
    """The logits, and the gradients in the shared parameters and the architecture."""

    def loss(params, weights, gates):
        own = Architecture(architecture.choice, weights, gates)
        child = gather(params, space.rows(own))
        logits = space.apply(child, own, images).logits
        return jnp.sum(logits * gradient), logits

    found = jax.grad(loss, (0, 1, 2), has_aux=True)
    gradients, logits = found(params, architecture.weights, architecture.gates)
    return logits, gradients


def run_on(space, architecture):
    gradient = np.random.default_rng(2).normal(size=(BATCH, space.num_classes))
    return run(space, params_of(space), architecture, images_of(space), gradient)


@functools.partial(jax.jit, static_argnums=0)
def predict(space, params, architecture, images, given=None):
    child = gather(params, space.rows(architecture))
    return space.apply(child, architecture, images, batch_stats=given)


def test_children_and_mixtures_are_the_network_in_numpy():
    space = SPACE
    params, images = params_of(space), images_of(space)
    count = len(space.operations)
    for seed in range(4):
        choice = draw(space, seed)
        hot = np.eye(count)[choice]
        found = predict(space, params, Architecture(choice), images).logits
        expected = numpy_network(space, params, hot, images)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        weights = np.random.default_rng(seed).dirichlet(np.ones(count), 6)
        mixture = Architecture(choice, weights=jnp.float32(weights))
        found, _ = run_on(space, mixture)
        expected = numpy_network(space, params, weights, images)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_part_of_the_channels_is_operated_on_and_inputs_are_weighted():
    """PC-DARTS: Xu et al., ICLR 2020, equations 2 and 4."""
    space, count = PARTIAL, len(PARTIAL.operations)
    params, images = params_of(space), images_of(space)
    assert params["stage_1"]["conv_3x3"].shape == (6, 9 * 4, 4)
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.ones(count), 6)
    of_second, of_third = rng.dirichlet(np.ones(2)), rng.dirichlet(np.ones(3))
    table = np.zeros((8, count), np.float32)
    table[:6], table[6, :2], table[7, :3] = weights, of_second, of_third
    choice = draw(space, 0)
    found = predict(space, params, Architecture(choice, weights=table), images)
    shares = np.array([1, *of_second, *of_third])
    expected = numpy_network(space, params, weights, images, shares)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-3, atol=1e-4)
    # The inputs of a child's node count the same.
    found = predict(space, params, Architecture(choice), images)
    shares = np.array([1, 1 / 2, 1 / 2, *[1 / 3] * 3])
    expected = numpy_network(space, params, np.eye(count)[choice], images, shares)
    np.testing.assert_allclose(found.logits, expected, rtol=1e-3, atol=1e-4)
    assert [g.choices for g in space.groups[6:]] == [("0", "1"), ("0", "1", "2")]
    np.testing.assert_array_equal(space.discretize(table), np.argmax(weights, -1))


@pytest.mark.slow
def test_a_mixture_of_one_operation_an_edge_is_the_child_with_its_gradients():
    params, images = params_of(SPACE), images_of(SPACE)
    for seed in range(4):
        choice = draw(SPACE, seed)
        hot = jnp.float32(np.eye(5)[choice])
        # Gates of 1 leave a child and its gradients as they are.
        gated, (of_gated, _, of_gates) = run_on(SPACE, Architecture(choice, gates=hot))
        logits = predict(SPACE, params, Architecture(choice), images).logits
        mixed, (of_mixed, of_weights, _) = run_on(
            SPACE, Architecture(choice, weights=hot)
        )
        np.testing.assert_allclose(mixed, logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(gated, logits, rtol=1e-4, atol=1e-5)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
        jax.tree.map(close, of_mixed, of_gated)
        rows = mask(params_of(SPACE), SPACE.rows(Architecture(choice)))
        for stage in range(3):
            for name, of_stack in of_mixed[f"stage_{stage}"].items():
                unused = np.ravel(rows[f"stage_{stage}"][name]) == 0
                # Exactly: what is not there does not move.
                np.testing.assert_array_equal(np.asarray(of_stack)[unused], 0)
        # What is chosen has the mixture's gradient.
        places = np.arange(6), choice
        np.testing.assert_allclose(
            of_gates[places], of_weights[places], rtol=1e-3, atol=1e-3
        )


@pytest.mark.slow
def test_a_child_has_the_gradients_of_one_with_gates_of_1():
    choice = draw(SPACE, 1)
    hot = jnp.float32(np.eye(5)[choice])
    _, (of_child, *_) = run_on(SPACE, Architecture(choice))
    _, (of_gated, *_) = run_on(SPACE, Architecture(choice, gates=hot))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)
    jax.tree.map(close, of_gated, of_child)


def test_the_gradient_of_weights_is_that_of_finite_differences():
    weights = np.random.default_rng(5).dirichlet(np.ones(5), 6)
    choice = np.zeros(6, np.int32)
    mixture = Architecture(choice, weights=jnp.float32(weights))
    _, (_, of_weights, _) = run_on(SPACE, mixture)
    gradient = np.random.default_rng(2).normal(size=(BATCH, 3))

    def loss(weights):
        logits = numpy_network(SPACE, params_of(SPACE), weights, images_of(SPACE))
        return np.sum(logits * gradient)

    for edge, operation in [(0, 1), (1, 3), (2, 2), (3, 0), (4, 4), (5, 3)]:
        step = np.zeros((6, 5))
        step[edge, operation] = 1e-5
        slope = (loss(weights + step) - loss(weights - step)) / 2e-5
        np.testing.assert_allclose(
            of_weights[edge, operation], slope, rtol=1e-2, atol=1e-3
        )


@pytest.mark.slow
def test_devices_that_share_a_batch_agree():
    space, two = LOOPING, Devices(2)
    params, images = params_of(space), images_of(space)
    choice = jnp.asarray(draw(space, 1))
    weights = jnp.full((6, 4), 0.25)

    def apply(params, images, choice, weights):
        found = []
        for own in (Architecture(choice), Architecture(choice, weights=weights)):
            child = gather(params, space.rows(own))
            axis = two.every
            logits = space.apply(child, own, axis.shard(images), axis=axis).logits
            found.append(axis.all_gather(logits))
        return found

    arguments = two.replicate((params, images, choice, weights))
    found = two.compile(apply)(*arguments)
    for logits, own in zip(
        found, (np.eye(4)[np.asarray(choice)], weights), strict=True
    ):
        expected = numpy_network(space, params, np.asarray(own, float), images)
        np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_given_statistics_take_the_place_of_the_batchs(mixed):
    weights = jnp.full((6, 4), 0.25) if mixed else None
    own = Architecture(draw(LOOPING, 2), weights=weights)
    params, images = params_of(LOOPING), images_of(LOOPING)
    whole = predict(LOOPING, params, own, images)
    one = predict(LOOPING, params, own, images[:1], whole.batch_stats)
    np.testing.assert_allclose(one.logits[0], whole.logits[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_dropout_is_of_the_classifiers_input():
    own, params = Architecture(draw(LOOPING, 0)), params_of(LOOPING)
    images = images_of(LOOPING)
    plain = predict(LOOPING, params, own, images).logits
    found = jax.vmap(
        lambda key: (
            LOOPING.apply(
                gather(params, LOOPING.rows(own)), own, images, noise=Noise(key, 0.5)
            ).logits
        )
    )(jax.random.split(jax.random.key(0), 400))
    error = 5 * np.std(found, 0) / np.sqrt(400)
    assert np.all(np.abs(found.mean(0) - plain) < error)
    assert np.all(np.std(found, 0) > 0)


def test_decisions_are_the_benchmarks_and_costs_those_of_the_choices():
    assert [d.name for d in SPACE.decisions] == [
        *("edge_0_1", "edge_0_2", "edge_1_2", "edge_0_3", "edge_1_3", "edge_2_3")
    ]
    assert all(d.choices == OPERATIONS for d in SPACE.decisions)
    np.testing.assert_array_equal(
        LOOPING.benchmark_choice([0, 1, 2, 3, 0, 1]), [*(1, 2, 3, 4, 1, 2)]
    )
    alike = [Architecture(np.full(6, i, np.int32)) for i in range(5)]
    none, skip, one, three, pool = (
        int(SPACE.costs(own)["parameters"]) for own in alike
    )
    assert none == skip == pool
    channels = np.array([4, 8, 16])
    assert one - none == 6 * np.sum(channels**2)
    assert three - none == 6 * 9 * np.sum(channels**2)


def test_children_are_read_and_written_as_strings_of_the_benchmark():
    for space in (SPACE, LOOPING):
        for seed in range(5):
            choice = draw(space, seed)
            found = space.from_notation(space.to_notation(choice))
            np.testing.assert_array_equal(found, choice)
    with pytest.raises(UserError, match="exclude_none"):
        LOOPING.from_notation(SPACE.to_notation([0, 1, 2, 3, 4, 1]))
    with pytest.raises(UserError, match="no architecture of NAS-Bench-201"):
        SPACE.from_notation("DARTS_V2")


def test_the_papers_size_has_the_papers_parameters():
    """All 3x3 has 1.531546 M in the table, where each normalization is affine."""
    space = NasBench201((32, 32, 3), 10)
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    child = Architecture(np.full(6, 3, np.int32))
    found = int(space.costs(child)["parameters"])
    # A scale and an offset of each convolution, which the search's cells lack.
    affine = 5 * 6 * 2 * (16 + 32 + 64)
    assert found + affine == 1531546
    inputs = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    rows = jax.eval_shape(lambda p: gather(p, space.rows(child)), shapes)
    logits = jax.eval_shape(lambda c, x: space.apply(c, child, x).logits, rows, inputs)
    assert logits.shape == (2, 10)


@pytest.mark.parametrize(
    "wrong",
    [{"channels": 0}, {"cells": 0}, {"image_shape": (6, 8, 1)}, {"exclude_none": 1}],
)
def test_wrong_settings_are_refused(wrong):
    settings = {"image_shape": (8, 8, 1), "num_classes": 2} | wrong
    with pytest.raises(SettingError, match=next(iter(wrong))):
        NasBench201(**settings)


def test_pictures_have_a_node_for_each_operation():
    graph = SPACE.graphs([0, 1, 2, 3, 4, 0])["cell"]
    assert graph.nodes == {
        "0": "in",
        "1": "+ 1",
        "02": "skip connect",
        "12": "conv 1x1",
        "2": "+ 2",
        "03": "conv 3x3",
        "13": "avg pool 3x3",
        "3": "out",
    }
    pairs = [edge[:2] for edge in graph.edges]
    assert pairs == [
        *(("0", "02"), ("02", "2"), ("1", "12"), ("12", "2")),
        *(("0", "03"), ("03", "3"), ("1", "13"), ("13", "3")),
    ]
