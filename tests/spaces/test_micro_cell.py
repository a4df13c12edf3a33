"""The network of micro cells against one of plain loops in numpy's double precision."""

import functools
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_cell_graph import (
    assert_close,
    assert_gradients,
    doubles,
    normalize,
    numpy_cell,
    relu,
    windows,
)

from wpl_jax.devices.parallel import Devices
from wpl_jax.spaces import micro_cell
from wpl_jax.spaces.architecture_json import (
    architecture_from_json,
    architecture_to_json,
)
from wpl_jax.spaces.batch_normalization import EPSILON, Moments
from wpl_jax.spaces.cell_graph import OPERATIONS
from wpl_jax.spaces.cell_layout import CellMoments, Wiring
from wpl_jax.spaces.images import Noise
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.separable import Separable
from wpl_jax.supernet import (
    PAD,
    Architecture,
    count_parameters,
    gather,
    is_all,
    mask,
    num_choices,
    real_rows,
    scatter,
)

# Rows that are odd in the first stages and too many for one window of the auxiliary
# head in the last; columns that are odd or even, and too few for such a window.
SPACE = MicroCell((29, 5, 2), 3, num_nodes=3, filters=2, layers=3, auxiliary=True)
BATCH = 4


def draw_choice(space, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, num_choices(space.decisions)).astype(np.int32)


def random_params(space, seed):
    """Like the initial ones, but with scales, offsets and biases of all kinds."""
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        x = rng.normal(size=shape.shape)
        match path[-1].key:
            case "scale":
                x = 1 + 0.3 * x
            case "offset" | "bias":
                x = 0.3 * x
            case _:
                x = x / math.sqrt(shape.shape[-2])
        return x.astype(np.float32)

    shapes = jax.eval_shape(space.init, jax.random.key(0))
    return jax.tree.map_with_path(draw, shapes)


def random_images(space, batch, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, *space.image_shape)).astype(np.float32)


# What a child should be: the documented network, by the names of its decisions.


def read(space, choice):
    """The wiring of each cell, as its decisions are called."""
    states = {"input_1": 0, "input_2": 1}
    states |= {f"node_{node}": node + 2 for node in range(space.num_nodes)}
    names = {
        decision.name: decision.choices[index]
        for decision, index in zip(space.decisions, choice, strict=True)
    }
    return {
        cell: Wiring(
            *np.array(
                [
                    [
                        [of[names[f"{cell}_{node}_{what}_{side}"]] for side in "ab"]
                        for node in range(space.num_nodes)
                    ]
                    for what, of in (
                        ("input", states),
                        ("operation", {name: i for i, name in enumerate(OPERATIONS)}),
                    )
                ]
            )
        )
        for cell in ("normal", "reduction")
    }


def cells_of_stage(space, stage):
    return ["reduction"] * (stage > 0) + ["normal"] * (space.layers // 3)


def unused_nodes(wiring):
    return [n for n in range(len(wiring.inputs)) if n + 2 not in wiring.inputs]


def used_rows(space, wirings, stage):
    """The rows that a child uses of a stage's stacks, by cell, node, side and half.

    Stacks are ordered by cell, side, node and input; of separable convolutions, by
    which of the two they are as well.
    """
    number, found = 0, {name: {} for name in (*Separable._fields, "output")}
    for cell, kind in enumerate(cells_of_stage(space, stage)):
        for side in range(2):
            for node in range(space.num_nodes):
                operation = OPERATIONS[wirings[kind].operations[node, side]]
                for state in range(node + 2):
                    place = cell, node, side
                    if state == wirings[kind].inputs[node, side]:
                        if operation == "separable_3x3":
                            found["depthwise_3x3"][place] = number
                            found["pointwise"][place] = 2 * number
                        if operation == "separable_5x5":
                            found["depthwise_5x5"][place] = number
                            found["pointwise"][place] = 2 * number + 1
                    number += 1
        for node in unused_nodes(wirings[kind]):
            found["output"][cell, node] = cell * space.num_nodes + node
    found["scale"] = found["offset"] = found["pointwise"]
    return found


def numpy_network(space, params, choice, images, given=None):
    """Features, logits, the auxiliary head's logits and a tree of batch statistics."""
    wirings = read(space, choice)
    given = given or {}

    def normalized(x, child, batch_stats):
        x, found = normalize(x, batch_stats)
        if space.affine:
            x = x * child["scale"] + child["offset"]
        return x, found

    def product(x, child, batch_stats):
        return normalized(x @ child["kernel"], child, batch_stats)

    found = {}
    patches = np.concatenate(windows(images, 3, 0), -1)
    x, found["stem"] = product(patches, params["stem"], given.get("stem"))
    for stage in range(3):
        child, of_stage = params[f"stage_{stage}"], given.get(f"stage_{stage}", {})
        ins, outs, batch_stats = [], [], {}
        for name in ("first", "second"):
            y = x if stage > 0 and name == "second" else relu(x)
            y = y @ child[name]["kernel"] if stage == 0 else halved(y, child[name])
            y, batch_stats[name] = normalized(y, child[name], of_stage.get(name))
            ins.append(y)
        rows = used_rows(space, wirings, stage)
        for cell, kind in enumerate(cells_of_stage(space, stage)):
            of_cell = jax.tree.map(lambda m: m[cell], of_stage.get("cells"))  # noqa: B023
            y, found_here = run_cell(
                space, ins[-2:], child["cells"], rows, cell, wirings[kind], of_cell
            )
            kernel = child["cells"]["output"]["kernel"]
            nodes = unused_nodes(wirings[kind])
            y = sum(relu(y[n + 2]) @ kernel[rows["output"][cell, n]] for n in nodes)
            affine = {k: child["cells"]["output"][k][cell] for k in affine_names(space)}
            y, of_output = normalized(y, affine, of_cell and of_cell.output)
            outs.append((y, CellMoments(found_here, of_output)))
            ins.append(y)
        x = ins[-1]
        batch_stats["cells"] = jax.tree.map(
            lambda *m: np.stack(m), *(m for _, m in outs)
        )
        found[f"stage_{stage}"] = batch_stats
    features = np.mean(relu(x), (1, 2))
    auxiliary = None
    if space.auxiliary:
        child, of_head = params["auxiliary"], given.get("auxiliary", {})
        x = relu(outs[0][0])
        starts = [[0] if n < 5 else range(0, n - 4, 3) for n in x.shape[1:3]]
        pooled = [
            np.mean(x[:, r : r + 5, c : c + 5], (1, 2))
            for r in starts[0]
            for c in starts[1]
        ]
        y = np.stack(pooled, 1)[:, None]
        y, first = product(y, child["first"], of_head.get("first"))
        y = relu(y).reshape(len(y), 1, 1, -1)
        y, second = product(y, child["second"], of_head.get("second"))
        auxiliary = linear(relu(y[:, 0, 0]), child["classifier"])
        found["auxiliary"] = {"first": first, "second": second}
    return features, linear(features, params["classifier"]), auxiliary, found


def affine_names(space):
    return ("scale", "offset") if space.affine else ()


def linear(x, child):
    return x @ child["kernel"] + child["bias"]


def halved(x, child):
    """Pixels (2r, 2c) make half of the channels, (2r + 1, 2c + 1) the others."""
    kernel = child["kernel"]
    batch, height, width, _ = x.shape
    rows, columns, half = -(-height // 2), -(-width // 2), kernel.shape[1] // 2
    y = np.zeros((batch, rows, columns, 2 * half), complex)
    for r, c in np.ndindex(rows, columns):
        y[:, r, c, :half] = x[:, 2 * r, 2 * c] @ kernel[:, :half]
        if 2 * r + 1 < height and 2 * c + 1 < width:
            y[:, r, c, half:] = x[:, 2 * r + 1, 2 * c + 1] @ kernel[:, half:]
    return y


def run_cell(space, inputs, stacks, rows, cell, wiring, given):
    """The states of one cell of a stage, with the weights that its branches use."""
    weights = {}
    for name in Separable._fields:
        if name in stacks:
            shape = (space.num_nodes, 2, *stacks[name].shape[1:])
            weights[name] = np.zeros(shape, stacks[name].dtype)
        else:
            fill = {"scale": np.ones, "offset": np.zeros}[name]
            weights[name] = fill((space.num_nodes, 2, *stacks["pointwise"].shape[1:3]))
            continue
        for (of_cell, node, side), row in rows[name].items():
            if of_cell == cell:
                weights[name][node, side] = stacks[name][row]
    kept = np.ones((space.num_nodes, 2, len(inputs[0])))
    of_branches = given and given.branches
    return numpy_cell(*inputs, Separable(**weights), wiring, kept, of_branches)


# Everything of training that the tests look at, compiled once.

traces = []


@jax.jit
def train(params, choice, images, gradients, key, drop_path):
    traces.append(1)

    def run(child):
        noise = Noise(key, drop_path=drop_path)
        found = SPACE.apply(child, Architecture(choice), images, noise=noise)
        return (found.logits, found.auxiliary), found.batch_stats

    rows = SPACE.rows(Architecture(choice))
    child, back_to_params = jax.vjp(lambda params: gather(params, rows), params)
    (outputs, batch_stats), backward = jax.vjp(run, child)
    # Moments carry no gradient: what acts on them must not matter.
    [of_child] = backward((gradients, jax.tree.map(jnp.ones_like, batch_stats)))
    [of_params] = back_to_params(of_child)
    filled = jax.tree.map(lambda there: there == 0, real_rows(child, rows))
    of_filled = jax.tree.map(lambda g, f: jnp.where(f, g, 0), of_child, filled)
    return outputs, batch_stats, Gradients(of_params, of_filled)


class Gradients(NamedTuple):
    params: Any
    filled: Any  # of the places of a child that hold nothing; zeros elsewhere


@functools.cache
def of_space(seed):
    """Parameters, an architecture, images, and gradients of both heads' logits."""
    rng = np.random.default_rng(seed)
    gradients = tuple(rng.normal(size=(2, BATCH, 3)).astype(np.float32))
    return (
        random_params(SPACE, seed),
        draw_choice(SPACE, seed),
        random_images(SPACE, BATCH, seed),
        gradients,
    )


def assert_same_batch_stats(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(assert_close, found, wanted)


@pytest.mark.parametrize("seed", range(4))
def test_a_child_is_the_documented_network(seed):
    arguments = of_space(seed)
    # A key does nothing without a rate.
    outputs, batch_stats, _ = train(*arguments, jax.random.key(seed), 0.0)
    params, choice, images, _ = arguments
    wanted = numpy_network(SPACE, doubles(params), choice, doubles(images))
    _, *wanted_outputs, wanted_batch_stats = wanted
    for a, b in zip(outputs, wanted_outputs, strict=True):
        assert_close(a, b)
    assert_same_batch_stats(batch_stats, wanted_batch_stats)


@pytest.mark.parametrize("seed", range(4))
def test_its_gradients_are_those_of_the_documented_network(seed):
    params, choice, images, gradients = of_space(seed)
    *_, found = train(*of_space(seed), jax.random.key(0), 0.0)

    def objective(params):
        wanted = numpy_network(SPACE, params, choice, doubles(images))
        return sum(np.sum(x * g) for x, g in zip(wanted[1:3], gradients, strict=True))

    assert_gradients(found.params, objective, params, directions=3)


# Devices.


SHARING = MicroCell((8, 8, 2), 3, num_nodes=1, filters=4, layers=3, auxiliary=True)


def train_on(count):
    """Scores, statistics and gradients of a network whose batch devices share."""
    devices = Devices(count)

    @devices.compile
    def run(params, choice, images, gradients, key):
        axis = devices.batch
        noise = Noise(key, dropout=0.5, drop_path=0.5)

        def total(params):
            child = gather(params, SHARING.rows(Architecture(choice)))
            found = SHARING.apply(
                child, Architecture(choice), axis.shard(images), noise=noise, axis=axis
            )
            scores = jnp.stack([found.logits, found.auxiliary], 1)
            return jnp.sum(scores * axis.shard(gradients)), (scores, found.batch_stats)

        gradient, (scores, batch_stats) = jax.grad(total, has_aux=True)(params)
        return axis.all_gather(scores), batch_stats, axis.sum(gradient)

    gradients = np.random.default_rng(0).normal(size=(16, 2, 3)).astype(np.float32)
    arguments = (
        random_params(SHARING, 0),
        of_one_node((0, 1), ("separable_3x3", "max_3x3")),
        random_images(SHARING, len(gradients)),
        gradients,
        jax.random.key(0),
    )
    return jax.device_get(run(*devices.replicate(arguments)))


@pytest.mark.slow
def test_devices_that_share_a_batch_make_the_same_of_it(monkeypatch):
    def cells(inputs, weights, wiring, kept, batch_stats, axis):
        """The cells have a test of their own, and take their time to compile."""
        factor = jnp.mean(kept, (0, 1, 2))[:, None, None, None]
        return (inputs[0] * factor + inputs[1], inputs[0] - inputs[1] * factor), ()

    monkeypatch.setattr(micro_cell, "run_cells", cells)
    scores, batch_stats, gradient = train_on(2)
    wanted_scores, wanted_batch_stats, wanted_gradient = train_on(1)
    assert_close(scores, wanted_scores)
    assert_same_batch_stats(batch_stats, wanted_batch_stats)
    jax.tree.map(assert_close, gradient, wanted_gradient)
    for stage in map("stage_{}".format, range(3)):
        gradient[stage].pop("cells")
    for part in jax.tree.leaves(gradient):
        assert np.any(part)


# Which parameters are a child's.


@jax.jit
def cut_and_put(params, choice):
    rows = SPACE.rows(Architecture(choice))
    child = gather(params, rows)
    moved = scatter(params, rows, jax.tree.map(lambda c: c + 1, child))
    count = count_parameters(params, rows)
    return rows_or_none(rows), mask(params, rows), moved, count


def rows_or_none(rows):
    """Rows as a compiled function can return them."""
    return jax.tree.map(lambda r: None if is_all(r) else r, rows)


def used_parameters(choice, params):
    """A tree like the parameters, true where the child uses a row, by plain loops."""
    used = jax.tree.map(lambda p: np.ones(p.shape, bool), params)
    wirings = read(SPACE, choice)
    for stage in range(3):
        stacks = used[f"stage_{stage}"]["cells"]
        for name, rows in used_rows(SPACE, wirings, stage).items():
            of_name = stacks["output"]["kernel"] if name == "output" else stacks[name]
            of_name[[n for n in range(len(of_name)) if n not in rows.values()]] = False
    return used


@pytest.mark.parametrize("seed", range(8))
def test_a_child_takes_its_rows_and_is_put_back_where_it_was(seed):
    params, choice = of_space(0)[0], draw_choice(SPACE, seed)
    rows, found_mask, moved, count = cut_and_put(params, choice)
    used = used_parameters(choice, params)
    jax.tree.map(
        lambda m, u: np.testing.assert_array_equal(np.broadcast_to(m, u.shape), u),
        found_mask,
        used,
    )
    jax.tree.map(
        lambda new, old, u: np.testing.assert_array_equal(
            new, np.where(u, old + 1, old)
        ),
        moved,
        params,
        used,
    )
    assert int(count) == sum(np.sum(u) for u in jax.tree.leaves(used))
    for stage in range(3):
        stacks, of_stage = (t[f"stage_{stage}"]["cells"] for t in (params, rows))
        for name, index in of_stage.items():
            stack = stacks[name]
            if name == "output":
                stack, index = stack["kernel"], index["kernel"]
            assert len(set(index.tolist())) == len(index)
            assert np.all((index >= 0) & (index < len(stack)) | (index >= PAD))


@pytest.mark.parametrize("seed", range(4))
def test_only_a_childs_parameters_have_gradients(seed):
    params, choice, *_ = arguments = of_space(seed)
    # In numpy: comparisons would be compiled for each shape.
    *_, found = jax.device_get(train(*arguments, jax.random.key(0), 0.0))
    used = used_parameters(choice, params)
    # Nor have the places of a child that hold none of them.
    assert all(np.all(gradient == 0) for gradient in jax.tree.leaves(found.filled))
    found, used = jax.tree.leaves(found.params), jax.tree.leaves(used)
    for gradient, u in zip(found, used, strict=True):
        assert np.all(gradient[~u] == 0)
        # Of each row that is used, something acts on what comes out.
        of_rows = np.any(gradient != 0, tuple(range(1, gradient.ndim)))
        assert u.ndim < 3 or np.all(of_rows == np.any(u, tuple(range(1, u.ndim))))


def test_the_parameters_of_one_child_are_as_many_as_counted_by_hand():
    # A 3x3 and a 5x5 separable convolution in the normal cell, whose last two nodes
    # are used by nobody; nothing with weights in the reduction cell, of which that
    # holds for the last node alone.
    normal = [[0, 1, 0, 4], [2, 0, 1, 3], [2, 2, 2, 4]]
    reduction = [[0, 1, 2, 3], [2, 2, 4, 4], [3, 1, 3, 2]]
    choice = np.ravel([normal, reduction]).astype(np.int32)
    *_, count = cut_and_put(of_space(0)[0], choice)

    def separable(size, filters):  # twice through both kernels, scale and offset
        return 2 * (size**2 * filters + filters**2 + 2 * filters)

    def product(ins, outs):  # and its normalization
        return ins * outs + 2 * outs

    expected = product(9 * 2, 6) + 8 * 3 + 3
    for ins, filters, reductions in ((6, 2, 0), (2, 4, 1), (4, 8, 1)):
        expected += 2 * product(ins, filters)
        expected += separable(3, filters) + separable(5, filters)
        expected += 2 * filters**2 + 2 * filters  # output of the normal cell
        expected += reductions * (filters**2 + 2 * filters)
    # Two windows of five rows in eight, and all of two columns.
    expected += product(8, 128) + product(2 * 128, 768) + 768 * 3 + 3
    assert int(count) == expected


# Drop-path and dropout.

# One node, so that a cell makes nothing at all of an image whose two branches are
# dropped; one image, so that the cell's batch statistics tell.
DROPPING = MicroCell((8, 9, 1), 8, num_nodes=1, filters=2, layers=6)
DROPOUT, DRAWS = 0.25, 250


@jax.jit
def drop(params, choice, images, key, drop_path):
    traces_of_drop.append(1)
    child = gather(params, DROPPING.rows(Architecture(choice)))
    noise = Noise(key, dropout=DROPOUT, drop_path=drop_path)
    found = DROPPING.apply(child, Architecture(choice), images, noise=noise)
    return found.logits, found.batch_stats


traces_of_drop = []


@functools.cache
def of_dropping():
    """Parameters with logits that are the features, and offsets above zero."""
    params = random_params(DROPPING, 0)
    params = jax.tree.map_with_path(
        lambda path, p: np.abs(p) if path[-1].key == "offset" else p, params
    )
    params["classifier"] = {
        "kernel": np.eye(8, dtype=np.float32),
        "bias": np.zeros(8, np.float32),
    }
    return params, random_images(DROPPING, 1)


def of_one_node(inputs, operations):
    """The choice whose cells both have these branches."""
    chosen = [*inputs, *(OPERATIONS.index(name) for name in operations)]
    return np.int32(chosen * 2)


@functools.cache
def draw(inputs, operations, drop_path, draws=DRAWS):
    """Logits and batch statistics of the child of one node, many times."""
    choice = of_one_node(inputs, operations)
    params, images = of_dropping()
    return [
        jax.device_get(drop(params, choice, images, key, drop_path))
        for key in jax.random.split(jax.random.key(1), draws)
    ]


AVERAGES = (1, 1), ("average_3x3",) * 2  # both of the newer input


def numpy_dropping(inputs, operations):
    choice = of_one_node(inputs, operations)
    params, images = of_dropping()
    return numpy_network(DROPPING, doubles(params), choice, doubles(images))


@pytest.mark.slow
def test_dropout_takes_features_away_and_keeps_their_mean():
    features = numpy_dropping(*AVERAGES)[0][0]
    logits = np.array([logits[0] for logits, _ in draw(*AVERAGES, 0.0)])
    kept = logits != 0
    wanted = np.where(kept, features / (1 - DROPOUT), 0)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5)
    for of_feature in kept.T:
        assert scipy.stats.binomtest(of_feature.sum(), DRAWS, 1 - DROPOUT).pvalue > 1e-4
    # Each by itself.
    correlations = np.corrcoef(kept.T) - np.eye(8)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(DRAWS)


def output_means(batch_stats):
    """Of what each cell gives to its normalization, from the first to the last."""
    return [
        mean
        for stage in range(3)
        for mean in batch_stats[f"stage_{stage}"]["cells"].output.mean
    ]


@pytest.mark.slow
def test_drop_path_drops_branches_more_often_the_deeper_their_cell():
    dropped = np.array(
        [
            [np.all(m == 0) for m in output_means(batch_stats)]
            for _, batch_stats in draw(*AVERAGES, 0.9)
        ]
    )
    cells = dropped.shape[1]
    assert cells == 8
    for depth, of_cell in enumerate(dropped.T, 1):
        # Both branches are, each for itself.
        rate = (0.9 * depth / cells) ** 2
        assert scipy.stats.binomtest(of_cell.sum(), DRAWS, rate).pvalue > 1e-4
    correlations = np.corrcoef(dropped.T) - np.eye(cells)
    assert np.abs(correlations).max() < 4.5 / np.sqrt(DRAWS)


@pytest.mark.slow
def test_drop_path_keeps_the_mean_of_what_a_branch_makes():
    # In the first cell, what comes before is the same in all draws.
    plain = output_means(numpy_dropping(*AVERAGES)[-1])[0]
    found = np.array([output_means(m)[0] for _, m in draw(*AVERAGES, 0.9)])
    rate = 0.9 / 8
    number = np.round(found[:, 0] / plain[0] * 2 * (1 - rate))
    assert set(number) == {0, 1, 2}
    np.testing.assert_allclose(
        found, number[:, None] / 2 / (1 - rate) * plain.real, rtol=1e-5
    )


@pytest.mark.slow
def test_drop_path_leaves_identities_alone():
    identities = (0, 1), ("identity",) * 2
    wanted = output_means(numpy_dropping(*identities)[-1])
    for _, batch_stats in draw(*identities, 0.9, draws=40):
        for a, b in zip(output_means(batch_stats), wanted, strict=True):
            assert_close(a, b)


def test_drop_path_drops_each_image_by_itself():
    # All branches of normal cells are on a cell's inputs, and no identities.
    normal = [[0, 1, 0, 1], [1, 0, 2, 3], [1, 1, 3, 0]]
    choice = np.ravel([normal, [[0, 1, 4, 4]] * 3]).astype(np.int32)
    params, _, images, gradients = of_space(0)
    patterns = []
    for key in jax.random.split(jax.random.key(0), 40):
        (logits, _), batch_stats, _ = train(params, choice, images, gradients, key, 0.9)
        # What is left of an image that the last cell drops: zeros, normalized.
        of_output, affine = (
            jax.tree.map(lambda x: np.float64(x[-1]), tree)
            for tree in (
                batch_stats["stage_2"]["cells"].output,
                {
                    k: params["stage_2"]["cells"]["output"][k]
                    for k in ("scale", "offset")
                },
            )
        )
        x = -of_output.mean / np.sqrt(of_output.variance + EPSILON)
        x = relu(x * affine["scale"] + affine["offset"])
        constant = linear(x, doubles(params["classifier"]))
        patterns.append(np.max(np.abs(logits - constant), 1) < 1e-5)
    patterns = np.array(patterns)
    # All six branches.
    assert scipy.stats.binomtest(patterns.sum(), patterns.size, 0.9**6).pvalue > 1e-4
    assert np.any(patterns.any(1) & ~patterns.all(1))


# Given batch statistics, without scale and offset.

PLAIN = MicroCell((5, 8, 1), 3, num_nodes=2, filters=2, layers=3, affine=False)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, None, 0, 0))
def evaluate(params, choice, image, batch_stats):
    child = gather(params, PLAIN.rows(Architecture(choice)))
    return PLAIN.apply(
        child, Architecture(choice), image[None], batch_stats=batch_stats
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_single_images_are_normalized_with_given_batch_stats(seed):
    params, choice = random_params(PLAIN, seed), draw_choice(PLAIN, seed)
    images = random_images(PLAIN, 3, seed)
    rng = np.random.default_rng(seed)
    shapes = numpy_network(PLAIN, doubles(params), choice, doubles(images))[-1]

    def draw(batch_stats):
        shape = (len(images), *batch_stats.mean.shape)
        mean, variance = rng.normal(size=shape), rng.uniform(0.5, 2, shape)
        return Moments(np.float32(mean), np.float32(variance))

    batch_stats = jax.tree.map(draw, shapes, is_leaf=lambda m: isinstance(m, Moments))
    found = evaluate(params, choice, images, batch_stats)
    for n in range(len(images)):
        wanted = numpy_network(
            PLAIN,
            doubles(params),
            choice,
            doubles(images[n : n + 1]),
            doubles(jax.tree.map(lambda m: m[n], batch_stats)),  # noqa: B023
        )
        assert_close(found.logits[n], wanted[1])
        of_image = jax.tree.map(lambda m: m[n], found.batch_stats)  # noqa: B023
        assert_same_batch_stats(of_image, wanted[-1])


@pytest.mark.slow
def test_all_architectures_share_one_compilation():
    params, images = of_dropping()
    for seed in range(300):
        drop(params, draw_choice(DROPPING, seed), images, jax.random.key(0), 0.5)
    params, _, images, gradients = of_space(0)
    for seed in range(20):
        choice = draw_choice(SPACE, seed)
        train(params, choice, images, gradients, jax.random.key(0), 0.5)
    assert len(traces_of_drop) == len(traces) == 1


@pytest.mark.slow_except("False")
@pytest.mark.parametrize("affine", [True, False])
def test_half_precision_stays_half_precision(affine):
    space = MicroCell((4, 4, 1), 3, num_nodes=1, filters=2, layers=3, affine=affine)
    params = jax.tree.map(
        lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16),
        jax.eval_shape(space.init, jax.random.key(0)),
    )
    choice = jnp.asarray(draw_choice(space, 0))

    def loss(params, images):
        child = gather(params, space.rows(Architecture(choice)))
        noise = Noise(jax.random.key(0), dropout=0.1, drop_path=0.1)
        found = space.apply(child, Architecture(choice), images, noise=noise)
        return jnp.sum(found.logits), found

    images = jax.ShapeDtypeStruct((2, *space.image_shape), jnp.bfloat16)
    gradients, found = jax.eval_shape(jax.grad(loss, has_aux=True), params, images)
    assert gradients == params
    assert found.logits.dtype == jnp.bfloat16
    assert {m.dtype for m in jax.tree.leaves(found.batch_stats)} == {
        np.dtype(np.float32)
    }


# The space.


def test_decisions_are_readable_and_ordered_where_they_are_of_states():
    decisions = MicroCell((4, 4, 1), 2, num_nodes=2).decisions
    assert [d.name for d in decisions] == [
        f"{cell}_{node}_{what}_{side}"
        for cell in ("normal", "reduction")
        for node in (0, 1)
        for what in ("input", "operation")
        for side in ("a", "b")
    ]
    assert num_choices(decisions) == (2, 2, 5, 5, 3, 3, 5, 5) * 2
    assert decisions[4].choices == ("input_1", "input_2", "node_0")
    assert decisions[6].choices == (
        "separable_3x3",
        "separable_5x5",
        "average_3x3",
        "max_3x3",
        "identity",
    )
    assert [d.ordered for d in decisions] == [True, True, False, False] * 4
    assert len(MicroCell((4, 4, 1), 2).decisions) == 2 * 5 * 4


@pytest.mark.parametrize("seed", range(10))
def test_an_architecture_comes_back_from_json(seed):
    choice = draw_choice(SPACE, seed)
    text = architecture_to_json(SPACE, choice)
    np.testing.assert_array_equal(architecture_from_json(SPACE, text), choice)


@pytest.mark.parametrize("seed", range(10))
def test_graphs_show_both_cells_as_chosen(seed):
    choice = draw_choice(SPACE, seed)
    names = json.loads(architecture_to_json(SPACE, choice))["decisions"]
    graphs = SPACE.graphs(choice)
    assert list(graphs) == ["normal", "reduction"]
    labels = {"input_1": "h[-2]", "input_2": "h[-1]"}
    labels |= {f"node_{node}": str(node) for node in range(3)}
    for cell, (nodes, edges) in graphs.items():
        wanted = [
            (
                labels[names[f"{cell}_{node}_input_{side}"]],
                names[f"{cell}_{node}_operation_{side}"].replace("_", " "),
                str(node),
            )
            for node in range(3)
            for side in "ab"
        ]
        used = {source for source, *_ in wanted}
        assert {a for a, b, _ in edges if b == "out"} == set("012") - used
        # Operations are nodes in between: one edge comes in, one goes out.
        found = []
        for name in nodes.keys() - {"h[-2]", "h[-1]", *"012", "out"}:
            [source] = [a for a, b, _ in edges if b == name]
            [target] = [b for a, b, _ in edges if a == name]
            found.append((source, nodes[name], target))
        assert sorted(found) == sorted(wanted)
        # That is all, and each node comes after those that feed it.
        assert len(edges) == 2 * len(wanted) + 3 - len(used & set("012"))
        order = list(nodes)
        assert all(order.index(a) < order.index(b) for a, b, _ in edges)


def test_spaces_with_the_same_settings_are_equal():
    again = MicroCell((29, 5, 2), 3, num_nodes=3, filters=2, layers=3, auxiliary=True)
    assert again == SPACE
    assert hash(again) == hash(SPACE)
    assert again != PLAIN


def test_initial_parameters_are_hes_and_normalization_is_none(monkeypatch):
    def draw(key, shape):
        """numpy's: to compile a generator for each shape takes seconds."""
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return rng.normal(size=shape)

    monkeypatch.setattr(jax.random, "normal", draw)
    space = MicroCell((4, 4, 2), 7, num_nodes=2, filters=4, layers=3)
    params = jax.device_get(space.init(jax.random.key(0)))
    sums = {"stem": 9 * 2, "classifier": 16}  # what one output adds up
    for stage, channels in enumerate((12, 4, 8)):
        filters = 4 * 2**stage
        name = f"stage_{stage}"
        sums |= {(name, "first"): channels, (name, "second"): channels}
        sums |= {(name, "depthwise_3x3"): 9, (name, "depthwise_5x5"): 25}
        sums |= {(name, "pointwise"): filters, (name, "output"): filters}
    seen = set()
    for path, leaf in jax.tree.leaves_with_path(params):
        keys = [k.key for k in path]
        assert leaf.dtype == np.float32 or keys[-1] not in ("offset", "bias", "scale")
        if keys[-1] in ("offset", "bias"):
            assert np.all(leaf == 0)
        elif keys[-1] == "scale":
            assert np.all(leaf == 1)
        else:
            place = [k for k in keys if k not in ("kernel", "cells")]
            fan_in = sums[place[0] if len(place) == 1 else tuple(place)]
            wanted, n = np.sqrt(2 / fan_in), leaf.size
            assert abs(np.mean(leaf)) < 5 * wanted / np.sqrt(n)
            assert abs(np.std(leaf) / wanted - 1) < 5 / np.sqrt(2 * n)
            seen |= {float(leaf.reshape(-1)[0])}
    assert len(seen) == len(sums)  # No two have the same numbers.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": 4}, "layers is 4, expected a multiple of 3"),
        ({"layers": 0}, "layers is 0, expected a whole number of at least 1"),
        ({"filters": 5}, "filters is 5, expected an even number"),
        ({"filters": 4.0}, "filters is 4.0, expected a whole number"),
        ({"num_nodes": 0}, "num_nodes is 0, expected a whole number"),
        ({"num_classes": -1}, "num_classes is -1, expected a whole number"),
        ({"affine": 1}, "affine is 1, expected one of"),
        ({"auxiliary": "yes"}, "auxiliary is 'yes', expected one of"),
        (
            {"image_shape": (3, 8, 1)},
            r"\(3, 8, 1\), expected at least 4 rows and columns",
        ),
        ({"image_shape": (8, 3, 1)}, "at least 4 rows and columns"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    settings = {"image_shape": (4, 4, 1), "num_classes": 2} | settings
    with pytest.raises(ValueError, match=message):
        MicroCell(**settings)


def wires(graph):
    """Of each node, the operations on states that it adds up, in any order."""
    found = {}
    for start, end, _ in graph.edges:
        if start.endswith(("a", "b")):
            found.setdefault(end, []).append(graph.nodes[start])
            found[end] += [s for s, e, _ in graph.edges if e == start]
    pairs = {
        node: zip(each[::2], each[1::2], strict=True) for node, each in found.items()
    }
    return {node: sorted(each) for node, each in pairs.items()}


def test_exchanged_branches_are_the_same_network():
    assert len(SPACE.exchanges) == 6
    names = [decision.name for decision in SPACE.decisions]
    for seed in range(5):
        choice = np.array(draw_choice(SPACE, seed))
        graphs, form = SPACE.graphs(choice), SPACE.canonical_form(choice)
        for first, second in SPACE.exchanges:
            for i, j in zip(first, second, strict=True):
                assert names[i].removesuffix("_a") == names[j].removesuffix("_b")
            other = choice.copy()
            other[[*first, *second]] = choice[[*second, *first]]
            found = SPACE.graphs(other)
            assert all(wires(found[cell]) == wires(graphs[cell]) for cell in graphs)
            assert SPACE.canonical_form(other) == form
            changed = choice.copy()
            changed[first[1]] = (choice[first[1]] + 1) % 5
            if changed[first[1]] != choice[second[1]]:
                assert SPACE.canonical_form(changed) != form
