"""Checks of arguments, at trace time or before."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.common.settings import LARGEST


def check_range(name: str, value: Any, low: float, high: float, expected: str) -> None:
    """Checks a number that is known; traced values pass.

    Raises:
      ValueError: If it lies outside ``[low, high]``, or is not a number.
    """
    # `inject_hyperparams` and `jit` pass traced values. A comparison would be
    # traced under `jit` even for an array that is known: hence `float`.
    if isinstance(value, jax.core.Tracer):
        return
    # `float` also reads text, and takes True for 1.
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
    is_number &= not isinstance(value, bool) and np.ndim(value) == 0
    if not is_number or not low <= float(value) <= high:
        raise ValueError(f"{name} must be {expected}, got {value!r}.")


def check_rate(name: str, value: Any) -> None:
    """Checks a strength or a learning rate: a number of at least 0, or a schedule.

    Raises:
      ValueError: If it is anything else. Traced values pass.
    """
    if not callable(value):
        expected = "a number of at least 0, within the range of float32, or a schedule"
        check_range(name, value, 0, LARGEST, expected)


def is_size(value: Any) -> bool:
    """Whether it is a whole number above 0, and not True."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_whole and value >= 1


def check_whole(name: str, value: Any) -> None:
    """Checks a size.

    Raises:
      ValueError: If it is anything but a whole number above 0.
    """
    if not is_size(value):
        raise ValueError(f"{name} must be a whole number above 0, got {value!r}")


def check_leaves(name: str, tree: Any) -> None:
    """Checks that a tree is not empty.

    Raises:
      ValueError: If it has no leaves.
    """
    if not jax.tree.leaves(tree):
        raise ValueError(f"{name} has no leaves, expected at least one array.")


def check_differentiable(params: Any) -> None:
    """Checks that parameters are real or complex numbers, and that there are some.

    Raises:
      ValueError: With the path and dtype of the first leaf that is neither.
    """
    check_leaves("params", params)
    check_inexact(params)


def check_inexact(params: Any) -> None:
    """Checks that those parameters that there are are real or complex numbers.

    Raises:
      ValueError: With the path and dtype of the first leaf that is neither.
    """
    for where, leaf in leaves_by_path(params):
        is_number = isinstance(leaf, int | float | complex)
        array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        dtype = jnp.result_type(leaf) if is_number else array.dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise ValueError(
                f"The parameter at '{where}' has the dtype {dtype}, expected "
                "floating-point numbers. Keep counters and keys out of params, and let "
                "the loss close over them; with Flax NNX: graphdef, params, rest = "
                "nnx.split(model, nnx.Param, ...)."
            )


def check_real(name: str, tree: Any) -> None:
    """Checks that a Fisher is not complex.

    Raises:
      ValueError: With the path and dtype of the first leaf that is.
    """
    for where, leaf in leaves_by_path(tree):
        dtype = jnp.result_type(leaf)
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(
                f"The {name} at '{where}' has the dtype {dtype}, expected real "
                "numbers: the Fisher of a complex parameter is |gradient|^2. Take it "
                "from an estimator or from wpl_jax.square."
            )


def check_importances(name: str, tree: Any) -> None:
    """Checks a Fisher: real, and where its entries are known finite and at least 0.

    Raises:
      ValueError: With the path of the first leaf that is complex or has another entry.
    """
    check_real(name, tree)
    expected = "finite numbers of at least 0. Look at the loss that it comes from"
    _check_entries(name, tree, lambda x: np.isfinite(x) & (x >= 0), expected)


def check_mask(tree: Any, name: str = "mask") -> None:
    """Checks entries of a mask that are known: 0 or 1. Traced arrays pass.

    Raises:
      ValueError: With the path of the first leaf that has another entry.
    """
    expected = (
        "0 for what is left out and 1 for the rest. For weights between them multiply "
        "the Fisher"
    )
    _check_entries(name, tree, lambda x: (x == 0) | (x == 1), expected)


def check_finite(name: str, tree: Any) -> None:
    """Checks entries that are known: finite. Traced arrays pass.

    Raises:
      ValueError: With the path of the first leaf that has another entry.
    """
    _check_entries(name, tree, np.isfinite, "finite numbers. Training has diverged")


def _check_entries(
    name: str, tree: Any, good: Callable[[np.ndarray], np.ndarray], expected: str
) -> None:
    for where, leaf in leaves_by_path(tree):
        array = known_entries(leaf)
        wrong = ~good(array)
        if wrong.any():
            raise ValueError(
                f"The {name} at '{where}' has entries such as {array[wrong][0]}, "
                f"expected {expected}."
            )


def leaves_by_path(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their paths, as messages print them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in leaves
    ]


def known_entries(leaf: Any) -> np.ndarray:
    """Entries of an array, at least float64[1] or complex[1] where they are known.

    There are none where the array is traced or lies on other processes too.
    """
    is_array = isinstance(leaf, jax.Array)
    if isinstance(leaf, jax.core.Tracer) or (
        is_array and not leaf.is_fully_addressable
    ):
        return np.zeros(0, np.float32)
    array = np.asarray(leaf)
    # Half precision is no dtype of numpy's own.
    is_complex = np.issubdtype(array.dtype, np.complexfloating)
    return np.atleast_1d(array if is_complex else array.astype(np.float64))


def example_shape(examples: Any) -> Any:
    """Shapes and dtypes of one example, from a tree with a leading axis of them."""
    # By indexing, and not from shape and dtype: numpy's may be wider than JAX's.
    return jax.eval_shape(lambda tree: jax.tree.map(lambda x: x[0], tree), examples)


@contextlib.contextmanager
def noting_one_example(examples: Any) -> Iterator[None]:
    """To an error adds what a function of one example gets.

    Args:
      examples: A pytree of arrays with a leading axis.
    """
    try:
        yield
    except Exception as error:
        one = example_shape(examples)
        shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", one)
        error.add_note(
            f"The function gets one example, here {shapes}, and not a batch."
        )
        raise


def check_scalar_loss(loss: Any, params: Any, examples: Any) -> None:
    """Checks that a loss gives one number for one example.

    Raises:
      ValueError: If it gives anything else.
    """
    if not callable(loss):
        raise ValueError(f"loss must be a function, got {loss!r}.")
    with noting_one_example(examples):
        result = jax.eval_shape(loss, params, example_shape(examples))
    shapes = [leaf.shape for leaf in jax.tree.leaves(result)]
    if shapes == [()] and not jnp.issubdtype(result.dtype, jnp.floating):
        raise ValueError(
            "loss(params, example) must return a real number of floating point, got "
            f"the dtype {result.dtype}."
        )
    if shapes != [()] or not hasattr(result, "shape"):
        raise ValueError(
            "loss(params, example) must return one scalar for one example, got "
            f"shapes {shapes}. Reduce over the example's own axes, not over examples."
        )
