"""Arrays of one's own: what is wrong with them is said, and splits are disjoint."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tabular import numbers

import wpl_jax
from wpl_jax.data import DataError
from wpl_jax.errors import UserError
from wpl_jax.tasks.array_data import place

X, Y = numbers(20)


def with_value(array, place, value):
    found = array.copy()
    found[place] = value
    return found


@pytest.mark.parametrize(
    ("train", "said"),
    [
        (
            (with_value(X, (7, 1), np.nan), Y),
            r"inputs of train: found NaN in example 7",
        ),
        ((with_value(X, 3, np.inf), Y), "infinity in example 3; 1 of 20 examples"),
        ((X, with_value(Y, 4, np.nan)), "targets of train: found NaN in example 4"),
        ((X, Y[:-1]), "found 19 targets; expected 20, one for each input"),
        ((X, 3.0), "found no axis of targets"),
        ((X[:, 0], Y), r"shape \(20,\).*x\.reshape\(-1, 1\)"),
        ((X[:1], Y[:1]), "found 1 example; expected at least 2"),
        ((X.astype(str), Y), "values of dtype <U.*replace text by numbers"),
        ((X.astype(object), Y), "values of dtype object"),
        ((X * 1e39, Y), "values beyond float32"),
        ((X, np.full(20, 2**40)), "values beyond int32"),
        (X, r"argument train: found .*expected a pair \(inputs, targets\)"),
        (
            (np.ma.masked_array(X, X[3, 1] == X), Y),
            "masked values in example 3; 1 of 20 examples",
        ),
        (
            ([[1.0, 2.0], [3.0]] * 10, Y),
            "inputs of train: found a value of type list that numpy",
        ),
        ((X[:, :0], Y), r"inputs of train: found an array of shape \(20, 0\)"),
        ((X, Y[:, :0]), r"targets of train: found an array of shape \(20, 0\)"),
    ],
)
def test_wrong_arrays_are_named(train, said):
    with pytest.raises(DataError, match=said):
        wpl_jax.task(kind="regression", train=train)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"valid": (X[:, :2], Y)}, r"inputs of valid: found float32\[2\].*as in train"),
        ({"test": (X, Y[:, 0])}, r"targets of test: found float32\[\]"),
        ({"test": (X.astype(int), Y)}, r"found int32\[3\].*float32\[3\]"),
        ({"valid": 0.01}, "0.01, which is 0 of 16 training examples; expected 2 to"),
        ({"test": 19}, "19, which is 19 of 20"),
        ({"test": None}, "argument test: found None"),
    ],
)
def test_splits_fit_together(arguments, said):
    with pytest.raises(DataError, match=said):
        wpl_jax.task(kind="regression", train=(X, Y), **arguments)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (np.arange(20) % 3 - 1, "found the class -1"),
        (np.ones(20, int), "found a single class, 1; expected two classes or more"),
        (np.arange(20) / 2, "targets that are floats, such as 0.0"),
        (np.array(["cat", "dog"] * 10), "such as .*'cat'.*number the classes from 0"),
        (np.zeros((20, 0), int), r"found an array of shape \(20, 0\)"),
    ],
)
def test_classes_are_numbers_from_zero(targets, said):
    with pytest.raises(DataError, match=said):
        wpl_jax.task(kind="classification", train=(X, targets))
    with pytest.raises(DataError, match="2 names, and class 2"):
        wpl_jax.task(
            kind="classification", train=(X, np.arange(20) % 3), class_names=["a", "b"]
        )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"class_names": "ab"}, "argument class_names: found 'ab'; expected a list"),
        ({"class_names": 2}, "argument class_names: found 2"),
        ({"seed": "0"}, "argument seed: found '0'"),
        ({"seed": -1, "valid": (X, np.arange(20) % 2)}, "argument seed: found -1"),
        ({"metrics": [abs]}, "metrics is .*, expected functions by name"),
        ({"kind": ["classification"]}, "kind is .*, expected one of"),
        ({"standardize": np.array([True, False])}, "standardize is"),
    ],
)
def test_wrong_arguments_are_named(arguments, said):
    given = {"kind": "classification", "train": (X, np.arange(20) % 2), **arguments}
    with pytest.raises(UserError, match=said):
        wpl_jax.task(**given)


class OnDevice:
    """An array of a library that numpy does not read, as PyTorch on a GPU."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("can't convert device type tensor to numpy")


def test_arrays_of_other_libraries_and_types_are_read_or_named():
    half = jnp.asarray(X, jnp.bfloat16)
    task = wpl_jax.task(kind="regression", train=(half, jnp.float16(Y)))
    exact = {tuple(row) for row in np.asarray(half, np.float64)}
    assert task.dataset.train.inputs.dtype == np.float32
    assert {tuple(row) for row in np.float64(task.dataset.train.inputs)} <= exact
    with pytest.raises(DataError, match="type OnDevice that numpy cannot read"):
        wpl_jax.task(kind="regression", train=(OnDevice(), Y))


def test_examples_are_held_out_at_random_and_once():
    x = np.arange(40.0).reshape(20, 2)
    task = wpl_jax.task(kind="regression", train=(x, x[:, :1]), valid=3, test=0.25)
    again = wpl_jax.task(kind="regression", train=(x, x[:, :1]), valid=3, test=0.25)
    other = wpl_jax.task(
        kind="regression", train=(x, x[:, :1]), valid=3, test=0.25, seed=1
    )
    splits = [task.dataset.train, task.dataset.valid, task.dataset.test]
    assert [len(split.inputs) for split in splits] == [12, 3, 5]
    rows = np.concatenate([split.inputs for split in splits])
    assert sorted(map(tuple, rows)) == sorted(map(tuple, x))
    for split in splits:
        np.testing.assert_array_equal(split.inputs[:, :1], split.targets)
    np.testing.assert_array_equal(again.dataset.test.inputs, splits[2].inputs)
    assert not np.array_equal(other.dataset.test.inputs, splits[2].inputs)


def test_features_are_standardized_by_the_training_examples():
    x, y = numbers(30)
    x = np.concatenate([x, np.full((30, 1), 7.0)], 1)  # A feature that is constant.
    given = {"train": (x[:20], y[:20]), "valid": (x[20:25], y[20:25])}
    task = wpl_jax.task(kind="regression", test=(x[25:], y[25:]), **given)
    data = jax.device_get(place(task.dataset, standardize=True))
    np.testing.assert_allclose(data.mean, x[:20].mean(0), rtol=1e-6)
    expected = [*x[:20, :3].std(0), 1]
    np.testing.assert_allclose(data.deviation, expected, rtol=1e-6)
    # In another order, inputs and targets alike.
    pairs = {tuple(row): float(t[0]) for row, t in zip(*data.train, strict=True)}
    rows = np.float32(x[:20])
    assert pairs == {
        tuple(r): np.float32(t) for r, t in zip(rows, y[:20, 0], strict=True)
    }


def test_whole_numbers_stay_whole_and_become_floats_where_they_are_targets():
    x = np.arange(40).reshape(20, 2)
    task = wpl_jax.task(kind="regression", train=(x, x[:, :1]))
    assert task.dataset.train.inputs.dtype == np.int32
    assert task.dataset.train.targets.dtype == np.float32
    x = x % 2 == 0
    task = wpl_jax.task(kind="classification", train=(x, np.arange(20) % 3 == 0))
    assert task.dataset.train.targets.dtype == np.int32
    assert task.dataset.class_names == ("0", "1")
    assert task.dataset.describe() == (
        "arrays: examples 14 train, 2 valid, 4 test; inputs 2; 2 classes"
    )
