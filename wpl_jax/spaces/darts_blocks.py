"""Networks of the DARTS spaces, written out as blocks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.genotypes import Genotype
from wpl_jax.spaces.network import (
    AVERAGE_POOL,
    MAX_POOL,
    BatchNorm,
    Block,
    Conv,
    Dense,
    Layer,
    Network,
    Several,
    Use,
    conv_norm_weights,
    conv_weights,
    dense_weights,
    halved,
    halved_weights,
    norm_weights,
    partial_channels,
)

_INPUTS = 2  # of a cell
_NAMES = ("Normal", "Reduction")
_POOLS = {
    "max_pool_3x3": ("max_pool", MAX_POOL),
    "avg_pool_3x3": ("average_pool", AVERAGE_POOL),
}
# Blocks of convolutions by the beginning of an operation's name, and their repeats.
_CONVOLUTIONS = {"sep_conv": ("Separable", 2), "dil_conv": ("Dilated", 1)}
_SKIP = "skip_connect"

# The parameters of one branch of one cell: of a segment's parameters, the number of the
# cell in the segment, the number of the branch and its operation.
BranchWeights = Callable[[Any, int, int, str], dict[str, np.ndarray]]


def network(
    space: Any,
    segments: Sequence[Any],
    genotype: Genotype,
    child: Any,
    statistics: Any,
    weights_of: BranchWeights,
    parts: int,
    edge_weights: bool,
) -> Network | None:
    """The network of a genotype, without its auxiliary head.

    Args:
      space: A :class:`wpl_jax.spaces.darts_network.DartsNetwork`.
      segments: Its runs of equal cells.
      genotype: The two cells.
      child: Parameters of the child.
      statistics: Moments of its normalizations.
      weights_of: The parameters of a branch.
      parts: Number of parts of an edge's channels, of which operations get one.
      edge_weights: Whether a node is the mean of its inputs, and not their sum.

    Returns:
      None if an operation has no block.
    """
    cells = genotype.normal, genotype.reduce
    concats = genotype.normal_concat, genotype.reduce_concat
    used = {operation for cell in cells for operation, _ in cell}
    if not all(_is_known(operation) for operation in used):
        return None
    affine = space.affine
    options = space.normalize_pools, parts, edge_weights
    blocks = [
        _pointwise(affine),
        halved(affine, "x = jax.nn.relu(x)", "x[:, 1::2, 1::2]"),
    ]
    for beginning, (name, repeats) in _CONVOLUTIONS.items():
        if any(operation.startswith(beginning) for operation in used):
            blocks.append(_convolution(name, repeats, affine))
    for kind, name in enumerate(_NAMES):
        blocks.append(_cell(name, kind, cells[kind], concats[kind], *options))
    return Network(
        (*blocks, _whole(space, segments, concats)),
        'jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")',
        tuple(source for name, (_, source) in _POOLS.items() if name in used),
        _weights(space, segments, cells, child, statistics, weights_of),
    )


def _is_known(operation: str) -> bool:
    beginning, _, _ = operation.rpartition("_")
    return operation in _POOLS or operation == _SKIP or beginning in _CONVOLUTIONS


def _pointwise(affine: bool) -> Block:
    return Block(
        "Pointwise",
        "ReLU, a product of each pixel, and batch normalization.",
        {
            "conv": Conv("$inputs", "$outputs", 1),
            "norm": BatchNorm("$outputs", affine),
        },
        "x",
        "return self.norm(self.conv(jax.nn.relu(x))@norm)",
        {"inputs": "", "outputs": ""},
    )


def _convolution(name: str, repeats: int, affine: bool) -> Block:
    """Depthwise and pointwise convolutions; those of one repeat are dilated."""
    c, lines = "$channels", []
    layers: dict[str, Any] = {}
    dilation = 2 if repeats == 1 else 1
    for number in range(1, repeats + 1):
        stride = "$stride" if number == 1 else 1
        layers |= {
            f"depthwise_{number}": Conv(c, c, "$size", stride, c, dilation),
            f"pointwise_{number}": Conv(c, c, 1),
            f"norm_{number}": BatchNorm(c, affine),
        }
        lines += [
            f"x = self.pointwise_{number}(self.depthwise_{number}(jax.nn.relu(x)))",
            f"x = self.norm_{number}(x@norm)",
        ]
    about = "A separable convolution, twice."
    if repeats == 1:
        about = "A dilated separable convolution."
    arguments = {"channels": "", "size": "", "stride": "1"}
    body = "\n".join([*lines, "return x"])
    return Block(name, about, layers, "x", body, arguments)


_HALVED_REST = """
def halved_rest(x):
    return @flax.max_pool(rest(x), window_shape=(2, 2), strides=(2, 2))
"""


def _cell(name, kind, cell, concat, normalize_pools, parts, edge_weights) -> Block:
    """A cell: each node is the sum of two operations on earlier states."""
    inside = "$channels" if parts == 1 else f"$channels // {parts}"
    layers: dict[str, Layer] = {}
    states, lines, terms = ["older", "newer"], [], []
    if parts > 1:
        lines += partial_channels(parts)
        if kind:
            lines += _HALVED_REST.splitlines()
    for number, (operation, state) in enumerate(cell):
        node, side = divmod(number, 2)
        layer = f"node_{node}_{'ab'[side]}"
        halves = bool(kind) and state < _INPUTS
        x = states[state] if parts == 1 else f"part({states[state]})"
        beginning, _, size = operation.rpartition("_")
        if beginning in _CONVOLUTIONS:
            block, _ = _CONVOLUTIONS[beginning]
            stride = (2,) if halves else ()
            layers[layer] = Use(block, (inside, int(size[0]), *stride))
            term = f"self.{layer}({x}@train)"
        elif operation in _POOLS:
            term = f"{_POOLS[operation][0]}({x}){'[:, ::2, ::2]' if halves else ''}"
            if normalize_pools:
                layers[layer] = BatchNorm(inside, False)
                term = f"self.{layer}({term}@norm)"
        elif halves:
            layers[layer] = Use("Halved", (inside, inside))
            term = f"self.{layer}({x}@train)"
        else:
            term = x
        if parts > 1:
            unchanged = "halved_rest" if halves else "rest"
            term = f"join({term}, {unchanged}({states[state]}))"
        terms.append(term)
        if side:
            total = f"{terms[-2]} + {terms[-1]}"
            if edge_weights:
                total = f"({total}) / {_INPUTS}"
            states.append(f"node_{node}")
            lines.append(f"node_{node} = {total}")
    out = ", ".join(states[state] for state in concat)
    lines.append(f"return jnp.concatenate([{out}], -1)")
    about = f"The {name.lower()} cell that was found, of the two cells before it."
    body = "\n".join(lines)
    return Block(name, about, layers, "older, newer", body, {"channels": ""})


def _whole(space: Any, segments: Sequence[Any], concats: Any) -> Block:
    stem = segments[0].place.first
    lists: dict[str, list[tuple[Any, int]]] = {"first": [], "second": [], "cells": []}
    for segment in segments:
        place, count = segment.place, segment.cells
        first = "Halved" if place.halves else "Pointwise"
        lists["first"].append((Use(first, (place.first, place.channels)), count))
        second = Use("Pointwise", (place.second, place.channels))
        lists["second"].append((second, count))
        lists["cells"].append((Use(_NAMES[place.kind], (place.channels,)), count))
    last = segments[-1].place
    features = last.channels * len(concats[last.kind])
    layers: dict[str, Layer] = {
        "stem": Conv(space.image_shape[2], stem, 3),
        "stem_norm": BatchNorm(stem),
        **{name: Several(tuple(items)) for name, items in lists.items()},
        "classifier": Dense(features, space.num_classes),
    }
    body = """older = newer = self.stem_norm(self.stem(images)@norm)
for first, second, cell in zip(self.first, self.second, self.cells):
    inputs = first(older@train), second(newer@train)
    older, newer = newer, cell(*inputs@train)
return self.classifier(jnp.mean(newer, (1, 2)))"""
    about = "The network: normalized images to scores of the classes."
    return Block("Network", about, layers, "images", body)


def _weights(space, segments, cells, child, statistics, weights_of):
    found = conv_norm_weights("stem", "stem_norm", child["stem"], statistics["stem"])
    place = 0
    for number, segment in enumerate(segments):
        own = child[f"cells_{number}"]
        moments = statistics[f"cells_{number}"]
        for cell in range(segment.cells):
            for name in ("first", "second"):
                halves = segment.place.halves and name == "first"
                found |= _input_weights(
                    f"{name}.{place}",
                    halves,
                    {key: value[cell] for key, value in own[name].items()},
                    Moments(*(m[cell] for m in moments[name])),
                )
            for branch, (operation, state) in enumerate(cells[segment.place.kind]):
                node, side = divmod(branch, 2)
                found |= _branch_weights(
                    f"cells.{place}.node_{node}_{'ab'[side]}",
                    operation,
                    segment.place.kind == 1 and state < _INPUTS,
                    weights_of(own, cell, branch, operation),
                    [
                        Moments(*(m[cell, branch, repeat] for m in moments["nodes"]))
                        for repeat in range(2)
                    ],
                    space.normalize_pools,
                )
            place += 1
    return found | dense_weights("classifier", child["classifier"])


def _input_weights(name, halves, own, moments):
    kernel = np.asarray(own["kernel"])
    found = norm_weights(f"{name}.norm", moments, own)
    if not halves:
        return found | conv_weights(f"{name}.conv", kernel)
    return found | halved_weights(name, kernel)


def _branch_weights(name, operation, halves, own, moments, normalize_pools):
    beginning, _, _ = operation.rpartition("_")
    if operation in _POOLS:
        return norm_weights(name, moments[0]) if normalize_pools else {}
    if operation == _SKIP:
        if not halves:
            return {}
        one = {k: v if k == "kernel" else v[0] for k, v in own.items()}
        return _input_weights(name, True, one, moments[0])
    found: dict[str, np.ndarray] = {}
    for repeat in range(_CONVOLUTIONS[beginning][1]):
        kernels = {key: np.asarray(value[repeat]) for key, value in own.items()}
        found |= conv_weights(
            f"{name}.depthwise_{repeat + 1}", kernels["depthwise"][:, :, None]
        )
        found |= conv_weights(f"{name}.pointwise_{repeat + 1}", kernels["pointwise"])
        norm = f"{name}.norm_{repeat + 1}"
        found |= norm_weights(norm, moments[repeat], kernels)
    return found
