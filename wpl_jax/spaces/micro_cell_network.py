"""A network of the ENAS micro space, written out as blocks."""

from typing import Any

import jax
import numpy as np

from wpl_jax.spaces.batch_normalization import Moments
from wpl_jax.spaces.cell_graph import CONVOLUTIONS, OPERATIONS
from wpl_jax.spaces.cell_layout import Wiring, used
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
)

_CELLS = ("Normal", "Reduction")
# Functions of operations without weights, and their source.
_POOLS = {
    "average_3x3": ("average_pool", AVERAGE_POOL),
    "max_3x3": ("max_pool", MAX_POOL),
}
# Of the pixels that the other half of the filters sees.
_SHIFTED = "shifted = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]"
_STATES = ("older", "newer")  # inputs of a cell


def network(space: Any, choice: Any, child: Any, statistics: Any) -> Network:
    """The network of a child, without its auxiliary head.

    Args:
      space: A :class:`wpl_jax.spaces.micro_cell.MicroCell`.
      choice: ``int32[num_decisions]``.
      child: Parameters of the child.
      statistics: Moments of its normalizations.
    """
    wirings: Any = jax.device_get(space.wirings(choice))
    cells = [Wiring(*(each[kind] for each in wirings)) for kind in range(2)]
    affine, chosen = space.affine, {OPERATIONS[i] for i in wirings.operations.flat}
    return Network(
        (
            _separable(affine),
            halved(affine, _SHIFTED, "shifted[:, ::2, ::2]"),
            *(
                _cell(name, wiring, affine)
                for name, wiring in zip(_CELLS, cells, strict=True)
            ),
            _whole(space),
        ),
        "jax.nn.initializers.he_normal()",
        tuple(source for name, (_, source) in _POOLS.items() if name in chosen),
        _weights(space, cells, child, statistics),
    )


def _separable(affine: bool) -> Block:
    channels = "$channels"
    layers: dict[str, Layer] = {}
    for half in ("1", "2"):
        layers |= {
            f"depthwise_{half}": Conv(channels, channels, "$size", 1, channels),
            f"pointwise_{half}": Conv(channels, channels, 1),
            f"norm_{half}": BatchNorm(channels, affine),
        }
    body = """x = self.pointwise_1(self.depthwise_1(jax.nn.relu(x)))
x = self.norm_1(x@norm)
x = self.pointwise_2(self.depthwise_2(jax.nn.relu(x)))
return self.norm_2(x@norm)"""
    about = "A separable convolution, twice."
    arguments = {"channels": "", "size": ""}
    return Block("Separable", about, layers, "x", body, arguments)


def _cell(name: str, wiring: Wiring, affine: bool) -> Block:
    """A cell: of each node, what its two branches do with which state."""
    layers: dict[str, Layer] = {}
    lines = []
    states = [*_STATES, *(f"node_{i}" for i in range(len(wiring.inputs)))]
    for node, (inputs, operations) in enumerate(zip(*wiring, strict=True)):
        terms = []
        for side, index, operation in zip("ab", inputs, operations, strict=True):
            x, chosen = states[index], OPERATIONS[operation]
            if operation < CONVOLUTIONS:
                layer, size = f"node_{node}_{side}", int(chosen[-1])
                layers[layer] = Use("Separable", ("$channels", size))
                terms.append(f"self.{layer}({x}@train)")
            elif chosen in _POOLS:
                terms.append(f"{_POOLS[chosen][0]}({x})")
            else:
                terms.append(x)
        lines.append(f"node_{node} = {' + '.join(terms)}")
    free = np.flatnonzero(~np.asarray(used(wiring)))
    layers["mix"] = Conv(f"{len(free)} * $channels", "$channels", 1)
    layers["norm"] = BatchNorm("$channels", affine)
    out = ", ".join(f"node_{node}" for node in free)
    lines += [
        f"x = jnp.concatenate([{out}], -1)",
        "return self.norm(self.mix(jax.nn.relu(x))@norm)",
    ]
    about = f"The {name.lower()} cell that was found, of the two cells before it."
    return Block(
        *(name, about, layers, ", ".join(_STATES), "\n".join(lines)), {"channels": ""}
    )


def _whole(space: Any) -> Block:
    stem = space.stem_channels
    layers: dict[str, Layer] = {
        "stem": Conv(space.image_shape[2], stem, 3),
        "stem_norm": BatchNorm(stem, space.affine),
    }
    lines = ["x = self.stem_norm(self.stem(images)@norm)"]
    inputs = stem
    for stage, kinds in enumerate(space.kinds_of_cells):
        count = space.filters * 2**stage
        names = [f"{part}_{stage}" for part in ("first", "second")]
        if stage:
            layers |= {name: Use("Halved", (inputs, count)) for name in names}
            lines += [
                f"older = self.{names[0]}(jax.nn.relu(x)@train)",
                f"newer = self.{names[1]}(x@train)",
            ]
        else:
            lines.append("x = jax.nn.relu(x)")
            for name, variable in zip(names, _STATES, strict=True):
                layers[name] = Conv(inputs, count, 1)
                layers[f"{name}_norm"] = BatchNorm(count, space.affine)
                lines.append(f"{variable} = self.{name}_norm(self.{name}(x)@norm)")
        normal = (Use("Normal", (count,)), kinds.count(0))
        reduction = ((Use("Reduction", (count,)), 1),) if 1 in kinds else ()
        layers[f"stage_{stage}"] = Several((*reduction, normal))
        lines += [
            f"for cell in self.stage_{stage}:",
            "    older, newer = newer, cell(older, newer@train)",
            "x = newer",
        ]
        inputs = count
    layers["classifier"] = Dense(inputs, space.num_classes)
    lines.append("return self.classifier(jnp.mean(jax.nn.relu(x), (1, 2)))")
    about = "The network: normalized images to scores of the classes."
    return Block("Network", about, layers, "images", "\n".join(lines))


def _weights(space, cells, child, statistics) -> dict[str, np.ndarray]:
    found = conv_norm_weights("stem", "stem_norm", child["stem"], statistics["stem"])
    for stage, kinds in enumerate(space.kinds_of_cells):
        name = f"stage_{stage}"
        own, moments = child[name], statistics[name]
        for part in ("first", "second"):
            layer, kernel = f"{part}_{stage}", np.asarray(own[part]["kernel"])
            if stage:
                found |= halved_weights(layer, kernel)
                found |= norm_weights(f"{layer}.norm", moments[part], own[part])
            else:
                found |= conv_weights(layer, kernel)
                found |= norm_weights(f"{layer}_norm", moments[part], own[part])
        weights = space.stacks(stage).weights(own["cells"])
        for place, kind in enumerate(kinds):
            found |= _weights_of_cell(
                *(f"{name}.{place}", cells[kind], place, space.affine),
                *(weights, moments["cells"]),
            )
    return found | dense_weights("classifier", child["classifier"])


def _weights_of_cell(name, wiring, place, affine, weights, moments):
    found: dict[str, np.ndarray] = {}
    branches, output = weights

    def norm(layer, moments, scale, offset):
        child = {"scale": scale, "offset": offset} if affine else {}
        return norm_weights(layer, moments, child)

    for node, operations in enumerate(wiring.operations):
        for side, operation in enumerate(operations):
            if operation >= CONVOLUTIONS:
                continue
            at = (place, node, side)
            size = OPERATIONS[operation].removeprefix("separable_")
            kernels = np.asarray(getattr(branches, f"depthwise_{size}")[at])
            for half in range(2):
                layer = f"{name}.node_{node}_{'ab'[side]}."
                found |= conv_weights(
                    f"{layer}depthwise_{half + 1}", kernels[half][:, :, None]
                )
                found |= conv_weights(
                    f"{layer}pointwise_{half + 1}", branches.pointwise[at][half]
                )
                found |= norm(
                    f"{layer}norm_{half + 1}",
                    Moments(*(m[at][half] for m in moments.branches)),
                    branches.scale[at][half],
                    branches.offset[at][half],
                )
    free = np.flatnonzero(~np.asarray(used(wiring)))
    kernel = np.concatenate([output.kernel[place, node] for node in free])
    found |= conv_weights(f"{name}.mix", kernel)
    moments = Moments(*(m[place] for m in moments.output))
    return found | norm(
        f"{name}.norm", moments, output.scale[place], output.offset[place]
    )
