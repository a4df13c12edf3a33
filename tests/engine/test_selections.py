"""The best of a selection, and what is said if none is allowed."""

import json
import types

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import toy
from helpers.written_search import make_search

from wpl_jax.engine.state import Selection
from wpl_jax.jobs.results import write_results
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Evaluation

CHOICES = np.array([[0, 1], [1, 1], [2, 0], [2, 2]], np.int32)
CANDIDATES = Candidates(4, 1, 3)


def selection(allowed):
    """Numbers 2, 0 and 3 were judged: 3 has the lowest error, then 2, then 0."""
    return Selection(
        Architecture(jnp.asarray(CHOICES)),
        Evaluation(jnp.zeros(4), jnp.arange(4.0)),
        jnp.array([2, 0, 3]),
        Evaluation(jnp.array([0.5, 0.1, 0.25]), jnp.array([2.0, 3.0, 1.0])),
        jnp.array(allowed),
    )


@pytest.mark.parametrize(
    ("allowed", "order"),
    [
        ([True] * 4, [3, 2, 0]),
        ([True, True, True, False], [2, 0, 3]),  # What is not allowed comes last.
        ([False] * 4, [3, 2, 0]),
    ],
)
def test_the_best_is_the_first_of_those_that_were_kept(allowed, order):
    numbers = {3: (0.25, 1.0), 2: (0.5, 2.0), 0: (0.1, 3.0)}
    found = selection(allowed).ranked(CANDIDATES)
    np.testing.assert_array_equal(found.choice, CHOICES[order])
    expected = np.array([numbers[i] for i in order], np.float32)
    np.testing.assert_array_equal(np.stack([found.loss, found.error], 1), expected)
    np.testing.assert_array_equal(found.allowed, np.array(allowed)[order])
    best = selection(allowed).best(CANDIDATES)
    np.testing.assert_array_equal(best.choice, CHOICES[order[0]])
    assert best[1:] == (*map(float, expected[0]), allowed[order[0]])


@pytest.mark.parametrize("allowed", [True, False])
def test_the_message_names_both_that_forbid_candidates(allowed, tmp_path, capsys):
    task = toy.ToyTask(toy.ToySpace())
    search = make_search(task, strategy=RandomSearch(task.space, CANDIDATES))
    state = types.SimpleNamespace(selection=selection([allowed] * 4))
    write_results(search, task.guess(toy.make_data()), state, tmp_path, "A search")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["architecture"] == CHOICES[3].tolist()
    assert (results["valid_loss"], results["valid_error"]) == (0.25, 1.0)
    printed = capsys.readouterr().out
    assert ("config.limits" in printed) == ("config.reward" in printed) == (not allowed)
