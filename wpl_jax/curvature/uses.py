"""Where parameters meet examples, and in which form.

A :class:`Use` is one met value at one site. Three forms of it are known:

- a **product**, of a matrix with the rows that an example gives (dense layers, also
  over heads or time, and convolutions as patches): with rows ``x_t`` and gradients
  ``d_t`` of the results the gradient is ``sum_t x_t d_t^T``;
- a **lookup** of rows of a table (embeddings);
- **any other** operation: its own derivative.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.curvature.operations import Level, Site
from wpl_jax.curvature.patches import Convolution
from wpl_jax.curvature.program import is_inexact
from wpl_jax.curvature.split import Split


class Use(NamedTuple):
    """A met value at one site.

    Attributes:
      site: The site.
      position: Which of its arguments the value is.
      met: Name of the met value.
      stacked: Loops over whose steps the value is a stack, from the outermost.
    """

    site: Site
    position: int
    met: int
    stacked: list[Level]

    @property
    def summed(self) -> list[int]:
        """Which of the loops around it use the same value in each step."""
        path = self.site.level.path()
        return [i for i, level in enumerate(path) if level not in self.stacked]


class Product(NamedTuple):
    """A use as a product of matrices, for each of some matrices of its own.

    Attributes:
      matrices: The value as ``[matrices, inputs, outputs]``.
      rows: The other argument of one example as ``[matrices, rows, inputs]``.
      results: The result of one example as ``[matrices, rows, outputs]``.
      rows_of_example: How many rows an example gives.
      outputs: Which axes of the value its outputs are.
      is_one_matrix: Whether there is one matrix.
      layout: What tells two ways of making matrices of the value apart.
    """

    matrices: Callable[[jax.Array], jax.Array]
    rows: Callable[[jax.Array], jax.Array]
    results: Callable[[jax.Array], jax.Array]
    rows_of_example: int
    outputs: tuple[int, ...]
    is_one_matrix: bool
    layout: Any


def uses_of(split: Split) -> list[Use]:
    """All uses of met values that depend on parameters."""
    return [
        Use(site, position, *split.root_of(site.inputs[position]))
        for site in split.sites
        for position in site.positions
        if is_inexact(split.avals[site.inputs[position]])
    ]


def product_of(use: Use, split: Split) -> Product | None:
    """The use as a product, or None if it is not one."""
    site = use.site
    if site.equation is None or len(site.inputs) != 2:
        return None
    other = site.inputs[1 - use.position]
    if not split.is_batched(other):
        return None
    params, name = site.equation.params, site.equation.primitive.name
    value, other = split.avals[site.inputs[use.position]], split.avals[other]
    if name == "dot_general":
        return _dot(params["dimension_numbers"], use.position, value, other)
    if name == "conv_general_dilated" and use.position == 1:
        return _convolution(params, value, site.avals[0])
    return None


def _dot(dimension_numbers, position: int, value, other) -> Product:
    contracting, batch = dimension_numbers
    mine, its = position, 1 - position
    free = axes_without(value.ndim, batch[mine], contracting[mine])
    rows = axes_without(other.ndim, batch[its], contracting[its])
    first = len(batch[0])
    of_rows = [first + i for i in range(len(rows))]
    of_free = [first + len(rows) + i for i in range(len(free))]
    if position == 0:
        of_free = [first + i for i in range(len(free))]
        of_rows = [first + len(free) + i for i in range(len(rows))]
    return Product(
        matrices=_grouped(batch[mine], contracting[mine], free),
        rows=_grouped(batch[its], rows, contracting[its]),
        results=_grouped(range(first), of_rows, of_free),
        rows_of_example=math.prod(other.shape[axis] for axis in rows),
        outputs=tuple(free),
        is_one_matrix=not batch[0],
        layout=("dot", tuple(batch[mine]), tuple(contracting[mine])),
    )


def _convolution(params, kernel, result) -> Product | None:
    convolution = Convolution(params)
    if not convolution.is_product():
        return None
    axes = convolution.result_axes()
    return Product(
        matrices=lambda w: convolution.kernel_matrix(w)[None],
        rows=lambda x: _flat(convolution.patches(x, kernel.shape)),
        results=lambda y: _flat(jnp.transpose(y, axes)),
        rows_of_example=math.prod(result.shape[axis] for axis in axes[:-1]),
        outputs=(params["dimension_numbers"].rhs_spec[0],),
        is_one_matrix=True,
        layout="convolution",
    )


def _flat(x):
    return x.reshape(1, -1, x.shape[-1])


def axes_without(ndim: int, *taken: Iterable[int]) -> list[int]:
    """The axes of an array that are in none of the groups, in order."""
    return [axis for axis in range(ndim) if axis not in set(itertools.chain(*taken))]


def _grouped(*groups) -> Callable[[jax.Array], jax.Array]:
    """Transposes an array and makes one axis of each group of axes."""

    def regroup(x):
        sizes = [math.prod(x.shape[axis] for axis in group) for group in groups]
        return jnp.transpose(x, list(itertools.chain(*groups))).reshape(sizes)

    return regroup


def count_rows(use: Use, product: Product) -> int:
    """How many rows of one example meet each matrix."""
    path = use.site.level.path()
    return product.rows_of_example * math.prod(path[i].length for i in use.summed)


def lookup_of(use: Use, split: Split) -> Callable[..., Any] | None:
    """How the use looks up whole rows of a table, or None if it does not.

    Returns:
      A function of the numbers and the gradient, as one step of one example has them.
      It gives the numbers ``int[reads]`` of the rows and their gradients ``float[reads,
      width]``.
    """
    site = use.site
    if site.equation is None or use.position != 0 or use.stacked:
        return None
    table, params = split.avals[site.inputs[0]], site.equation.params
    sizes = tuple(params.get("slice_sizes", ()))
    if sizes != (1, *table.shape[1:]) or not split.is_batched(site.inputs[1]):
        return None
    last, width = table.shape[0] - 1, math.prod(table.shape[1:])
    if site.equation.primitive.name == "dynamic_slice":
        return lambda number, gradient: (
            jnp.clip(number.reshape(1), 0, last),
            gradient.reshape(1, width),
        )
    if site.equation.primitive.name != "gather":
        return None
    numbers, mode = params["dimension_numbers"], params["mode"]
    if numbers.collapsed_slice_dims != (0,) or numbers.start_index_map != (0,):
        return None

    def rows(indices, gradient):
        if mode == jax.lax.GatherScatterMode.CLIP:
            indices = jnp.clip(indices, 0, last)
        reads = axes_without(gradient.ndim, numbers.offset_dims)
        gradient = jnp.transpose(gradient, [*reads, *numbers.offset_dims])
        return indices.reshape(-1), gradient.reshape(-1, width)

    return rows
