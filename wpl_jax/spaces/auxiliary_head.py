"""A second classifier in the middle of a network, for training.

That of ENAS: means over windows of 5x5, a product of each window, one of all of them,
and a classifier.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.devices.axis import Axis
from wpl_jax.spaces.images import (
    linear,
    linear_parameters,
    normalized_product,
    product_parameters,
)

_OF_WINDOW, _OF_ALL = 128, 768  # channels that the two products make


@dataclasses.dataclass(frozen=True)
class AuxiliaryHead:
    """The classifier.

    Attributes:
      size: Height and width of its input.
      channels: Of its input.
      num_classes: Of the classifier.
      affine: Whether normalization has a scale and an offset of its own.
    """

    size: tuple[int, int]
    channels: int
    num_classes: int
    affine: bool

    def parameters(self) -> dict[str, Any]:
        """The parameters, to be drawn by :func:`wpl_jax.spaces.images.init`."""
        rows, columns = self._windows()
        windows = len(rows) * len(columns)
        return {
            "first": product_parameters(self.channels, _OF_WINDOW, self.affine),
            "second": product_parameters(_OF_WINDOW * windows, _OF_ALL, self.affine),
            "classifier": linear_parameters(_OF_ALL, self.num_classes),
        }

    def apply(
        self, child: dict[str, Any], x: jax.Array, given: Any, axis: Axis
    ) -> tuple[jax.Array, Any]:
        """Scores of the classes, ``float[batch, classes]``, and batch statistics.

        Args:
          child: Its parameters.
          x: ``float[batch, height, width, channels]``.
          given: Batch statistics to normalize with; None for those of the batch.
          axis: Devices of which each has its share of the batch.
        """
        given = given or {}
        x, found = jax.nn.relu(x), {}
        rows, columns = self._windows()
        pooled = jnp.stack(
            [
                jnp.mean(x[:, r.start : r.stop, c.start : c.stop], (1, 2))
                for r in rows
                for c in columns
            ],
            axis=1,
        )
        y, found["first"] = normalized_product(
            pooled[:, :, None], child["first"], given.get("first"), axis
        )
        y = jax.nn.relu(y).reshape(y.shape[0], 1, 1, -1)
        y, found["second"] = normalized_product(
            y, child["second"], given.get("second"), axis
        )
        return linear(jax.nn.relu(y[:, 0, 0]), child["classifier"]), found

    def _windows(self) -> tuple[list[range], list[range]]:
        """Rows and columns of windows of 5x5, three apart, or of all that there is."""
        rows, columns = (
            [range(i, min(i + 5, size)) for i in range(0, max(size - 4, 1), 3)]
            for size in self.size
        )
        return rows, columns
