"""The supernet of DARTS: mixtures against children, and children against flax."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.genotypes import CELLS

from wpl_jax.common.settings import SettingError
from wpl_jax.spaces.branches import switch
from wpl_jax.spaces.darts_cell import DartsCell
from wpl_jax.spaces.darts_operations import OPERATIONS
from wpl_jax.spaces.genotype_network import GenotypeNetwork
from wpl_jax.spaces.genotypes import PUBLISHED, Genotype
from wpl_jax.supernet import Architecture, gather, is_choice, mask

SPACE = DartsCell((8, 8, 2), 3, channels=4, cells=3, num_nodes=2)
PARTIAL = dataclasses.replace(SPACE, channel_parts=2, edge_weights=True)
RETRAINED = dataclasses.replace(
    SPACE, affine=True, normalize_pools=False, auxiliary=True
)
FOUR = DartsCell((8, 8, 2), 3, channels=4, cells=3)
BATCH = 4


@functools.cache
def params_of(space):
    """With scales and offsets that are not 1 and 0."""
    params = jax.device_get(jax.jit(space.init)(jax.random.key(0)))
    rng = np.random.default_rng(3)
    return jax.tree.map(
        lambda p: np.float32(p + 0.1 * rng.normal(size=p.shape)), params
    )


@functools.cache
def images_of(space):
    rng = np.random.default_rng(1)
    return rng.normal(size=(BATCH, *space.image_shape)).astype(np.float32)


def draw(space, seed):
    return np.asarray(space.sample(jax.random.key(seed)))


def only(space, choice):
    """The weights of the mixture that is a child, for each group."""
    genotype = space.genotype(choice)
    table = np.zeros((len(space.groups), len(space.operations)), np.float32)
    names = [group.name for group in space.groups]
    for kind, cell in (("normal", genotype.normal), ("reduction", genotype.reduce)):
        for place, (operation, state) in enumerate(cell):
            node = place // 2 + 2
            row = names.index(f"{kind}_{state}_{node}")
            table[row, space.operations.index(operation)] = 1
            if space.edge_weights:
                table[names.index(f"{kind}_inputs_of_{node}"), state] = 1 / 2
    return table


@functools.partial(jax.jit, static_argnums=0)
def run(space, params, architecture, images):
    """The logits, and the gradients in the shared parameters and the architecture."""
    gradient = np.random.default_rng(2).normal(size=(BATCH, space.num_classes))

    def loss(params, weights, gates):
        own = Architecture(architecture.choice, weights, gates)
        child = gather(params, space.rows(own))
        logits = space.apply(child, own, images).logits
        return jnp.sum(logits * gradient), logits

    found = jax.grad(loss, (0, 1, 2), has_aux=True)
    gradients, logits = found(params, architecture.weights, architecture.gates)
    return logits, gradients


def run_on(space, architecture):
    return run(space, params_of(space), architecture, images_of(space))


def close(found, expected, tolerance=1e-3):
    """Equal but for rounding, relative to the largest entry."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    most = tolerance * max(np.max(np.abs(expected), initial=0), 1)
    np.testing.assert_allclose(found, expected, rtol=0, atol=most)


@pytest.mark.slow
@pytest.mark.parametrize("space", [SPACE, PARTIAL], ids=["whole", "partial"])
def test_a_mixture_of_two_edges_a_node_is_the_child_with_its_gradients(space):
    for seed in range(3):
        choice = draw(space, seed)
        logits, (of_child, *_) = run_on(space, Architecture(choice))
        mixture = Architecture(choice, weights=only(space, choice))
        mixed, (of_mixed, _, _) = run_on(space, mixture)
        close(mixed, logits)
        jax.tree.map(close, of_mixed, of_child)
        rows = mask(params_of(space), space.rows(Architecture(choice)))
        unused = jax.tree.map(
            lambda used, of: np.asarray(of)[np.broadcast_to(used, of.shape) == 0],
            rows,
            of_mixed,
        )
        leaves = [leaf for leaf in jax.tree.leaves(unused) if leaf.size]
        assert len(leaves) > 10
        for leaf in leaves:  # Exactly: what has no weight does not move.
            np.testing.assert_array_equal(leaf, 0)


@pytest.mark.slow
def test_gates_of_all_edges_are_a_mixture_of_one_operation_each():
    space = SPACE
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(space.operations), size=len(space.groups))
    hot = np.eye(len(space.operations), dtype=np.float32)[drawn]
    choice = np.asarray(space.discretize(jnp.asarray(hot)))
    logits, (of_gated, _, of_gates) = run_on(space, Architecture(choice, gates=hot))
    mixture = Architecture(choice, weights=hot)
    mixed, (of_mixed, of_weights, _) = run_on(space, mixture)
    close(logits, mixed)
    jax.tree.map(close, of_gated, of_mixed)
    places = np.arange(len(drawn)), drawn
    named = drawn != space.operations.index("none")
    close(of_gates[places], np.where(named, of_weights[places], of_gates[places]))
    # All other gates of an edge have the gradient of what is added to its output.
    for row, own in zip(np.asarray(of_gates), drawn, strict=True):
        others = np.delete(row, own)
        close(others, np.full_like(others, others[0]))


@pytest.mark.slow
def test_the_gradient_of_weights_is_that_of_finite_differences():
    space = PARTIAL
    there = is_choice(space.groups)
    weights = np.random.default_rng(5).uniform(0.1, 1, there.shape) * there
    weights = np.float32(weights / weights.sum(1, keepdims=True))
    choice = np.asarray(space.discretize(jnp.asarray(weights)))
    gradient = np.random.default_rng(2).normal(size=(BATCH, space.num_classes))

    def loss(table):
        logits, _ = run_on(space, Architecture(choice, weights=np.float32(table)))
        return np.sum(np.asarray(logits, float) * gradient)

    _, (_, of_weights, _) = run_on(space, Architecture(choice, weights=weights))
    step = 3e-3
    for row in range(0, len(weights), 2):
        column = row % np.sum(there[row])
        moved = [weights.copy(), weights.copy()]
        moved[0][row, column] += step
        moved[1][row, column] -= step
        slope = (loss(moved[0]) - loss(moved[1])) / (2 * step)
        np.testing.assert_allclose(of_weights[row, column], slope, rtol=0.1, atol=0.1)


# One genotype as a network of flax modules.


def flax_convolution(x, kernel, stride=1, dilation=1, groups=1):
    margin = [((n // 2) * dilation,) * 2 for n in kernel.shape[:2]]
    module = nn.Conv(
        kernel.shape[-1],
        kernel.shape[:2],
        strides=stride,
        padding=margin,
        kernel_dilation=dilation,
        feature_group_count=groups,
        use_bias=False,
    )
    return module.apply({"params": {"kernel": kernel}}, x)


def flax_norm(x, scale=None, offset=None):
    affine = scale is not None
    module = nn.BatchNorm(
        use_running_average=False, epsilon=1e-5, use_bias=affine, use_scale=affine
    )
    params = {"scale": scale, "bias": offset} if affine else {}
    stats = {"mean": jnp.zeros(x.shape[-1]), "var": jnp.ones(x.shape[-1])}
    variables = {"params": params, "batch_stats": stats}
    return module.apply(variables, x, mutable=["batch_stats"])[0]


def affine_of(weights, *index):
    return weights["scale"][index], weights["offset"][index]


def flax_operation(name, x, weights, stride):
    """As retrained; of one row of the parameters."""
    if name == "skip_connect" and stride == 1:
        return x
    if name == "skip_connect":
        x, half = nn.relu(x), weights["kernel"].shape[1] // 2
        parts = [
            flax_convolution(x[:, i:, i:], weights["kernel"][None, None, :, columns], 2)
            for i, columns in enumerate((slice(half), slice(half, None)))
        ]
        return flax_norm(jnp.concatenate(parts, -1), *affine_of(weights, 0))
    window, margin = (3, 3), [(1, 1), (1, 1)]
    if name == "max_pool_3x3":
        return nn.max_pool(x, window, (stride, stride), margin)
    if name == "avg_pool_3x3":
        return nn.avg_pool(x, window, (stride, stride), margin, count_include_pad=False)
    dilation = 2 if name.startswith("dil") else 1
    for number, depthwise in enumerate(weights["depthwise"]):
        x = flax_convolution(
            nn.relu(x),
            depthwise[:, :, None],
            1 if number else stride,
            dilation,
            x.shape[-1],
        )
        x = flax_convolution(x, weights["pointwise"][number][None, None])
        x = flax_norm(x, *affine_of(weights, number))
    return x


def flax_network(space, branches):
    """The network of DARTS; ``branches`` gives those of a cell, by its parameters."""
    return jax.jit(functools.partial(flax_scores, space, branches))


def each_cell(params):
    """The parameters of each cell; those of equal cells in a row are stacked."""
    for number in range(len(params)):
        if (name := f"cells_{number}") in params:
            count = len(params[name]["first"]["kernel"])
            stacked = jax.tree.map(
                lambda k, n=count: k.reshape(n, -1, *k.shape[1:]), params[name]
            )
            for cell in range(count):
                yield jax.tree.map(lambda k, c=cell: k[c], stacked)


def flax_scores(space, branches, params, images):
    cells = list(each_cell(params))
    assert len(cells) == space.cells
    p = params["stem"]
    x = flax_convolution(images, p["kernel"].reshape(3, 3, images.shape[-1], -1))
    states = [flax_norm(x, *affine_of(p))] * 2
    halved = False
    for number in range(space.cells):
        reduction = number in (space.cells // 3, 2 * space.cells // 3)
        p = cells[number]
        nodes = []
        for name, x in zip(("first", "second"), states, strict=True):
            own = {n: k[0] for n, k in p[name].items()}
            if halved and name == "first":
                y = flax_operation(
                    "skip_connect",
                    x,
                    own | {k: own[k][None] for k in ("scale", "offset")},
                    2,
                )
            else:
                y = flax_convolution(nn.relu(x), own["kernel"][None, None])
                y = flax_norm(y, *affine_of(own))
            nodes.append(y)
        for branches_of_node in branches(p, reduction):
            nodes.append(
                sum(
                    flax_operation(
                        name, nodes[state], weights, 1 + (reduction and state < 2)
                    )
                    for name, state, weights in branches_of_node
                )
            )
        states = [states[1], jnp.concatenate(nodes[2:], -1)]
        halved = reduction
    p = params["classifier"]
    return states[1].mean((1, 2)) @ p["kernel"] + p["bias"]


def rows_of_edges(space, genotype):
    """The branches of a genotype, with their rows of the shared parameters."""

    def branches(params, reduction):
        cell = genotype.reduce if reduction else genotype.normal
        found = []
        for place, (name, state) in enumerate(cell):
            node = place // 2
            row = node * (node + 3) // 2 + state
            if name == "skip_connect":
                row = 2 * node + state
            has = name in params and (name != "skip_connect" or state < 2)
            own = {n: k[row] for n, k in params[name].items()} if has else None
            found.append((name, state, own))
        return zip(found[::2], found[1::2], strict=True)

    return branches


@functools.partial(jax.jit, static_argnums=0)
def predict(space, params, architecture, images):
    child = gather(params, space.rows(architecture))
    return space.apply(child, architecture, images).logits


@pytest.mark.slow
def test_a_child_is_the_network_in_flax():
    space, images = RETRAINED, images_of(RETRAINED)
    choice = space.from_notation(CELLS)
    found = predict(space, params_of(space), Architecture(choice), images)
    branches = rows_of_edges(space, space.genotype(choice))
    expected = flax_network(space, branches)(params_of(space), images)
    close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("cells", [3, 12])
def test_the_network_of_a_genotype_is_the_network_in_flax(cells):
    space = GenotypeNetwork((8, 8, 2), 3, channels=4, cells=cells, cell=CELLS)
    images, params = images_of(space), params_of(space)

    def branches(params, reduction):
        cell = space.genotype.reduce if reduction else space.genotype.normal
        found = [
            (n, s, jax.tree.map(lambda k: k[0], params.get(f"branch_{i}")))
            for i, (n, s) in enumerate(cell)
        ]
        return zip(found[::2], found[1::2], strict=True)

    found = predict(space, params, Architecture(draw(space, 0)), images)
    close(found, flax_network(space, branches)(params, images))


# Without compiling a network.


def test_four_nodes_have_the_decisions_and_groups_of_darts():
    assert len(FOUR.groups) == 28
    assert all(group.choices == OPERATIONS for group in FOUR.groups)
    edges = [group.name for group in FOUR.groups[14:]]
    pairs = [(s, t) for t in range(2, 6) for s in range(t)]
    assert edges == [f"reduction_{s}_{t}" for s, t in pairs]
    counts = [len(decision.choices) for decision in FOUR.decisions]
    assert counts == [n for pairs in (1, 3, 6, 10) for n in (pairs, 7, 7)] * 2
    assert FOUR.decisions[3].choices == ("0, 1", "0, 2", "1, 2")
    partial = dataclasses.replace(FOUR, edge_weights=True, exclude_none=True)
    assert [g.choices for g in partial.groups[28:32]] == [
        tuple(map(str, range(n))) for n in (2, 3, 4, 5)
    ]
    assert partial.groups[0].choices == OPERATIONS[1:]
    assert FOUR.draws
    assert not partial.draws


def discretized(space, weights):
    """The genotype by the code of DARTS, with Python lists."""
    cells = []
    for kind in range(2):
        cell, start = [], kind * 14
        for node in range(4):
            table = weights[start : start + node + 2, : len(space.operations)]
            if space.edge_weights:
                table = table * weights[28 + 4 * kind + node, : node + 2, None]
            first = space.operations.index("max_pool_3x3")
            order = sorted(range(node + 2), key=lambda i: -max(table[i][first:]))[:2]
            for state in sorted(order):
                best = int(np.argmax(table[state][first:])) + first
                cell.append((space.operations[best], state))
            start += node + 2
        cells.append(tuple(cell))
    return Genotype(cells[0], (2, 3, 4, 5), cells[1], (2, 3, 4, 5))


@pytest.mark.parametrize(
    "settings", [{}, {"edge_weights": True}, {"exclude_none": True}], ids=str
)
def test_the_two_strongest_inputs_of_a_node_are_kept_with_any_operation_but_none(
    settings,
):
    space = dataclasses.replace(FOUR, **settings)
    discretize = jax.jit(space.discretize)
    there = is_choice(space.groups)
    for seed in range(5):
        weights = np.random.default_rng(seed).uniform(size=there.shape) * there
        weights[:, 0] *= 3  # none is often the largest
        choice = np.asarray(discretize(np.float32(weights)))
        assert choice.dtype == np.int32
        assert space.genotype(choice) == discretized(space, weights)


LARGE = {"channels": 36, "cells": 20, "affine": True, "normalize_pools": False}


def of_convolution(channels, size, repeats):
    return repeats * (size**2 * channels + channels**2 + 2 * channels)


def counted(genotype):
    """Parameters of the network of 20 cells, written out by its definition."""
    width = 36 * 3
    total = 9 * 3 * width + 2 * width
    before, last, channels = width, width, 36
    for number in range(20):
        reduction = number in (6, 13)
        channels *= 2 if reduction else 1
        total += (before + last) * channels + 4 * channels
        cell, concat = genotype[2 * reduction : 2 * reduction + 2]
        for name, state in cell:
            if name[:8] in ("sep_conv", "dil_conv"):
                repeats = 2 if name.startswith("sep") else 1
                total += of_convolution(channels, int(name[-1]), repeats)
            elif name == "conv_7x1_1x7":
                total += 2 * 7 * channels**2 + 2 * channels
            elif name == "skip_connect" and reduction and state < 2:
                total += channels**2 + 2 * channels
        before, last = last, channels * len(concat)
    return total + 10 * last + 10


@pytest.mark.slow_except("DARTS_V2", "ENAS", "AmoebaNet")
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_of_a_published_cell_has_the_parameters_of_its_definition(name):
    if name == "DARTS_V2":  # as the authors' code prints it
        assert counted(PUBLISHED[name]) == 3_349_342
    network = GenotypeNetwork((32, 32, 3), 10, channels=36, cells=20, cell=name)
    nothing = Architecture(np.zeros(0, np.int32))
    # Compiled as a whole: one by one its operations take longer.
    parameters = jax.jit(lambda child: network.costs(child)["parameters"])
    assert int(parameters(nothing)) == counted(PUBLISHED[name])
    if name in ("NASNet", "AmoebaNet", "ENAS"):
        return
    space = DartsCell((32, 32, 3), 10, **LARGE)
    child = Architecture(space.from_notation(name))
    parameters = jax.jit(lambda child: space.costs(child)["parameters"])
    assert int(parameters(child)) == counted(PUBLISHED[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "space",
    [
        DartsCell((32, 32, 3), 10, channels=16, cells=8, channel_parts=4),
        DartsCell((32, 32, 3), 10, **LARGE, auxiliary=True),
    ],
    ids=["search", "retraining"],
)
def test_networks_of_the_papers_size_have_scores_of_classes(space):
    choice = draw(space, 0)
    architectures = [Architecture(choice)]
    if space.mixes:
        weights = np.full((28, 8), 1 / 8, np.float32)
        architectures += [
            Architecture(choice, weights=weights),
            Architecture(choice, gates=np.eye(8, dtype=np.float32)[np.arange(28) % 8]),
        ]
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    inputs = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    for own in architectures:
        child = jax.eval_shape(lambda p, a: gather(p, space.rows(a)), shapes, own)
        found = jax.eval_shape(space.apply, child, own, inputs)
        assert found.logits.shape == (2, 10)
        given = jax.eval_shape(
            lambda c, a, x, s: space.apply(c, a, x, batch_stats=s),
            *(child, own, inputs, found.batch_stats),
        )
        assert jax.tree.map(jnp.shape, given) == jax.tree.map(jnp.shape, found)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_of_published_cells_have_scores_of_classes(name):
    space = GenotypeNetwork((8, 8, 2), 3, channels=4, cells=3, cell=name)
    shapes = jax.eval_shape(space.init, jax.random.key(0))
    nothing = Architecture(np.zeros(0, np.int32))
    inputs = jax.ShapeDtypeStruct((2, 8, 8, 2), jnp.float32)
    found = jax.eval_shape(space.apply, shapes, nothing, inputs)
    assert found.logits.shape == (2, 3)


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": 5},
        {"cells": 2},
        {"image_shape": (6, 8, 1)},
        {"channel_parts": 3},
        {"num_nodes": 0},
        {"edge_weights": 1},
    ],
    ids=str,
)
def test_wrong_settings_are_refused(wrong):
    settings = {"image_shape": (8, 8, 1), "num_classes": 2} | wrong
    with pytest.raises(SettingError, match=next(iter(wrong))):
        DartsCell(**settings)


def test_with_scales_there_are_no_mixtures():
    assert not RETRAINED.mixes
    assert not RETRAINED.draws


def test_a_conditional_has_the_gradient_of_the_branch_that_it_takes():
    branches = [
        lambda arguments, fixed: (jnp.sin(arguments["x"]) * fixed, fixed),
        lambda arguments, fixed: (arguments["x"] * arguments["y"] * fixed, -fixed),
    ]
    arguments = {"x": jnp.arange(3.0), "y": jnp.arange(3.0) + 1}

    def loss(arguments, index):
        value, auxiliary = switch(index, branches, arguments, jnp.float32(2))
        return jnp.sum(value**2), auxiliary

    for index, branch in enumerate(branches):
        found = jax.grad(loss, has_aux=True)(arguments, index)[0]
        expected = jax.grad(lambda a, b=branch: jnp.sum(b(a, 2.0)[0] ** 2))(arguments)
        jax.tree.map(np.testing.assert_allclose, found, expected)


def test_pictures_have_a_node_for_each_operation():
    found = SPACE.graphs(SPACE.from_notation(CELLS))
    assert sorted(found) == ["normal", "reduction"]
    graph = found["normal"]
    assert graph.nodes["0a"] == "sep conv 3x3"
    assert ("0", "1b", "") in graph.edges or ("0", "1a", "") in graph.edges
    outputs = [source for source, target, _ in graph.edges if target == "out"]
    assert outputs == ["0", "1"]
    names = list(graph.nodes)
    assert all(names.index(s) < names.index(t) for s, t, _ in graph.edges)
