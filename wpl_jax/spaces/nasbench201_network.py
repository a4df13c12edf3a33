"""A cell of NAS-Bench-201 and its network, written out as blocks."""

from typing import Any

import numpy as np

from wpl_jax.spaces.nasbench201_architectures import EDGES, NODES
from wpl_jax.spaces.network import (
    AVERAGE_POOL,
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
    norm_weights,
    partial_channels,
)

_SIZES = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}  # windows of the convolutions

_CONVOLUTION = Block(
    "Convolution",
    "ReLU, a convolution, and batch normalization.",
    {
        "conv": Conv("$inputs", "$outputs", "$size", "$stride"),
        "norm": BatchNorm("$outputs", "$affine"),
    },
    "x",
    "return self.norm(self.conv(jax.nn.relu(x))@norm)",
    {"inputs": "", "outputs": "", "size": "", "stride": "1", "affine": "False"},
)

_REDUCTION = Block(
    "Reduction",
    "A residual block that halves the image and doubles the channels.",
    {
        "first": Use("Convolution", ("$inputs", "2 * $inputs", 3, 2, True)),
        "second": Use("Convolution", ("2 * $inputs", "2 * $inputs", 3, 1, True)),
        "shortcut": Conv("$inputs", "2 * $inputs", 1),
    },
    "x",
    """y = self.second(self.first(x@train)@train)
x = @flax.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
return self.shortcut(x) + y""",
    {"inputs": ""},
)


def network(space: Any, choice: Any, child: Any, statistics: Any) -> Network:
    """The network of a child.

    Args:
      space: A :class:`wpl_jax.spaces.nasbench201.NasBench201`.
      choice: ``int32[6]``.
      child: Parameters of the child.
      statistics: Moments of its normalizations.
    """
    operations = [space.operations[int(index)] for index in choice]
    channels = [space.channels * 2**stage for stage in range(len(_stages(child)))]
    blocks = (_CONVOLUTION, _cell(space, operations), _REDUCTION)
    return Network(
        (*blocks, _whole(space, channels)),
        'jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")',
        (AVERAGE_POOL,) if "avg_pool_3x3" in operations else (),
        _weights(space, operations, child, statistics),
    )


def _stages(child: Any) -> list[str]:
    return sorted(name for name in child if name.startswith("stage_"))


def _cell(space: Any, operations: list[str]) -> Block:
    """The cell: the operations of its edges, in the order of its nodes."""
    parts = space.channel_parts
    inside = "$channels" if parts == 1 else f"$channels // {parts}"
    layers: dict[str, Layer] = {}
    lines, terms = [], [["x"], *([] for _ in range(NODES - 1))]
    for (source, target), operation in zip(EDGES, operations, strict=True):
        name, x = f"edge_{source}_{target}", f"node_{source}" if source else "x"
        whole, x = x, x if parts == 1 else f"part({x})"
        if operation in _SIZES:
            layers[name] = Use("Convolution", (inside, inside, _SIZES[operation]))
            term = f"self.{name}({x}@train)"
        elif operation == "avg_pool_3x3":
            term = f"average_pool({x})"
        elif operation == "skip_connect":
            term = x
        elif parts == 1:
            continue  # "none" adds nothing.
        else:
            term = f"jnp.zeros_like({x})"
        if parts > 1:
            term = f"join({term}, rest({whole}))"
        if space.edge_weights and target > 1:
            term = f"{term} / {target}"
        terms[target].append(term)
    for target in range(1, NODES):
        total = " + ".join(terms[target]) or "jnp.zeros_like(x)"
        lines.append(f"node_{target} = {total}")
    lines.append(f"return node_{NODES - 1}")
    if parts > 1:
        lines = [*partial_channels(parts), *lines]
    return Block(
        "Cell",
        "The cell that was found: each node is the sum of its edges.",
        layers,
        "x",
        "\n".join(lines),
        {"channels": ""},
    )


def _whole(space: Any, channels: list[int]) -> Block:
    layers: dict[str, Layer] = {
        "stem": Conv(space.image_shape[2], channels[0], 3),
        "stem_norm": BatchNorm(channels[0]),
    }
    lines = ["x = self.stem_norm(self.stem(images)@norm)"]
    for stage, count in enumerate(channels):
        if stage:
            layers[f"reduction_{stage}"] = Use("Reduction", (channels[stage - 1],))
            lines.append(f"x = self.reduction_{stage}(x@train)")
        layers[f"stage_{stage}"] = Several(((Use("Cell", (count,)), space.cells),))
        lines += [f"for cell in self.stage_{stage}:", "    x = cell(x@train)"]
    layers |= {
        "norm": BatchNorm(channels[-1]),
        "classifier": Dense(channels[-1], space.num_classes),
    }
    lines += [
        "x = jax.nn.relu(self.norm(x@norm))",
        "return self.classifier(jnp.mean(x, (1, 2)))",
    ]
    about = "The network: normalized images to scores of the classes."
    return Block("Network", about, layers, "images", "\n".join(lines))


def _weights(space, operations, child, statistics) -> dict[str, np.ndarray]:
    found = conv_norm_weights("stem", "stem_norm", child["stem"], statistics["stem"])
    for stage, name in enumerate(_stages(child)):
        if stage:
            reduction = f"reduction_{stage}"
            for part in ("first", "second"):
                layer = f"{reduction}.{part}"
                found |= conv_norm_weights(
                    *(f"{layer}.conv", f"{layer}.norm"),
                    *(child[reduction][part], statistics[reduction][part]),
                )
            shortcut = child[reduction]["shortcut"]["kernel"]
            found |= conv_weights(f"{reduction}.shortcut", shortcut)
        for place in range(space.cells * len(EDGES)):
            cell, edge = divmod(place, len(EDGES))
            if operations[edge] not in _SIZES:
                continue
            size = _SIZES[operations[edge]]
            stack = operations[edge].removeprefix("nor_")
            kernel = np.asarray(child[name][stack][place])
            source, target = EDGES[edge]
            layer = f"{name}.{cell}.edge_{source}_{target}"
            found |= conv_weights(
                f"{layer}.conv", kernel.reshape(size, size, -1, kernel.shape[-1])
            )
            moments = statistics[name][stack]
            moments = type(moments)(*(m[cell, edge] for m in moments))
            found |= norm_weights(f"{layer}.norm", moments)
    found |= norm_weights("norm", statistics["normalization"], child["normalization"])
    return found | dense_weights("classifier", child["classifier"])
