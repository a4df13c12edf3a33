"""Parameters of the cells of a stage, stacked, and the rows that a child uses."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from wpl_jax.spaces.cell_graph import CONVOLUTIONS
from wpl_jax.spaces.cell_layout import Mix, Weights, Wiring, used
from wpl_jax.spaces.images import Kernel, affine_parameters
from wpl_jax.spaces.separable import Separable
from wpl_jax.supernet import PAD


@dataclasses.dataclass(frozen=True)
class CellStacks:
    """The stacks of one stage.

    Attributes:
      cells: How many the stage has.
      nodes: Of a cell.
      filters: Of the stage.
      affine: Whether normalization has a scale and an offset of its own.
    """

    cells: int
    nodes: int
    filters: int
    affine: bool

    def parameters(self) -> dict[str, Any]:
        """The parameters, to be drawn by :func:`wpl_jax.spaces.images.init`.

        Depthwise kernels are stacked by (cell, branch, node, input), pointwise kernels
        and their normalization by (cell, branch, node, input, convolution), those of
        the ``output`` by (cell, node).
        """
        filters = self.filters
        branches = self.cells * 2 * self._pairs
        halves = (branches * CONVOLUTIONS, 2)
        nodes = self.cells * self.nodes
        return {
            "depthwise_3x3": Kernel((branches, 2, 3, 3, filters), 3 * 3),
            "depthwise_5x5": Kernel((branches, 2, 5, 5, filters), 5 * 5),
            "pointwise": Kernel((*halves, filters, filters), filters),
            **affine_parameters((*halves, filters), self.affine),
            "output": {
                "kernel": Kernel((nodes, filters, filters), filters),
                **affine_parameters((self.cells, filters), self.affine),
            },
        }

    @property
    def _pairs(self) -> int:
        """Of a node and one of the states that it can choose."""
        return self.nodes * (self.nodes + 3) // 2

    def rows(self, wirings: Wiring) -> dict[str, jax.Array]:
        """What chosen branches use of the stacks; as ``output`` that of its kernel.

        Args:
          wirings: The graphs of all cells of the stage.
        """
        cells, nodes = self.cells, self.nodes
        cell, node, side = np.ogrid[:cells, :nodes, :2]
        before = node * (node + 3) // 2  # pairs of the nodes before
        branch = (cell * 2 + side) * self._pairs + before + wirings.inputs
        operations = wirings.operations
        convolved = branch * CONVOLUTIONS + operations
        there = used(wirings)
        return {
            "depthwise_3x3": _where(operations == 0, branch),
            "depthwise_5x5": _where(operations == 1, branch),
            **dict.fromkeys(
                ("pointwise", "scale", "offset"),
                _where(operations < CONVOLUTIONS, convolved),
            ),
            "output": _where(~there, np.arange(cells * nodes).reshape(cells, nodes)),
        }

    def weights(self, stacks: dict[str, Any]) -> Weights:
        """A child's rows, by cell, node and branch.

        Args:
          stacks: The child's parameters of the stage.
        """
        output, pointwise = stacks["output"], stacks["pointwise"]

        def affine(child, shape):
            # Without weights of its own, a normalization multiplies by 1 and adds 0.
            dtype = pointwise.dtype
            scale = child.get("scale", jnp.ones(shape, dtype))
            return scale, child.get("offset", jnp.zeros(shape, dtype))

        branches = Separable(
            stacks["depthwise_3x3"],
            stacks["depthwise_5x5"],
            pointwise,
            *affine(stacks, pointwise.shape[:-1]),
        )
        kernel = output["kernel"]
        mix = Mix(
            kernel.reshape(self.cells, self.nodes, *kernel.shape[1:]),
            *affine(output, (self.cells, kernel.shape[-1])),
        )
        branches = jax.tree.map(
            lambda x: x.reshape(self.cells, self.nodes, 2, *x.shape[1:]), branches
        )
        return Weights(branches, mix)


def _where(there: jax.Array, rows: ArrayLike) -> jax.Array:
    """The rows, flat, and ``PAD`` where they are not there."""
    nothing = PAD + jnp.arange(there.size).reshape(there.shape)
    return jnp.where(there, rows, nothing).reshape(-1)
