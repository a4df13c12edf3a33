"""Checks of arguments, at trace time or when a space is made, the same for all."""

from typing import Any

import jax
import jax.numpy as jnp

LARGEST = float(jnp.finfo(jnp.float32).max)
MOST_NODES = 100  # of a cell: tracing takes time in proportion to their square
SMALLEST = float(jnp.finfo(jnp.float32).tiny)


def check_range(name: str, value: Any, low: float, high: float, expected: str) -> None:
    """Checks a number that is known; schedules and traced values pass.

    Raises:
      ValueError: If it lies outside ``[low, high]``, or is not a number.
    """
    # `inject_hyperparams` and `jit` pass traced values. A comparison would be
    # traced under `jit` even for an array that is known: hence `float`.
    if callable(value) or isinstance(value, jax.core.Tracer):
        return
    if not low <= float(value) <= high:
        raise ValueError(f"{name} must be {expected}, got {value}.")


def check_whole(name: str, value: Any) -> None:
    """Checks a size.

    Raises:
      ValueError: If it is anything but a whole number above 0.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")


def check_nodes(name: str, value: Any, least: int = 1) -> None:
    """Checks the number of nodes of a cell, which a program computes one by one.

    Raises:
      ValueError: If it is anything but a whole number from ``least`` to 100.
    """
    check_whole(name, value)
    if not least <= value <= MOST_NODES:
        raise ValueError(
            f"{name} must be a whole number from {least} to {MOST_NODES}, got {value}"
        )


def example_shape(examples: Any) -> Any:
    """Shapes and dtypes of one example, from a tree with a leading axis of them."""
    # By indexing, and not from shape and dtype: numpy's may be wider than JAX's.
    return jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), examples)


def check_scalar_loss(loss: Any, params: Any, examples: Any) -> None:
    """Checks that a loss gives one number for one example.

    Raises:
      ValueError: If it gives anything else.
    """
    result = jax.eval_shape(loss, params, example_shape(examples))
    shapes = [leaf.shape for leaf in jax.tree.leaves(result)]
    if shapes != [()] or not hasattr(result, "shape"):
        raise ValueError(
            "loss(params, example) must return one scalar for one example, got "
            f"shapes {shapes}. Reduce over the example's own axes, not over examples."
        )
