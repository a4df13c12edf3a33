"""Cells against plain Python loops over numpy's double precision.

Gradients are compared with complex steps of the numpy cell: the imaginary part of
``f(x + i h d)`` is ``h`` times the derivative of ``f`` along ``d``, without rounding.
"""

import jax
import numpy as np
import pytest

from wpl_jax.devices.parallel import Devices
from wpl_jax.spaces.batch_normalization import EPSILON, Moments
from wpl_jax.spaces.cell_graph import CONVOLUTIONS, OPERATIONS, run_cells
from wpl_jax.spaces.cell_layout import CellMoments, Mix, Weights, Wiring
from wpl_jax.spaces.separable import Separable

CELLS, NODES, BATCH, HEIGHT, WIDTH, CHANNELS = 2, 3, 3, 4, 3, 2
IMAGES = (BATCH, HEIGHT, WIDTH, CHANNELS)
BRANCHES = (CELLS, NODES, 2)
HALVES = (*BRANCHES, 2)
STEP = 1e-30


def relu(x):
    return np.where(x.real > 0, x, 0)


def windows(x, size, beyond):
    """The images moved to each position of a window, row by row."""
    margin = (size // 2, size // 2)
    padded = np.pad(x, ((0, 0), margin, margin, (0, 0)), constant_values=beyond)
    _, height, width, _ = x.shape
    return [
        padded[:, i : i + height, j : j + width]
        for i in range(size)
        for j in range(size)
    ]


def depthwise(x, kernel):
    size, _, channels = kernel.shape
    kernels = kernel.reshape(size**2, channels)
    return sum(w * k for w, k in zip(windows(x, size, 0), kernels, strict=True))


def average_pool(x):
    return sum(windows(x, 3, 0)) / sum(windows(np.ones(x.shape), 3, 0))


def max_pool(x):
    best = np.full(x.shape, -np.inf)
    for window in windows(x, 3, -np.inf):
        best = np.where(window.real > best.real, window, best)
    return best


def normalize(x, given=None):
    """Without scale and offset, and the statistics. Variances of complex steps, too."""
    if given is None:
        mean = np.mean(x, (0, 1, 2))
        given = mean, np.mean((x - mean) ** 2, (0, 1, 2))
    mean, variance = given
    return (x - mean) / np.sqrt(variance + EPSILON), Moments(mean, variance)


def numpy_cell(first, second, weights, wiring, kept, given=None):
    """All states of a cell, one branch after the other, and the batch statistics."""
    states, found = [first, second], np.zeros((2, *weights.scale.shape), complex)
    for node, side in np.ndindex(wiring.inputs.shape):
        if side == 0:
            states.append(np.zeros(first.shape))
        x = states[wiring.inputs[node, side]]
        operation = OPERATIONS[wiring.operations[node, side]]
        if operation.startswith("separable"):
            of_size = getattr(weights, operation.replace("separable", "depthwise"))
            for half in range(2):
                place = node, side, half
                x = depthwise(relu(x), of_size[place]) @ weights.pointwise[place]
                batch_stats = given and [m[place] for m in given]
                x, found[:, *place] = normalize(x, batch_stats)
                x = x * weights.scale[place] + weights.offset[place]
        elif operation != "identity":
            x = {"average_3x3": average_pool, "max_3x3": max_pool}[operation](x)
        if operation != "identity":
            x = x * kept[node, side][:, None, None, None]
        states[-1] = states[-1] + x
    return np.stack(states), Moments(*found)


def numpy_cells(inputs, weights, wiring, kept, given=None):
    """The outputs of all cells, and the batch statistics."""
    outputs, found = list(inputs), []
    for cell in range(len(wiring.inputs)):
        own, graph, factors, there = jax.tree.map(
            lambda x: x[cell],  # noqa: B023
            (weights, wiring, kept, given),
        )
        *states, batch_stats = numpy_cell(
            *outputs[-2:], own.branches, graph, factors, there and there.branches
        )
        unused = [n for n in range(NODES) if n + 2 not in graph.inputs]
        y = sum(relu(states[0][n + 2]) @ own.output.kernel[n] for n in unused)
        y, of_output = normalize(y, there and there.output)
        outputs.append(y * own.output.scale + own.output.offset)
        found.append(CellMoments(batch_stats, of_output))
    return outputs[2:], jax.tree.map(lambda *m: np.stack(m), *found)


def doubles(tree):
    return jax.tree.map(np.float64, tree)


def assert_gradients(found, function, arguments, directions=8):
    """Compares gradients with complex steps in random directions.

    All arrays are moved at once, each by as much as makes the same difference.

    Args:
      found: The gradients, a tree like the arguments.
      function: Of the arguments in double precision, a number.
      arguments: A tree of arrays.
      directions: How many.
    """
    rng = np.random.default_rng(0)
    leaves, tree = jax.tree.flatten(doubles(arguments))
    gradients = doubles(tree.flatten_up_to(found))
    assert [g.shape for g in gradients] == [x.shape for x in leaves]
    for _ in range(directions):
        moves = [rng.normal(size=g.shape) / (np.linalg.norm(g) or 1) for g in gradients]
        moved = [x + 1j * STEP * m for x, m in zip(leaves, moves, strict=True)]
        wanted = function(tree.unflatten(moved)).imag / STEP
        dots = [np.sum(g * m) for g, m in zip(gradients, moves, strict=True)]
        # Of numbers that are each around 1.
        atol = 1e-4 * np.sqrt(len(leaves))
        np.testing.assert_allclose(sum(dots), wanted, rtol=0, atol=atol)


def assert_close(found, wanted):
    """Equal but for rounding, relative to the largest entry."""
    assert found.shape == wanted.shape
    atol = 1e-5 * np.max(np.abs(wanted))
    np.testing.assert_allclose(found, np.real(wanted), rtol=0, atol=atol)


# The first three together have every operation on a state, states that both branches
# take, and nothing but identities; the others are random.
WIRINGS = [
    ([[0, 1], [2, 0], [2, 3]], [[0, 1], [2, 3], [1, 4]]),
    ([[1, 1], [2, 2], [3, 3]], [[3, 3], [0, 0], [4, 2]]),
    ([[1, 0], [0, 1], [1, 0]], [[4, 4], [4, 4], [4, 4]]),
]


def make_graph(number):
    if number < len(WIRINGS):
        return WIRINGS[number]
    rng = np.random.default_rng(number)
    inputs = [rng.integers(0, node + 2, 2) for node in range(NODES)]
    return inputs, rng.integers(0, len(OPERATIONS), (NODES, 2))


def make_wiring(number):
    """Of each cell another."""
    graphs = [make_graph(number + cell) for cell in range(CELLS)]
    return Wiring(*map(np.int32, zip(*graphs, strict=True)))


def make_arguments(number):
    """What is differentiated, drop-path's factors, and gradients of the outputs."""
    rng = np.random.default_rng(number)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    branches = Separable(
        normal(*HALVES, 3, 3, CHANNELS),
        normal(*HALVES, 5, 5, CHANNELS),
        normal(*HALVES, CHANNELS, CHANNELS),
        normal(*HALVES, CHANNELS),
        normal(*HALVES, CHANNELS),
    )
    mix = Mix(
        normal(CELLS, NODES, CHANNELS, CHANNELS),
        normal(CELLS, CHANNELS),
        normal(CELLS, CHANNELS),
    )
    kept = rng.choice(np.float32([0, 1.5]), (*BRANCHES, BATCH), p=[1 / 3, 2 / 3])
    inputs, of_outputs = ((normal(*IMAGES), normal(*IMAGES)) for _ in range(2))
    # That of the batch statistics must not act: they carry none.
    gradients = of_outputs, random_batch_stats(rng.normal)
    return (inputs, Weights(branches, mix)), kept, gradients


def random_batch_stats(draw, *shape):
    def batch_stats(*of_what):
        size = *shape, *of_what, CHANNELS
        return Moments(*(draw(size=size).astype(np.float32) for _ in range(2)))

    return CellMoments(batch_stats(*HALVES), batch_stats(CELLS))


traces = []


def cells_and_gradients(arguments, wiring, kept, batch_stats, gradients):
    traces.append(batch_stats is None)
    found, backward = jax.vjp(
        lambda *arguments: run_cells(*arguments, wiring, kept, batch_stats), *arguments
    )
    return *found, backward(gradients)


run = jax.jit(cells_and_gradients)
# As per-example gradients are computed: a batch of one, and all else but the graph of
# each example.
run_each = jax.jit(jax.vmap(cells_and_gradients, in_axes=(0, None, 0, 0, 0)))


def total(outputs, gradients):
    """What has the outputs' gradients for its own."""
    return sum(np.sum(y * g) for y, g in zip(outputs, gradients, strict=True))


@pytest.mark.slow_except("0", "4", "7")
@pytest.mark.parametrize("number", range(9))
def test_cells_and_their_gradients_are_those_of_plain_loops(number):
    wiring, (arguments, kept, gradients) = make_wiring(number), make_arguments(number)
    outputs, batch_stats, of_arguments = run(arguments, wiring, kept, None, gradients)

    def cells(arguments):
        return numpy_cells(*arguments, wiring, np.float64(kept))

    wanted, wanted_batch_stats = cells(doubles(arguments))
    jax.tree.map(assert_close, list(outputs), wanted)
    jax.tree.map(assert_close, batch_stats, wanted_batch_stats)
    assert_gradients(
        of_arguments, lambda a: total(cells(a)[0], gradients[0]), arguments
    )


@pytest.mark.slow
def test_a_single_cell_is_the_first_and_the_last():
    wiring, (arguments, kept, gradients) = make_wiring(0), make_arguments(0)
    inputs, weights = arguments
    weights, wiring, kept = jax.tree.map(lambda x: x[:1], (weights, wiring, kept))
    of_outputs, of_batch_stats = gradients
    gradients = of_outputs, jax.tree.map(lambda m: m[:1], of_batch_stats)
    arguments = inputs, weights
    (first, last), _, found = run(arguments, wiring, kept, None, gradients)
    np.testing.assert_array_equal(first, last)

    def cell(arguments):
        return numpy_cells(*arguments, wiring, np.float64(kept))[0][0]

    assert_close(last, cell(doubles(arguments)))
    assert_gradients(found, lambda a: np.sum(cell(a) * sum(of_outputs)), arguments)


@pytest.mark.parametrize("number", range(1, 9))
def test_weights_that_a_cell_does_not_use_have_no_gradient(number):
    wiring, (arguments, kept, gradients) = make_wiring(number), make_arguments(number)
    kept = np.ones_like(kept)
    _, batch_stats, (_, found) = run(arguments, wiring, kept, None, gradients)
    for branch in np.ndindex(BRANCHES):
        operation = wiring.operations[branch]
        convolves = operation < CONVOLUTIONS
        used = (operation == 0, operation == 1, *(convolves,) * 3)
        for gradient, is_used in zip(found.branches, used, strict=True):
            assert np.any(np.asarray(gradient[branch]) != 0) == is_used
        for moment in batch_stats.branches:
            assert np.any(np.asarray(moment[branch]) != 0) == convolves
    for cell, node in np.ndindex(BRANCHES[:2]):
        mixed = np.any(np.asarray(found.output.kernel[cell, node]) != 0)
        assert mixed == (node + 2 not in wiring.inputs[cell])


@pytest.mark.parametrize("number", [0, 1, 7])
def test_single_images_have_gradients_with_given_batch_stats(number):
    wiring, (arguments, kept, gradients) = make_wiring(number), make_arguments(number)
    rng = np.random.default_rng(number)
    given = random_batch_stats(lambda size: rng.uniform(0.5, 2, size), BATCH)
    (inputs, weights), (of_outputs, of_batch_stats) = arguments, gradients
    each = (
        (alone(inputs), repeated(weights)),
        np.moveaxis(kept, -1, 0)[..., None],
        given,
        (alone(of_outputs), repeated(of_batch_stats)),
    )
    found = run_each(each[0], wiring, *each[1:])
    convolves = (wiring.operations < CONVOLUTIONS)[..., None, None]
    for n in range(BATCH):
        assert_one_image(*jax.tree.map(lambda x: x[n], (each, found)), wiring)  # noqa: B023
        # Moments that were given come back where they were used.
        for a, b in zip(found[1].branches, given.branches, strict=True):
            np.testing.assert_array_equal(a[n], np.where(convolves, b[n], 0))
        jax.tree.map(np.testing.assert_array_equal, found[1].output, given.output)


def alone(images):
    return jax.tree.map(lambda x: x[:, None], images)


def repeated(tree):
    return jax.tree.map(lambda x: np.stack([x] * BATCH), tree)


def assert_one_image(each, found, wiring):
    arguments, kept, given, (of_outputs, _) = each

    def outputs(arguments):
        return numpy_cells(*arguments, wiring, doubles(kept), doubles(given))[0]

    jax.tree.map(assert_close, list(found[0]), outputs(doubles(arguments)))
    assert_gradients(found[2], lambda a: total(outputs(a), of_outputs), arguments)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 7])
def test_devices_that_share_a_batch_make_the_same_of_it(number):
    wiring, (arguments, kept, gradients) = make_wiring(number), make_arguments(number)
    found = run_shared(*DEVICES.replicate((arguments, wiring, kept, gradients)))
    wanted = run(arguments, wiring, kept, None, gradients)
    jax.tree.map(assert_close, found, jax.device_get(wanted))


DEVICES = Devices(BATCH)  # An image each.


@DEVICES.compile
def run_shared(arguments, wiring, kept, gradients):
    axis = DEVICES.batch
    (inputs, weights), (of_outputs, of_batch_stats) = arguments, gradients
    (outputs, batch_stats), backward = jax.vjp(
        lambda *mine: run_cells(*mine, wiring, axis.shard(kept, -1), axis=axis),
        *(axis.shard(inputs), weights),
    )
    of_inputs, of_weights = backward((axis.shard(of_outputs), of_batch_stats))
    return (
        axis.all_gather(outputs),
        batch_stats,
        (axis.all_gather(of_inputs), axis.sum(of_weights)),
    )


def test_all_wirings_share_one_compilation():
    arguments, kept, gradients = make_arguments(0)
    run(arguments, make_wiring(0), kept, None, gradients)
    before = len(traces)
    for number in range(100):
        run(arguments, make_wiring(number), kept, None, gradients)
    assert len(traces) == before
