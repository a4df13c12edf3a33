"""A plain residual network for images, with which found cells are compared.

He et al., "Deep Residual Learning for Image Recognition" (2016), section 4.2: a 3x3
convolution, three stages of blocks of two 3x3 convolutions with a shortcut, and the
mean over pixels. The second and the third stage halve the image and double the
channels. Their shortcut is a 1x1 convolution (option B).
"""

import dataclasses
import itertools
from typing import Any

import jax

from wpl_jax.common.settings import check_int, require
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.spaces import images
from wpl_jax.spaces.images import Noise, Outputs
from wpl_jax.spaces.nasbench201_operations import (
    CHANNELS,
    channels_first,
    channels_last,
    convolve,
    product_1x1,
)
from wpl_jax.supernet import ALL, Architecture, Decision, Graph, Space

STAGES = 3

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class ResidualNetwork(Space):
    """One residual network, and so a space without decisions.

    Attributes:
      image_shape: Height, width and channels.
      num_classes: Of the classifier.
      channels: Of the first stage; the second has twice as many, the third four times.
      blocks: In each stage. The network has ``6 blocks + 2`` layers.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    channels: int = 16
    blocks: int = 1

    name = "residual"

    def __post_init__(self) -> None:
        """Checks the settings."""
        for name in ("channels", "blocks", "num_classes"):
            check_int(self, name, 1)
        valid = min(self.image_shape[:2]) >= 4
        expected = "at least 4 rows and columns, which are halved twice"
        require(self, "image_shape", valid, expected)

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """There are none."""
        return ()

    def init(self, key: jax.Array) -> Params:
        """The parameters.

        He's initialization (2015); normalization starts as none.

        Args:
          key: PRNG key.

        Returns:
          ``stem``; ``stage_I`` with ``block_J``, of which each has the convolutions
          ``first[9 inputs, c]`` and ``second[9 c, c]`` and, where it halves the image,
          ``shortcut[inputs, c]``; and ``classifier``.
        """
        return images.init(key, self._parameters())

    def _parameters(self) -> Params:
        inputs, c = self.channels, self.channels
        found: Params = {"stem": images.stem_parameters(self.image_shape[2], c, True)}
        for stage in range(STAGES):
            c = self.channels * 2**stage
            blocks: Params = {}
            for block in range(self.blocks):
                one = {
                    "first": images.product_parameters(9 * inputs, c, affine=True),
                    "second": images.product_parameters(9 * c, c, affine=True),
                }
                if _stride(stage, block) > 1:
                    one["shortcut"] = images.product_parameters(inputs, c, affine=True)
                blocks[f"block_{block}"], inputs = one, c
            found[f"stage_{stage}"] = blocks
        found["classifier"] = images.linear_parameters(c, self.num_classes)
        return found

    def rows(self, architecture: Architecture) -> Any:
        """All parameters."""
        del architecture
        return jax.tree.map(
            lambda _: ALL, self._parameters(), is_leaf=images.is_parameter
        )

    def apply(
        self,
        child: Params,
        architecture: Architecture,
        inputs: jax.Array,
        *,
        noise: Noise | None = None,
        batch_stats: Any = None,
        axis: Axis = NO_AXIS,
    ) -> Outputs:
        """The network on a batch of images.

        Args:
          child: The parameters.
          architecture: Not used: there is one.
          inputs: ``float[batch, height, width, channels]``.
          noise: For training: dropout before the classifier. There is no drop-path.
          batch_stats: Batch statistics to normalize with, as in :class:`Outputs`; None
            for those of the batch.
          axis: Devices that divide the batch.

        Returns:
          The scores of the classes.
        """
        del architecture
        given: dict[str, Any] = batch_stats or {}
        found: dict[str, Any] = {}
        x = channels_first(inputs)
        x, found["stem"] = convolve(x, child["stem"], given.get("stem"), axis)
        x = jax.nn.relu(x)
        for stage in range(STAGES):
            for block in range(self.blocks):
                name = f"stage_{stage}_block_{block}"
                one = child[f"stage_{stage}"][f"block_{block}"]
                stride = _stride(stage, block)
                x, found[name] = _block(x, one, given.get(name), axis, stride)
        logits = images.classify(channels_last(x), child["classifier"], noise, axis)
        return Outputs(logits, None, found)

    def graphs(self, choice: Any) -> dict[str, Graph]:
        """One block."""
        del choice
        nodes = {"in": "in", "first": "conv 3x3", "second": "conv 3x3", "out": "+"}
        order = list(nodes)
        edges = [(a, b, "") for a, b in itertools.pairwise(order)]
        return {"block": Graph(nodes, (*edges, ("in", "out", "")))}


def _stride(stage: int, block: int) -> int:
    return 2 if stage and not block else 1


def _block(x, child, given, axis, stride):
    """Two convolutions and a shortcut, which is a product where the image is halved."""
    given, found = given or {}, {}
    y, found["first"] = convolve(x, child["first"], given.get("first"), axis, stride)
    y = jax.nn.relu(y)
    y, found["second"] = convolve(y, child["second"], given.get("second"), axis)
    if "shortcut" in child:
        shortcut = child["shortcut"]
        x = product_1x1(x[:, ::stride, ::stride], shortcut["kernel"])
        own = shortcut, given.get("shortcut"), axis
        x, found["shortcut"] = images.normalized(x, *own, CHANNELS)
    return jax.nn.relu(x + y), found
