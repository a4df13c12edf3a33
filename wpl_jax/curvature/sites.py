"""Gradients of examples where parameters meet them, and their squares if faster.

The squares of a product of one row (:mod:`wpl_jax.curvature.uses`), summed over the
examples, are a product again, ``sum_i (x_i d_i^T)^2 = (X^2)^T (D^2)`` (Goodfellow,
"Efficient Per-Example Gradient Computations", 2015). Of a few rows they are one of all
pairs of rows,

    sum_i (sum_t x_it d_it^T)^2 = sum_i sum_{s,t} (x_is x_it) (d_is d_it)^T.

With more rows that is more arithmetic than to write out the gradient of each example.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.trees import squared_magnitude, widen
from wpl_jax.curvature.program import is_inexact
from wpl_jax.curvature.split import Split
from wpl_jax.curvature.uses import Product, Use, axes_without

# Rows up to which all pairs of them are multiplied. P rows are P (P + 1) / 2 pairs; the
# other way each weight's gradient of each example is written to memory and read.
MOST_ROWS = 4


# Squares, summed over the examples.


def squares_of_products(
    use: Use, product: Product, value, rows, results, magnitude=squared_magnitude
) -> jax.Array:
    """The sum over examples of the squared gradient, of products of few rows.

    Args:
      use: A use of the met value.
      product: The use as a product.
      value: The met value, for its shape.
      rows: Of all its uses, as :func:`rows_and_results` gives them.
      results: The gradients of the results, likewise.
      magnitude: The square, or of products of one row any function of an array for
        which that of a product is the product of those of its factors.

    Returns:
      An array like the value, at least float32.
    """
    count = rows.shape[1]
    if count <= 1:
        rows, results = magnitude(rows), magnitude(results)
        return _handed_down(use, product, value, _joined(rows), _joined(results))
    # Of two different rows each pair stands for both orders of it.
    pairs = list(itertools.combinations_with_replacement(range(count), 2))
    one, two = (np.array(side) for side in zip(*pairs, strict=True))
    twice = np.where(one == two, 1, 2).astype(rows.dtype)[:, None, None]
    rows = rows[:, one] * rows[:, two] * twice
    results = results[:, one] * results[:, two]
    total = _handed_down(use, product, value, _joined(rows), _joined(results))
    return jnp.maximum(total, 0)  # Below zero by rounding.


def squares_of_lookup(
    use: Use, rows, value, records, found, magnitude=squared_magnitude
) -> jax.Array:
    """The sum over examples of the squared gradient of a table whose rows are read.

    What an example reads twice has the sum of both gradients, which is squared once.

    Args:
      use: The only use of the table.
      rows: As :func:`lookup_of` gives it.
      value: The table, for its shape.
      records: As of :func:`squares_of_products`.
      found: As of :func:`squares_of_products`.
      magnitude: The square, or another function of an array, entry by entry.
    """
    number = use.site.number
    indices = _by_step(use, records[number][1])[0]  # [steps, examples, ...]
    gradient = _by_step(use, widen(found[number][0]))[0]
    indices, gradient = jax.vmap(jax.vmap(rows), 1)(indices, gradient)
    indices = indices.reshape(len(indices), -1)  # [examples, reads]
    gradient = gradient.reshape(*indices.shape, -1)  # [examples, reads, width]
    # Out of its bounds nothing is read, or what is read has no gradient.
    inside = (indices >= 0) & (indices < len(value))
    indices = jnp.where(inside, indices, len(value))
    gradient = jnp.where(inside[..., None], gradient, 0)
    same = indices[:, :, None] == indices[:, None, :]
    total = jnp.einsum("nst,ntw->nsw", same.astype(gradient.dtype), gradient)
    first = jnp.argmax(same, -1) == jnp.arange(indices.shape[1])
    squares = jnp.where(first[..., None], magnitude(total), 0)
    table = jnp.zeros((len(value), squares.shape[-1]), squares.dtype)
    table = table.at[indices].add(squares, mode="drop")
    return table.reshape(value.shape)


def rows_and_results(uses, products, records, found):
    """Of all uses together: ``[matrices, rows, examples, inputs or outputs]``."""
    sides: tuple[list, list] = [], []
    for use, product in zip(uses, products, strict=True):
        number = use.site.number
        pair = (
            (product.rows, records[number][1 - use.position]),
            (product.results, found[number][0]),
        )
        for side, (of, x) in zip(sides, pair, strict=True):
            x = jax.vmap(jax.vmap(jax.vmap(of)))(_by_step(use, widen(x)))
            # From [stacked, summed, examples, matrices, rows, ...].
            x = jnp.transpose(x, (0, 3, 1, 4, 2, 5))
            side.append(x.reshape(x.shape[0] * x.shape[1], -1, *x.shape[4:]))
    return tuple(jnp.concatenate(side, 1) for side in sides)


def _joined(x):
    """Joins rows and examples, ``[matrices, rows, examples, ...]``, to one axis."""
    return x.reshape(x.shape[0], -1, x.shape[-1])


def _handed_down(use: Use, product: Product, value, rows, results, serial=False):
    """What a product's results hand down to the value, in the value's layout.

    Args:
      use: The use.
      product: The use as a product.
      value: The met value, for its shape.
      rows: ``[matrices, rows, inputs]``.
      results: ``[matrices, rows, outputs]``.
      serial: Whether the matrices are computed one after the other.
    """
    # Inputs first: the other way round XLA transposes each matrix.
    if len(rows) == 1:
        found = _multiplied(rows[0], results[0])[None]
    elif serial:
        found = jax.lax.map(lambda pair: _multiplied(*pair), (rows, results))
    else:
        found = jax.vmap(_multiplied)(rows, results)
    like = jax.eval_shape(widen, value)
    (back,) = jax.linear_transpose(lambda x: _matrices(use, product, x), like)(found)
    return back


def _multiplied(rows, results):
    return jax.lax.dot_general(rows, results, (((0,), (0,)), ((), ())))


def _matrices(use: Use, product: Product, value):
    """The value as ``[matrices, inputs, outputs]``, those of all steps of a stack."""
    value = value.reshape(-1, *value.shape[len(use.stacked) :])
    matrices = jax.vmap(product.matrices)(value)
    return matrices.reshape(-1, *matrices.shape[2:])


def _by_step(use: Use, x):
    """Two axes in place of those of the loops: steps of a stack, and all others."""
    loops, summed = use.site.level.depth(), use.summed
    order = [*axes_without(loops, summed), *summed]
    x = jnp.transpose(x, [*order, *range(loops, x.ndim)])
    stacked = math.prod(x.shape[: loops - len(summed)])
    others = math.prod(x.shape[loops - len(summed) : loops])
    return x.reshape(stacked, others, *x.shape[loops:])


# The gradient of one example.


def gradient_of(
    use: Use,
    product: Product | None,
    split: Split,
    met,
    arguments,
    found,
    serial: bool,
) -> jax.Array:
    """The gradient of one example in a met value, as far as it comes from one use.

    Args:
      use: The use.
      product: The use as a product, or None.
      split: The loss.
      met: Met values by name.
      arguments: Of the site, of one example.
      found: Gradients in the results of the site, or of an opaque site in its
        parameters.
      serial: Whether the matrices of a product are computed one after the other.

    Returns:
      An array like the value.
    """
    site, value = use.site, met[use.met]
    if site.equation is None or site.is_opaque:
        which = site.positions.index(use.position)
        steps = _by_step(use, found[which])
        return jnp.sum(steps, 1).reshape(value.shape)
    if product is not None:
        pair = (
            (product.rows, arguments[1 - use.position]),
            (product.results, found[0]),
        )
        rows, results = (
            jax.vmap(jax.vmap(of))(_by_step(use, widen(x))) for of, x in pair
        )
        rows, results = (
            jnp.swapaxes(x, 1, 2).reshape(x.shape[0] * x.shape[2], -1, x.shape[-1])
            for x in (rows, results)
        )
        return _handed_down(use, product, value, rows, results, serial)
    outside = {
        k: met[v]
        for k, v in enumerate(site.inputs)
        if k not in arguments and k != use.position
    }
    steps = {k: _by_step(use, x) for k, x in arguments.items() if k != use.position}

    def of_step(value, arguments, gradients):
        def function(value):
            given = outside | arguments | {use.position: value}
            results = site.function(*(given[k] for k in range(len(site.inputs))))
            return [y for y in results if is_inexact(jax.typeof(y))]

        _, pull = jax.vjp(function, value)
        return pull(gradients)[0]

    def of_steps(value, arguments, gradients):
        each = jax.vmap(of_step, (None, 0, 0))(value, arguments, gradients)
        return jnp.sum(each, 0)

    values = value.reshape(-1, *value.shape[len(use.stacked) :])
    gradients = [_by_step(use, y) for y in found]
    return jax.vmap(of_steps)(values, steps, gradients).reshape(value.shape)
