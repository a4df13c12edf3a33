"""Tasks of arrays: against the task of images, and against float64 numpy."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.compiling import compilations
from helpers.tabular import Layers, Normalized, layers_in_numpy, numbers

import wpl_jax
from wpl_jax.data import images_of_arrays
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.errors import UserError
from wpl_jax.protections.estimators import Exact
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.image_classification import ImageClassification
from wpl_jax.tasks.objective import Objective

ROUNDING = {"rtol": 2e-5, "atol": 2e-6}
SHAPE, CLASSES, BATCH = (4, 5, 2), 3, 8


def images(count, seed):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    return pixels, rng.integers(0, CLASSES, count, dtype=np.int32)


SPLITS = {"train": images(43, 0), "valid": images(21, 1), "test": images(13, 2)}
SPACE = Normalized(SHAPE, CLASSES)
OF_IMAGES = ImageClassification(SPACE, batch_size=BATCH)
OF_ARRAYS = wpl_jax.task(kind="classification", standardize=True, **SPLITS)(
    SPACE, batch_size=BATCH
)


@functools.cache
def both():
    """Of the two tasks the data; a child of either."""
    dataset = images_of_arrays(**SPLITS)
    of_images = OF_IMAGES.put(dataset, ONE_DEVICE)
    own = OF_ARRAYS.open()
    OF_ARRAYS.check(own)
    of_arrays = OF_ARRAYS.put(own, ONE_DEVICE)
    architecture = Architecture(jnp.array([1]))
    params = SPACE.init(jax.random.key(0))
    return of_images, of_arrays, gather(params, SPACE.rows(architecture)), architecture


def assert_equal(function):
    """The same of both tasks, a function of the task and its data."""
    of_images, of_arrays, child, architecture = both()
    expected = jax.jit(lambda c, d: function(OF_IMAGES, c, architecture, d))(
        child, of_images
    )
    found = jax.jit(lambda c, d: function(OF_ARRAYS, c, architecture, d))(
        child, of_arrays
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **ROUNDING),
        jax.tree.leaves(found),
        jax.tree.leaves(expected),
    )
    return found


def test_data_is_that_of_the_image_task():
    of_images, of_arrays, *_ = both()
    for name in SPLITS:
        expected, found = getattr(of_images, name), getattr(of_arrays, name)
        np.testing.assert_array_equal(found.inputs, expected.images)
        np.testing.assert_array_equal(found.targets, expected.labels)
    np.testing.assert_allclose(of_arrays.mean, of_images.mean, rtol=1e-6)
    np.testing.assert_allclose(of_arrays.deviation, of_images.deviation, rtol=1e-6)
    for task in (OF_IMAGES, OF_ARRAYS):
        data = of_images if task is OF_IMAGES else of_arrays
        assert [task.num_batches(data, s) for s in SPLITS] == [5, 2, 1]
        assert [task.batches_of_split(data, s) for s in SPLITS] == [6, 3, 2]


def test_losses_and_gradients_are_those_of_the_image_task():
    def trained(task, child, architecture, data):
        def loss(child, step):
            key = jax.random.key(1)
            return task.train_loss(child, architecture, data, (), step, key)[0]

        steps = jnp.array([0, 3, 17])
        return jax.vmap(jax.value_and_grad(loss), (None, 0))(child, steps)

    found, _ = assert_equal(trained)
    assert len(set(np.asarray(found).tolist())) == 3

    def of_fisher(task, child, architecture, data):
        def one(child, example):
            return task.example_loss(child, architecture, example)

        examples = task.fisher_examples(child, architecture, data, "valid", 1)
        each = jax.vmap(jax.grad(one), (None, 0))(child, examples)
        return each, task.fisher_loss(child, architecture, data, "valid", 1)

    each, _ = assert_equal(of_fisher)
    assert len(each["kernel"]) == BATCH


@pytest.mark.slow
def test_evaluations_and_predictions_are_those_of_the_image_task():
    def evaluated(task, child, architecture, data):
        statistics = task.statistics(child, architecture, data)
        args = child, architecture, data
        return {
            "statistics": statistics,
            "validate": task.validate(*args, 1, 3),
            "evaluate": [task.evaluate(*args, split) for split in SPLITS],
            "with": task.evaluate_with(statistics, *args, "test"),
            "predict": task.predict(*args, jnp.asarray(SPLITS["test"][0])),
            "last": task.predict_batch(*args, "test", 1, task.begin_split(*args))[0],
        }

    assert_equal(evaluated)

    def ensemble(task, child, architecture, data):
        carry = task.begin_split(child, architecture, data)

        def score(index):
            found, _ = task.predict_batch(
                child, architecture, data, "test", index, carry
            )
            return task.score(found, data, "test", index)

        return task.conclude(jax.tree.map(jnp.add, score(0), score(1)))

    assert_equal(ensemble)
    for task in (OF_ARRAYS, OF_IMAGES):
        assert task.reward(task.conclude((8.0, 300.0, 4.0))) == 0.25


@pytest.mark.slow
def test_devices_share_a_batch():
    _, data, child, architecture = both()
    args = child, architecture

    def run(axis):
        def function(data):
            loss, _ = OF_ARRAYS.train_loss(*args, data, (), 3, jax.random.key(0), axis)
            examples = OF_ARRAYS.fisher_examples(*args, data, "train", 2, axis)
            return (
                axis.mean(loss),
                OF_ARRAYS.validate(*args, data, 1, 3, axis),
                OF_ARRAYS.evaluate(*args, data, "test", axis),
                OF_ARRAYS.measure(None, *args, data, "test", axis),
                axis.all_gather(examples),
            )

        return function

    devices = Devices(2)
    expected = jax.jit(run(ONE_DEVICE.every))(data)
    found = devices.compile(run(devices.every))(devices.replicate(data))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, **ROUNDING), found, expected
    )


# Regression, and losses of one's own, against float64 numpy.


def tasks_of_numbers(space=None, **arguments):
    x, y = numbers(40)
    given = {"train": (x[:24], y[:24]), "valid": (x[24:32], y[24:32])}
    given |= {"test": (x[32:], y[32:]), **arguments}
    return wpl_jax.task(**given)(space or Layers((3,)), batch_size=4), (x, y)


def test_a_regression_is_that_of_float64():
    task, (x, y) = tasks_of_numbers(
        kind="regression",
        standardize=True,
        metrics={"MAE": lambda outputs, targets: jnp.abs(outputs - targets)[:, 0]},
    )
    data = task.put(task.open(), ONE_DEVICE)
    architecture = Architecture(jnp.array([0, 1]))
    params = task.space.init(jax.random.key(0))
    child = gather(params, task.space.rows(architecture))
    scaled = (x - x[:24].mean(0)) / x[:24].std(0)
    outputs = layers_in_numpy(child, [0, 1], scaled)
    args = child, architecture, data
    for split, part in (("valid", slice(24, 32)), ("test", slice(32, 40))):
        loss, error = jax.jit(task.evaluate, static_argnums=3)(*args, split)
        squares = (outputs[part] - y[part]) ** 2
        np.testing.assert_allclose(loss, squares.mean() / 2, rtol=1e-5)
        np.testing.assert_allclose(error, np.sqrt(squares.mean()), rtol=1e-5)
        found = jax.jit(task.measure, static_argnums=4)(None, *args, split)
        expected = np.abs(outputs[part] - y[part]).mean()
        np.testing.assert_allclose(found["MAE"], expected, rtol=1e-5)
    found = jax.jit(task.predict)(*args, x)
    np.testing.assert_allclose(found, outputs, rtol=1e-4, atol=1e-5)
    # The gradient of half the squares, by central differences of numpy.
    slope = jax.jit(jax.grad(task.fisher_loss), static_argnums=3)
    found = np.asarray(slope(*args, "test", 0)["last"])
    order = np.random.default_rng(0).permutation(8)[:4]
    inputs, targets = scaled[32:][order], y[32:][order]
    for i in range(4):
        sides = []
        for sign in (1, -1):
            moved = {k: np.array(v, np.float64) for k, v in child.items()}
            moved["last"][i] += sign * 1e-5
            y_hat = layers_in_numpy(moved, [0, 1], inputs)
            sides.append(((y_hat - targets) ** 2).sum(1).mean() / 2)
        slope = (sides[0] - sides[1]) / 2e-5
        np.testing.assert_allclose(found[i, 0], slope, rtol=1e-4)
    np.testing.assert_allclose(task.reward(task.conclude((1.0, 36.0, 4.0))), 1 / 4)


def test_targets_are_drawn_from_the_model():
    task, _ = tasks_of_numbers(kind="regression")
    keys = jax.random.split(jax.random.key(0), 500)
    outputs = jnp.array([2.0, -3.0])
    drawn = jax.vmap(task.objective.sample, (0, None))(keys, outputs)
    assert scipy.stats.kstest(np.ravel(drawn - outputs), "norm").pvalue > 1e-3
    chances = np.array([0.2, 0.5, 0.3])
    scores = jnp.log(jnp.float32(chances))
    drawn = jax.vmap(OF_ARRAYS.objective.sample, (0, None))(keys, scores)
    counts = np.bincount(drawn, minlength=3)
    assert scipy.stats.chisquare(counts, 500 * chances).pvalue > 1e-3
    _, data, child, architecture = both()
    examples = OF_ARRAYS.fisher_examples(child, architecture, data, "valid", 0)
    one = jax.tree.map(lambda x: x[0], examples)
    other = OF_ARRAYS.sample_labels(jax.random.key(0), child, architecture, one)
    assert other.targets.dtype == one.targets.dtype
    assert other.inputs is one.inputs


def test_classes_have_log_probabilities_for_the_exact_fisher():
    _, data, child, architecture = both()
    examples = OF_ARRAYS.fisher_examples(child, architecture, data, "valid", 0)
    one = jax.tree.map(lambda x: x[0], examples)
    log_p = np.float64(OF_ARRAYS.log_probabilities(child, architecture, one))
    np.testing.assert_allclose(np.exp(log_p).sum(), 1, rtol=1e-5)
    loss = OF_ARRAYS.example_loss(child, architecture, one)
    np.testing.assert_allclose(loss, -log_p[one.targets], rtol=1e-5)
    Exact().check_task(OF_ARRAYS)
    numbers, _ = tasks_of_numbers(kind="regression")
    with pytest.raises(UserError, match="the task has none"):
        Exact().check_task(numbers)


def huber(outputs, targets):
    off = jnp.abs(outputs - targets)[:, 0]
    return jnp.where(off < 1, off**2 / 2, off - 0.5)


@pytest.mark.parametrize(
    ("arguments", "loss_of"),
    [
        ({"kind": "regression"}, lambda off: off**2 / 2),
        ({"loss": lambda a, b: ((a - b) ** 2)[:, 0]}, lambda off: off**2),
        (
            {"loss": huber},
            lambda off: np.where(abs(off) < 1, off**2 / 2, abs(off) - 0.5),
        ),
    ],
)
def test_a_guess_is_the_best_constant(arguments, loss_of):
    task, (_, y) = tasks_of_numbers(**arguments)
    guess = task.guess(task.put(task.open(), ONE_DEVICE))
    grid = np.linspace(-4, 4, 4001)
    best = grid[np.argmin([loss_of(c - y[:24]).mean() for c in grid])]
    losses = loss_of(best - y[24:32])
    np.testing.assert_allclose(guess.loss, losses.mean(), rtol=5e-3)
    if task.error_name == "RMSE":
        squares = (y[:24].mean() - y[24:32]) ** 2
        least = squares.mean() - 3 * squares.std() / np.sqrt(8)
        np.testing.assert_allclose(guess.error, np.sqrt(squares.mean()), rtol=1e-5)
        np.testing.assert_allclose(guess.least_error, np.sqrt(max(least, 0)), rtol=1e-4)
    else:
        np.testing.assert_allclose(guess.error, guess.loss, rtol=1e-6)


def normal_loss(outputs, targets):
    """The negative log-likelihood of a mean and a deviation, but for a constant."""
    z = (targets[:, 0] - outputs[:, 0]) / outputs[:, 1]
    return z**2 / 2 + jnp.log(outputs[:, 1])


def test_a_guess_may_begin_where_the_loss_is_finite():
    """At zero this loss is none; the best constant is the mean and the deviation."""
    _, y = numbers(40)
    train, valid = y[:30, 0], y[30:36, 0]
    objective = Objective(normal_loss)
    form = jax.ShapeDtypeStruct((2,), jnp.float32)
    found = objective.guess(form, np.float32(y[:30]), np.float32(y[30:36]))
    z = (valid - train.mean()) / train.std()
    expected = (z**2 / 2 + np.log(train.std())).mean()
    np.testing.assert_allclose(found.loss, expected, rtol=1e-3)
    # An output that is always negative has none.
    nowhere = Objective(lambda outputs, targets: jnp.log(-jnp.exp(outputs[:, 0])))
    unknown = nowhere.guess(form, np.float32(y[:30]), np.float32(y[30:36]))
    assert not unknown.is_known


def test_an_equal_objective_compiles_no_second_guess(caplog):
    """A search that is run again makes another task of the same functions."""
    _, y = numbers(40)
    train, valid = np.float32(y[:30]), np.float32(y[30:36])
    form, found = jax.ShapeDtypeStruct((2,), jnp.float32), []

    def call(shift):
        # Of the same deviations; the constant that is found is another.
        objective = Objective(normal_loss, metrics=(("twice", normal_loss),))
        found.append(objective.guess(form, train + shift, valid + shift).loss)

    assert compilations(caplog, lambda: call(np.float32(0)))
    assert not compilations(caplog, lambda: call(np.float32(2)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)


def test_an_error_that_is_not_finite_for_a_target_is_said_before_a_training():
    def share(outputs, targets):
        return jnp.abs((outputs - targets) / targets)[:, 0]

    y = np.float32([[1.0], [0.0], [2.0]])
    objective = Objective(None, "regression", (("MAPE", share),), "MAPE")
    with pytest.raises(UserError, match=r"MAPE .* is inf for 1 of 3 .*target \[0\.0\]"):
        objective.guess(jax.ShapeDtypeStruct((1,), jnp.float32), y, y)


def test_a_guess_at_classes_is_by_their_frequencies():
    _, data, *_ = both()
    guess = OF_ARRAYS.guess(data)
    train, valid = SPLITS["train"][1], SPLITS["valid"][1]
    counts = np.bincount(train) + 1.0
    nats = -np.log(counts / counts.sum())[valid]
    np.testing.assert_allclose(guess.loss, nats.mean(), rtol=1e-5)
    wrong = 100 * (valid != counts.argmax())
    np.testing.assert_allclose(guess.error, wrong.mean(), rtol=1e-5)


def test_a_metric_may_be_the_error():
    task, _ = tasks_of_numbers(
        kind="regression",
        metrics={"distance": lambda a, b: jnp.abs(a - b)[:, 0]},
        error="distance",
        reward=lambda loss, error: 10 / (loss + error),
    )
    assert task.error_name == "distance"
    np.testing.assert_allclose(task.conclude((2.0, 12.0, 4.0)), (0.5, 3.0))
    np.testing.assert_allclose(task.reward(task.conclude((2.0, 12.0, 4.0))), 10 / 3.5)
    assert "distance=" in repr(task)


def put_numbers(**arguments):
    task, _ = tasks_of_numbers(**arguments)
    return task.put(task.open(), ONE_DEVICE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"loss": lambda a, b: jnp.mean((a - b) ** 2)}, "Leave out the mean over"),
        ({"loss": lambda a, b: (a - b) ** 2}, "Take the sum or the mean over the axes"),
        ({"loss": lambda a, b: jnp.argmax(a, 1)}, r"int32\[4\].*expected float32\[4\]"),
        ({"loss": lambda a, b: a @ b}, "loss fails for outputs"),
        (
            {"kind": "regression", "metrics": {"m": lambda a, b: a}},
            r"metrics\['m'\] returns float32\[4, 1\]",
        ),
        ({"kind": "classification"}, "targets that are floats"),
        ({"kind": "ranking", "loss": huber}, "kind is 'ranking', expected one of"),
        ({}, "A task needs loss="),
        ({"loss": 3}, "loss is 3, expected a function"),
        ({"loss": huber, "error": "MAE"}, "error is 'MAE', expected the name of one"),
        ({"loss": huber, "class_names": "ab"}, "class_names are for"),
        ({"loss": huber, "standardize": 2}, "standardize is 2"),
        (
            {"kind": "regression", "sample_targets": lambda key, y: y[0]},
            r"sample_targets returns float32\[\]",
        ),
        (
            {"kind": "regression", "sample_targets": lambda outputs: outputs},
            "sample_targets fails for a key and outputs",
        ),
        (
            {"kind": "regression", "reward": lambda error: -error},
            "reward fails for a loss and an error",
        ),
        (
            {"kind": "regression", "reward": lambda loss, error: jnp.zeros(4)},
            r"reward returns float32\[4\] for a loss and an error",
        ),
        (
            {"kind": "regression", "space": Layers((3,), (2,))},
            r"returns the shape \(4, 2\) for targets of shape \(4, 1\)",
        ),
        ({"kind": "regression", "space": Layers((5,))}, "does not take inputs of"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_compiled(arguments, said):
    with pytest.raises(UserError, match=said):
        put_numbers(**arguments)


def test_scores_of_classes_have_an_axis_more():
    x, _ = numbers(30)
    task = wpl_jax.task(kind="classification", train=(x, np.arange(30) % 2))
    one = task(Layers((3,), (1,)), batch_size=4)
    with pytest.raises(UserError, match=r"expected \(4, 'classes'\)"):
        one.put(one.open(), ONE_DEVICE)


def test_a_column_of_classes_is_named():
    x, _ = numbers(30)
    classes = np.arange(30).reshape(-1, 1) % 2
    task = wpl_jax.task(kind="classification", train=(x, classes))
    one = task(Layers((3,), (2,)), batch_size=4)
    with pytest.raises(UserError, match=r"Give targets as y\.reshape\(-1\)"):
        one.put(one.open(), ONE_DEVICE)


def test_a_batch_fits_in_each_split():
    task, _ = tasks_of_numbers(kind="regression")
    with pytest.raises(ValueError, match="at most 8, the examples of valid"):
        dataclasses.replace(task, batch_size=9).check(task.open())


@dataclasses.dataclass(frozen=True)
class Noisy(Layers):
    """A network that asks for a key."""

    def apply(self, child, architecture, inputs, key=None):
        y = super().apply(child, architecture, inputs)
        return y if key is None else y + 1 + jax.random.normal(key)


@pytest.mark.slow
def test_a_network_is_given_the_arguments_that_it_has():
    task, _ = tasks_of_numbers(kind="regression")
    noisy = dataclasses.replace(task, space=Noisy((3,)))
    data: Any = noisy.put(noisy.open(), ONE_DEVICE)
    architecture = Architecture(jnp.array([0, 1]))
    params = task.space.init(jax.random.key(0))
    child = gather(params, task.space.rows(architecture))
    args = child, architecture, data
    for one, differs in ((task, False), (noisy, True)):
        losses = {
            float(one.train_loss(*args, (), 0, jax.random.key(seed))[0])
            for seed in range(2)
        }
        assert (len(losses) == 2) == differs
    np.testing.assert_array_equal(
        noisy.evaluate(*args, "valid"), task.evaluate(*args, "valid")
    )


def test_the_loss_is_called_nats_only_where_it_is_known_to_be():
    def name(**given):
        return Objective(**given).name_of_loss

    def distance(outputs, targets):
        return jnp.abs(outputs - targets)[:, 0]

    assert name(kind="classification") == "nats"
    assert name(kind="classification", loss=distance) == "loss"
    assert name(kind="classification", loss=distance, loss_name="bits") == "bits"
    assert name(kind="regression") == name(loss=distance) == "loss"
    assert name(kind="regression", loss_name="kWh²") == "kWh²"
    with pytest.raises(UserError, match="loss_name is 3, expected text"):
        name(kind="regression", loss_name=3)
