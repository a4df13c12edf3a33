"""Scores of all architectures in blocks, against children evaluated alone."""

import jax
import numpy as np
import pytest
from helpers import toy
from helpers.tiny import Death
from helpers.written_search import Written

from wpl_jax.data import images_of_arrays
from wpl_jax.devices.parallel import Devices
from wpl_jax.evaluation import architectures
from wpl_jax.evaluation.shared_scores import SharedScores
from wpl_jax.evaluation.tuning import Tuning
from wpl_jax.runs.machine import Machine
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.supernet import Architecture, gather
from wpl_jax.tasks.image_classification import ImageClassification

EVERY = architectures.every(toy.ToySpace())


def test_all_of_a_small_space_by_brute_force():
    """In numpy: on the first batches, or on all; whatever the size of a block."""
    data, params = toy.make_data(), toy.ToySpace().init(jax.random.key(0))
    written = Written(params, data, None)
    for batches, block in ((2, 4), (None, 4), (2, 100)):
        found = SharedScores(toy.ToyTask(), batches=batches, block=block).of(
            params, EVERY, data
        )
        expected = [written.loss(choice, written.data[1][:batches]) for choice in EVERY]
        np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
        np.testing.assert_allclose(
            found.error, np.sqrt(2 * np.array(expected)), rtol=1e-5
        )


def test_each_is_trained_alone_first_if_asked():
    """In numpy: momentum, the limit of the gradient's norm, and equal weights at first.

    There are more batches than data.
    """
    data, params = toy.make_data(), toy.ToySpace().init(jax.random.key(0))
    tuning = Tuning(7, 0.05, momentum=0.5, clip_norm=1.5)
    scores = SharedScores(toy.ToyTask(), batches=2, block=4, tuning=tuning)
    found = scores.of(params, EVERY, data)
    expected, clipped = [], 0
    for choice in EVERY:
        written = Written(params, data, None)
        parts = written.parts(choice)
        trace = dict.fromkeys(parts, 0.0)
        for number in range(7):
            batch = written.data[0][number % 5]
            gradient = written.gradient(choice, batch)
            norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
            clipped += norm > 1.5
            for k, g in gradient.items():
                trace[k] = 0.5 * trace[k] + g * min(1, 1.5 / norm)
                written.params[k][parts[k]] -= 0.05 * trace[k]
        expected.append(written.loss(choice, written.data[1][:2]))
    assert 0 < clipped < 7 * len(EVERY)
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)
    untrained = SharedScores(toy.ToyTask(), batches=2, block=4).of(params, EVERY, data)
    assert np.all(found.loss < untrained.loss)


@pytest.mark.slow
def test_children_of_nasbench201_are_as_when_they_run_alone():
    """The child's forward pass on each batch; accuracy and loss in numpy."""
    rng = np.random.default_rng(0)
    images = rng.integers(256, size=(3, 20, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(4, size=(3, 20))
    space = NasBench201((8, 8, 3), 4, channels=2, cells=1)
    task = ImageClassification(space, batch_size=8)
    dataset = images_of_arrays(*zip(images, labels, strict=True))
    data, params = task.put(dataset, Devices()), space.init(jax.random.key(0))
    inputs, labels = data.valid.images, np.asarray(data.valid.labels)[:16]
    choices = architectures.sample(space, 5)
    found = SharedScores(task, batches=2, block=3).of(params, choices, data)

    @jax.jit
    def predict(choice, images):
        one = Architecture(choice)
        return task.predict(gather(params, space.rows(one)), one, data, images)

    for place, choice in enumerate(choices):
        batches = (predict(choice, inputs[i : i + 8]) for i in (0, 8))
        log_p = np.concatenate([np.asarray(each, np.float64) for each in batches])
        loss = -log_p[np.arange(16), labels].mean()
        wrong = 100 * np.mean(log_p.argmax(1) != labels)
        np.testing.assert_allclose(found.loss[place], loss, rtol=1e-5)
        np.testing.assert_allclose(found.error[place], wrong, rtol=1e-5)


def test_a_kill_loses_at_most_a_block(tmp_path, monkeypatch):
    data, params = toy.make_data(), toy.ToySpace().init(jax.random.key(1))
    scores, evaluated = SharedScores(toy.ToyTask(), batches=3, block=2), []
    once = scores.of(params, EVERY, data)
    add = SharedScores._add

    def dies(self, found, number, *rest):
        evaluated.append(number)
        found = add(self, found, number, *rest)
        if len(evaluated) == 3:
            raise Death  # before it is saved
        return found

    monkeypatch.setattr(SharedScores, "_add", dies)

    def run():
        with Machine().requests() as requests:
            return scores.resumably(params, EVERY, data, tmp_path, "Toy", requests)

    with pytest.raises(Death):
        run()
    again = run()
    assert evaluated == [0, 1, 2, 2, 3, 4]
    jax.tree.map(np.testing.assert_array_equal, again, once)
    jax.tree.map(np.testing.assert_array_equal, run(), once)
    assert len(evaluated) == 6  # What is done is read.
