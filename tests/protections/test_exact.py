"""The exact Fisher of a search, against a loop over classes in float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import tiny_search
from helpers.on_devices import on

from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.errors import UserError
from wpl_jax.jobs.search_config import make_search
from wpl_jax.protections import estimators
from wpl_jax.protections.estimators import Exact, PerExample
from wpl_jax.protections.protection import Trained
from wpl_jax.supernet import Architecture, gather

BATCHES, ROWS, WORDS, INPUTS, CLASSES = 3, 4, 2, 3, 5
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(INPUTS, CLASSES)).astype(np.float32)
DATA = {
    split: (
        RNG.normal(size=(BATCHES, ROWS, WORDS, INPUTS)).astype(np.float32),
        RNG.integers(CLASSES, size=(BATCHES, ROWS, WORDS)),
    )
    for split in ("train", "valid")
}


class Sequences:
    """A softmax regression at each place of a sequence; the loss is their mean."""

    def log_probabilities(self, child, architecture, example):
        return jax.nn.log_softmax(example[0] @ child)

    def example_loss(self, child, architecture, example):
        log_p = self.log_probabilities(child, architecture, example)
        return -jnp.mean(jnp.take_along_axis(log_p, example[1][:, None], 1))

    def sample_labels(self, key, child, architecture, example):
        log_p = self.log_probabilities(child, architecture, example)
        return example[0], jax.random.categorical(key, log_p)

    def fisher_examples(self, child, architecture, data, split, step, axis):
        return axis.shard(
            jax.tree.map(lambda x: jnp.asarray(x)[step % BATCHES], data[split])
        )


def estimate(estimator, number=1, key=0, axis=NO_AXIS):
    trained = Trained(jnp.asarray(KERNEL), None, jnp.int32(number))
    return estimator.estimate(trained, Sequences(), DATA, jax.random.key(key), axis)


def reference(split="valid", numbers=(1,)):
    """E (d mean_t log p_t)^2 over all labels of a sequence, which are independent."""
    found = []
    for number in numbers:
        for row in np.float64(DATA[split][0][number % BATCHES]):
            for x in row:
                z = x @ np.float64(KERNEL)
                p = np.exp(z - z.max())
                p /= p.sum()
                scores = np.eye(CLASSES) - p
                squares = np.einsum("y,i,yk->ik", p, x**2, scores**2)
                found.append(squares / WORDS**2)
    return np.sum(found, 0) / ROWS / len(numbers)


def test_it_is_the_expectation_over_the_labels_of_a_mean_loss():
    got = jax.jit(lambda: estimate(Exact(chunk_size=3)))()
    np.testing.assert_allclose(got, reference(), rtol=2e-5)
    got = estimate(Exact(split="train", batches=2))
    np.testing.assert_allclose(got, reference("train", (2, 3)), rtol=2e-5)


@pytest.mark.parametrize(
    "estimator", [Exact(samples=2), PerExample(labels="model")], ids=["signs", "labels"]
)
def test_estimates_that_are_drawn_have_it_as_their_mean(estimator):
    draws = 1000
    keys = jnp.arange(draws)
    found = jax.jit(lambda: jax.lax.map(lambda k: estimate(estimator, key=k), keys))()
    error = np.std(found, 0, ddof=1) / np.sqrt(draws)
    assert (np.abs(np.mean(found, 0) - reference()) < 5 * error).all()


@pytest.mark.parametrize("samples", [None, 2])
def test_on_several_devices_it_is_the_same(samples):
    exact = Exact(samples=samples)
    want = jax.jit(lambda: estimate(exact))()
    got = on(2, lambda _: estimate(exact, axis=Axis(2)), jnp.zeros(()))
    np.testing.assert_allclose(got, want, rtol=1e-5)


# In a search.


def test_a_language_model_needs_samples(monkeypatch):
    monkeypatch.setattr(estimators, "MOST_PASSES", 100)
    search, data, _ = make_search(tiny_search.get_config())
    task, space = search.task, search.task.space
    architecture = Architecture(jnp.zeros(len(space.decisions), jnp.int32))

    def estimate(exact):
        def run(key):
            child = gather(space.init(key), space.rows(architecture))
            trained = Trained(child, architecture, jnp.int32(0))
            return child, exact.estimate(trained, task, data, key)

        return jax.eval_shape(run, jax.random.key(0))

    passes = space.vocabulary_size * task.length
    with pytest.raises(UserError, match=rf"{passes} backward passes.*samples to 1"):
        estimate(Exact())
    child, found = estimate(Exact(samples=1))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, child)


def test_a_configuration_chooses_it():
    config = tiny_search.get_config()
    config.penalty.wpl.estimator = "exact"
    config.penalty.wpl.exact.samples = 3
    search, _, _ = make_search(config)
    assert search.protection.estimator == Exact(samples=3)
