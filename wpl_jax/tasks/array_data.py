"""Examples in arrays: checked on the host, and put on devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from wpl_jax.common.counted import counted
from wpl_jax.common.settings import LARGEST, MOST_INT
from wpl_jax.data.arguments import (
    require_array,
    require_int,
    require_names,
    require_pair,
)
from wpl_jax.data.errors import DataError
from wpl_jax.data.images.holdout import check_share
from wpl_jax.errors import printable, shorten

SPLITS = ("train", "valid", "test")
# How what is no number is mended.
_REPLACE = (
    "replace text by numbers, such as one column for each category, and leave out or "
    "fill what is missing"
)
_NUMBER = (
    "number the classes from 0, as numpy.unique(targets, return_inverse=True) does, "
    "and pass their names as class_names"
)
_MOST = {"float32": LARGEST, "int32": MOST_INT}


class Examples(NamedTuple):
    """A split: inputs and targets, each with a leading axis of examples."""

    inputs: Any  # float32 or int32[n, ...]
    targets: Any  # float32 or int32[n, ...]


class Data(NamedTuple):
    """The splits on devices, and what inputs are standardized with."""

    train: Examples
    valid: Examples
    test: Examples
    mean: jax.Array  # float32[features], or float32[] without standardization
    deviation: jax.Array  # the same


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset:
    """Examples in three splits, on the host.

    Attributes:
      train: Examples to learn the weights from.
      valid: Examples to choose architectures by.
      test: Examples to report on.
      class_names: The name of class i at position i; None if targets are no classes.
      source: What it is called in messages and reports.
    """

    train: Examples
    valid: Examples
    test: Examples
    class_names: tuple[str, ...] | None
    source: str

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of one target."""
        return tuple(self.train.targets.shape[1:])

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples each split has."""
        return {name: len(getattr(self, name).inputs) for name in SPLITS}

    def describe(self) -> str:
        """A line about it."""
        counts = ", ".join(f"{count:,} {name}" for name, count in self.sizes.items())
        shape = "x".join(map(str, self.input_shape))
        about = f"{self.source}: examples {counts}; inputs {shape}"
        if self.class_names:
            return f"{about}; {len(self.class_names)} classes"
        return f"{about}; targets {'x'.join(map(str, self.target_shape)) or 'numbers'}"


def read_arrays(
    train: Any,
    valid: Any,
    test: Any,
    *,
    kind: str | None,
    class_names: Sequence[str] | None,
    source: str,
    seed: int,
) -> ArrayDataset:
    """Checks arrays, and holds out of the training examples what has no split.

    Args:
      train: The pair of inputs, ``[n, ...]``, and targets, ``[n, ...]``.
      valid: The same, or how many training examples are held out, as a number or a
        fraction of them.
      test: The same.
      kind: Of the targets: ``"classification"``, ``"regression"``, whose whole numbers
        become floats, or None.
      class_names: Their names; None for their digits.
      source: What the data is called.
      seed: Of the random hold-outs.

    Raises:
      DataError: If an array is not what it should be.
    """
    seed = require_int(seed, "seed", 0)
    splits: dict[str, Examples] = {}
    shares: dict[str, int | float] = {}
    for name, given in zip(SPLITS, (train, valid, test), strict=True):
        if name == "train" or isinstance(given, tuple | list):
            splits[name] = _examples(given, name, kind)
        else:
            shares[name] = check_share(given, name)
    _check_alike(splits)
    for name in ("test", "valid"):
        if name in shares:
            splits |= _hold_out(splits["train"], shares[name], name, seed)
    names = None
    if kind == "classification":
        names = _class_names(splits, class_names)
        _check_several(splits["train"].targets)
    about = names, printable(str(source))
    return ArrayDataset(splits["train"], splits["valid"], splits["test"], *about)


def to_inputs(inputs: ArrayLike, where: str) -> np.ndarray:
    """Inputs as ``float32`` or ``int32[n, ...]``.

    Raises:
      DataError: If they are of another dtype, or one of them is not finite.
    """
    found = _as_array(inputs, where, _REPLACE)
    if found.ndim < 2:
        raise DataError(
            where,
            f"an array of shape {found.shape}",
            "the shape [examples, ...], with at least one axis for an input",
            "give one number for each example as x.reshape(-1, 1)",
        )
    _check_not_empty(found, where)
    return found


def _examples(given: Any, name: str, kind: str | None) -> Examples:
    x, y = require_pair(given, name, "(inputs, targets)")
    inputs = to_inputs(x, f"inputs of {name}")
    is_class = kind == "classification"
    targets = _as_array(y, f"targets of {name}", _NUMBER if is_class else _REPLACE)
    if len(inputs) < 2:
        raise DataError(
            f"inputs of {name}",
            counted(len(inputs), "example"),
            "at least 2",
            "add some",
        )
    if targets.ndim < 1 or len(targets) != len(inputs):
        count = len(targets) if targets.ndim else "no axis of"
        raise DataError(
            f"targets of {name}",
            counted(count, "target"),
            f"{len(inputs)}, one for each input",
            "give inputs and targets with the same leading axis, the examples",
        )
    _check_not_empty(targets, f"targets of {name}")
    if is_class:
        _check_classes(targets, f"targets of {name}")
    if kind == "regression":
        targets = targets.astype(np.float32)
    return Examples(inputs, targets)


def _as_array(given: Any, where: str, remedy: str) -> np.ndarray:
    """An array of finite numbers, ``float32`` or ``int32``."""
    found = require_array(given, where)
    if found.dtype == bool or np.issubdtype(found.dtype, np.integer):
        dtype, is_float = "int32", False
    elif np.issubdtype(found.dtype, np.floating):
        dtype, is_float = "float32", True
    else:
        example = f", such as {shorten(found.flat[0])}" if found.size else ""
        raise DataError(
            where,
            f"values of dtype {found.dtype}{example}",
            "numbers",
            remedy,
        )
    if is_float and not np.isfinite(found).all():
        rows = ~np.isfinite(found).reshape(len(found), -1).all(1)
        first = int(np.flatnonzero(rows)[0])
        kind = "NaN" if np.isnan(found[first]).any() else "infinity"
        raise DataError(
            where,
            f"{kind} in example {first}; {rows.sum():,} of {len(found):,} examples "
            "have values that are not finite",
            "finite numbers",
            "leave out these examples, or fill in what is missing",
        )
    if found.size and np.abs(found.astype(np.float64)).max() > _MOST[dtype]:
        raise DataError(
            where, f"values beyond {dtype}", f"values of {dtype}", "scale them"
        )
    return found.astype(dtype)


def _check_classes(targets: np.ndarray, where: str) -> None:
    if targets.dtype != np.int32:
        found = f"targets that are floats, such as {targets.flat[0]}"
        raise DataError(where, found, "numbers of classes, whole", _NUMBER)
    if targets.min() < 0:
        found = f"the class {targets.min()}"
        raise DataError(where, found, "classes from 0 to C - 1", _NUMBER)


def _check_several(targets: np.ndarray) -> None:
    """Checks that there is something to tell apart."""
    if targets.min() == targets.max():
        raise DataError(
            "targets of train",
            f"a single class, {targets.min()}",
            "two classes or more",
            "add examples of another class, and check that it is the right array",
        )


def _check_not_empty(found: np.ndarray, where: str) -> None:
    """Checks that an example has values; without examples there is nothing to check."""
    if 0 in found.shape[1:]:
        raise DataError(
            where,
            f"an array of shape {found.shape}",
            "at least one value for an example",
            "pass the array that has them",
        )


def _check_alike(splits: dict[str, Examples]) -> None:
    """Checks that splits differ in the number of examples alone."""
    for name, split in splits.items():
        for what in Examples._fields:
            own, first = getattr(split, what), getattr(splits["train"], what)
            if own.shape[1:] != first.shape[1:] or own.dtype != first.dtype:
                raise DataError(
                    f"{what} of {name}",
                    f"{own.dtype}{list(own.shape[1:])} for an example",
                    f"{first.dtype}{list(first.shape[1:])}, as in train",
                    "prepare all splits alike",
                )


def _hold_out(
    split: Examples, share: int | float, name: str, seed: int
) -> dict[str, Examples]:
    """What stays and what is held out, at random."""
    total = len(split.inputs)
    count = share if isinstance(share, int) else round(share * total)
    if not 2 <= count <= total - 2:
        raise DataError(
            f"argument {name}",
            f"{share}, which is {count} of {total} training examples",
            f"2 to {total - 2} of them",
            f"choose {name} within that, or pass {name}=(x, y)",
        )
    rng = np.random.default_rng([seed, *name.encode()])
    held = np.zeros(total, bool)
    held[rng.permutation(total)[:count]] = True
    return {
        "train": Examples(*(x[~held] for x in split)),
        name: Examples(*(x[held] for x in split)),
    }


def _class_names(
    splits: dict[str, Examples], given: Sequence[str] | None
) -> tuple[str, ...]:
    """The name of each class; a DataError if a class has none."""
    most = max(int(split.targets.max()) for split in splits.values())
    if given is None:
        return tuple(map(str, range(max(most + 1, 2))))
    names = require_names(given)
    if len(names) <= most:
        raise DataError(
            "argument class_names",
            f"{len(names)} names, and class {most} among the targets",
            "a name for each class",
            "give the names of all classes, in the order of their numbers",
        )
    return names


def place(dataset: ArrayDataset, standardize: bool) -> Data:
    """The data as arrays of JAX, each split in a random order of its own.

    In files classes often come one after the other, and a batch of one class is no
    sample of the data.

    Args:
      dataset: The data.
      standardize: Whether each feature, the last axis of inputs, gets mean 0 and
        deviation 1 over the training examples.
    """

    def shuffled(split: Examples) -> Examples:
        order = np.random.default_rng(0).permutation(len(split.inputs))
        return Examples(*(jnp.asarray(x[order]) for x in split))

    mean, deviation = np.float32(0), np.float32(1)
    if standardize:
        features = dataset.train.inputs.reshape(-1, dataset.input_shape[-1])
        mean = features.mean(0, np.float64).astype(np.float32)
        deviation = features.astype(np.float64).std(0).astype(np.float32)
        deviation[deviation == 0] = 1  # A constant feature becomes 0.
    train, valid, test = map(shuffled, (dataset.train, dataset.valid, dataset.test))
    return Data(train, valid, test, jnp.asarray(mean), jnp.asarray(deviation))
