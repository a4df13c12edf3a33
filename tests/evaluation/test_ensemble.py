"""Ensembles of children, against the mean of probabilities in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.common.settings import SettingError
from wpl_jax.data import images_of_arrays, text_of_strings
from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.devices.parallel import Devices
from wpl_jax.engine.evaluator import Evaluator
from wpl_jax.errors import UserError
from wpl_jax.evaluation import ensemble
from wpl_jax.evaluation.ensemble import Ensemble, EnsembleSettings, Growing
from wpl_jax.spaces.images import Outputs
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import ALL, Architecture, Decision, Space, gather
from wpl_jax.tasks import Evaluation
from wpl_jax.tasks.image_classification import ImageClassification, Normalization
from wpl_jax.tasks.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Linear(Space):
    """One of three linear models."""

    name = "linear"
    decisions = (Decision("kernel", ("0", "1", "2")),)

    def init(self, key):
        return {"kernel": jax.random.normal(key, (3, 12, 4)), "bias": jnp.ones(4)}

    def rows(self, architecture):
        return {"kernel": architecture.choice, "bias": ALL}

    def apply(self, child, architecture, images, *, batch_stats=None, axis=NO_AXIS):
        x = images.reshape(len(images), -1)
        if batch_stats is None:
            batch_stats = axis.mean(jnp.mean(x, 0))
        return Outputs(
            (x - batch_stats) @ child["kernel"][0] + child["bias"], None, batch_stats
        )


def of_images():
    rng = np.random.default_rng(0)

    def split(count):
        images = rng.integers(256, size=(count, 2, 3, 2), dtype=np.uint8)
        return images, rng.integers(4, size=count)

    dataset = images_of_arrays(split(24), split(13), split(10))
    task = ImageClassification(
        Linear(), batch_size=4, normalization=Normalization("train", 3)
    )
    choices = np.array([[0], [2], [1]], np.int32)

    def inputs_and_targets(data, which):
        found = getattr(dataset, which)
        return found.images, np.asarray(found.labels)

    return task, dataset, choices, inputs_and_targets


def of_text():
    rng = np.random.default_rng(0)
    words = list("abcdefg")
    dataset = text_of_strings(*(" ".join(rng.choice(words, n)) for n in (90, 61, 50)))
    space = RecurrentCell(dataset.vocabulary_size, hidden=4, num_nodes=2)
    choices = np.array([[0, 0, 1], [2, 0, 3], [1, 0, 0]], np.int32)

    def inputs_and_targets(data, which):
        streams = np.asarray(getattr(data, which))
        return streams[:, :-1], streams[:, 1:]

    return (
        LanguageModel(space, length=7, batch_size=4),
        dataset,
        choices,
        inputs_and_targets,
    )


def predict_one(task, params, choice, data, inputs):
    one = Architecture(choice)
    child = gather(params, task.space.rows(one))
    return task.predict(child, one, data, inputs)


@pytest.mark.slow_except("of_images-valid", "of_text-test")
@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("make", [of_images, of_text])
def test_an_ensemble_predicts_the_mean_of_its_members_probabilities(make, split):
    task, dataset, choices, inputs_and_targets = make()
    params = jax.jit(task.space.init)(jax.random.key(0))
    data, predict = task.put(dataset, Devices()), jax.jit(predict_one, static_argnums=0)
    members = Architecture(jnp.asarray(choices))
    found = Ensemble(task).evaluate(params, members, data, split)
    inputs, targets = inputs_and_targets(data, split)
    total = 0.0
    for k, choice in enumerate(choices):
        predicted = predict(task, params, choice, data, jnp.asarray(inputs))
        own = np.exp(np.asarray(predicted, np.float64))
        total = total + own
        for part, p in ((found.together, total / (k + 1)), (found.alone, own)):
            log_p = np.log(p)
            loss = -np.take_along_axis(log_p, targets[..., None], -1).mean()
            np.testing.assert_allclose(part.loss[k], loss, rtol=1e-5)
            error = min(np.exp(loss), log_p.shape[-1])  # as a guess
            if make is of_images:
                error = 100 * np.mean(np.argmax(log_p, -1) != targets)
            np.testing.assert_allclose(part.error[k], error, rtol=1e-5)
    if split == "test":
        return
    # Of the last batch, the second device has no example.
    on_two = Devices(2)
    there = on_two.replicate((params, members))
    again = Ensemble(task, on_two).evaluate(*there, task.put(dataset, on_two), split)
    np.testing.assert_allclose(again.together.loss, found.together.loss, rtol=1e-5)
    np.testing.assert_allclose(again.alone.loss, found.alone.loss, rtol=1e-5)


@pytest.mark.parametrize("make", [of_images, of_text])
def test_an_ensemble_of_one_is_the_child(make):
    task, dataset, choices, _ = make()
    params = jax.jit(task.space.init)(jax.random.key(1))
    data = task.put(dataset, Devices())
    alone = Architecture(jnp.asarray(choices[1:2]))
    found = Ensemble(task).evaluate(params, alone, data, "valid")
    expected = Evaluator(task).evaluate(params, alone, data, "valid")
    np.testing.assert_allclose(found.together.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(found.together.error, expected.error, rtol=1e-5)


def test_members_are_the_best_of_their_isomorphism_classes():
    space = NasBench201((8, 8, 3), 10, 4, 1)
    zero = [0, 0, 0, 0, 0, 0]
    also_zero = [3, 0, 0, 0, 0, 0]  # A convolution that leads to nothing.
    skip, best = [0, 0, 0, 1, 0, 0], [3, 3, 3, 3, 3, 3]
    choices, every = np.array([best, also_zero, zero, skip]), np.ones(4, bool)
    found = ensemble.best_distinct(space, choices, every, 10)
    np.testing.assert_array_equal(found, [best, also_zero, skip])
    found = ensemble.best_distinct(space, choices, every, 2)
    np.testing.assert_array_equal(found, [best, also_zero])


def test_what_is_not_eligible_is_no_member_but_alone():
    space = NasBench201((8, 8, 3), 10, 4, 1)
    choices = np.array([[0, 0, 0, operation, 0, 0] for operation in (1, 2, 3, 4)])
    eligible = np.array([False, False, True, True])
    found = ensemble.best_distinct(space, choices, eligible, 10)
    np.testing.assert_array_equal(found, choices[[2, 3]])
    found = ensemble.best_distinct(space, choices, np.zeros(4, bool), 10)
    np.testing.assert_array_equal(found, choices[[0]])


def test_what_is_written_is_read(tmp_path):
    assert ensemble.read(tmp_path) is None
    numbers = Evaluation(np.array([0.5, np.nan]), np.array([10.0, 20.0]))
    others = Evaluation(np.array([1.5, 2.5]), np.array([30.0, 40.0]))
    found = {"valid": Growing(numbers, others), "test": Growing(others, numbers)}
    ensemble.write(tmp_path, np.array([[0, 1], [2, 3]]), found)
    again = ensemble.read(tmp_path)
    for split, growing in found.items():
        for one, other in zip(growing, again[split], strict=True):
            np.testing.assert_array_equal(one, other)
    path = tmp_path / ensemble.ENSEMBLE_FILE
    path.write_text(path.read_text().replace('"error"', '"mistake"'))
    with pytest.raises(UserError, match=r"ensemble\.json"):
        ensemble.read(tmp_path)


def test_wrong_settings_are_refused():
    with pytest.raises(SettingError, match="members"):
        EnsembleSettings(0)
