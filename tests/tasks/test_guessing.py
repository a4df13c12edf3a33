"""What guessing is worth, against plain loops, and who is told of it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from wpl_jax.jobs import search_loop
from wpl_jax.tasks import guessing
from wpl_jax.tasks.guessing import Guess, Model
from wpl_jax.two_models import report as two_models_report
from wpl_jax.two_models.analysis import Outcome


def test_of_classes_by_hand():
    labels = np.array([0, 0, 0, 0, 3, 3, 1, 1])  # Half, a quarter, a quarter.
    found = guessing.of_classes(labels)
    assert found.loss == pytest.approx(1.5 * math.log(2))
    assert found.error == pytest.approx(50)
    # A Bernoulli variable's standard error, of eight.
    assert found.least_error == pytest.approx(max(50 - 300 * math.sqrt(0.25 / 8), 0))


@pytest.mark.parametrize("count", [100, 10_000])
def test_no_constant_answer_is_better_than_the_guess_of_classes(count):
    labels = np.random.default_rng(0).choice(4, size=count, p=(0.1, 0.2, 0.3, 0.4))
    found = guessing.of_classes(labels)
    errors = [100 * np.mean(labels != answer) for answer in range(4)]
    assert found.error == pytest.approx(min(errors))
    deviation = np.std(100.0 * (labels != np.argmin(errors)))
    margin = found.error - found.least_error
    assert margin == pytest.approx(3 * deviation / math.sqrt(count))


def test_one_class_leaves_nothing_to_learn():
    found = guessing.of_classes(np.array([2, 2, 2]))
    assert found == (0, 0, 0)
    assert found.explains(0.0)


def test_of_words_is_the_perplexity_of_their_frequencies():
    train, valid = [[0, 0, 0], [1, 1, 4]], [[0, 1, 2], [0, 0, 4]]
    # Each of the 5 words once more than it occurs.
    chance = [4 / 11, 3 / 11, 1 / 11, 1 / 11, 2 / 11]
    losses = [-math.log(chance[word]) for row in valid for word in row]
    mean = sum(losses) / 6
    variance = sum((x - mean) ** 2 for x in losses) / 6
    found = guessing.of_words(np.array(train), np.array(valid), 5)
    assert found.loss == pytest.approx(mean)
    assert found.error == pytest.approx(math.exp(mean))
    least = math.exp(mean - 3 * math.sqrt(variance / 6))
    assert found.least_error == pytest.approx(least)


def test_words_that_are_rare_in_training_are_worth_no_more_than_the_vocabulary():
    """As the perplexity of a child is at most that."""
    found = guessing.of_words(np.zeros(1000, int), np.full(10, 3), 4)
    assert found.loss == pytest.approx(math.log(1004))
    assert found.error == found.least_error == pytest.approx(4)
    assert found.explains(4.0)


def test_what_a_guess_explains():
    guess = Guess(loss=2.0, error=90.0, least_error=88.5)
    assert [guess.explains(x) for x in (99.0, 90.0, 88.5, math.nan)] == [True] * 4
    assert not guess.explains(88.4)


def test_remarks_name_the_models_at_the_level_and_no_others():
    guess = Guess(loss=2.0, error=90.0, least_error=88.5)
    said = guessing.remark(
        [
            Model("bad", 89.0, guess),
            Model("good", 20.0, guess),
            Model("unknown", 99.0, None),
            Model("lost", math.nan, guess),
        ],
        "% error",
        "Do this.",
    )
    assert "bad (% error 89.00, guessing 90.00); lost (% error nan" in said
    assert "good" not in said
    assert "unknown" not in said
    assert said.endswith("Do this.")
    assert guessing.remark([Model("good", 20.0, guess)], "% error", "Do.") == ""


def test_the_lowest_of_errors_that_are_numbers():
    assert guessing.lowest([None, 3.0, math.nan, 2.0, math.inf]) == 2.0
    assert math.isnan(guessing.lowest([None]))


@pytest.mark.parametrize(
    ("error", "loss", "told"),
    [
        (90.0, [2.1, np.nan], True),
        (80.0, [2.1, np.nan], False),
        (90.0, [1.9, 900.0], False),  # One explodes, another has learned.
    ],
)
def test_an_epoch_at_the_level_is_said_to_be(error, loss, told):
    search = SimpleNamespace(task=SimpleNamespace(error_name="% error"))
    mean = SimpleNamespace(mean=0.0)
    measured = SimpleNamespace(
        child_error=error, err2=np.array(loss), error=mean, child_reward=0.1
    )
    said = search_loop.describe(search, measured, Guess(2.0, 90.0, 88.5))
    assert ("no better than guessing" in said) == told


# Two models: the page names the seeds of A and B that have learned nothing.


def outcome(penalty, alpha, start_valid, reached):
    seeds = len(start_valid)
    pair = np.stack([start_valid, reached], -1)
    rows = dict.fromkeys(("valid_a", "valid_b", "penalty_value"), np.zeros((seeds, 2)))
    pairs = dict.fromkeys(("final_valid", "final_test"), pair)
    starts = dict.fromkeys(("start_valid", "start_test"), np.array(start_valid))
    return Outcome(
        *(1.0, 2, penalty, "proximal", "tree", alpha),
        **rows,
        **pairs,
        **starts,
        finite=np.ones(seeds),
        fisher_spread=np.ones(seeds),
    )


CONFIG = {
    "main": {
        "penalty": "wpl",
        "step": "proximal",
        "normalize": "tree",
        "rule": "a_kept",
    },
    "rules": {"a_kept": {"limit": "prevented", "value": 0.9}},
}
GUESS = Guess(loss=2.3, error=90.0, least_error=87.0)


def no_better(plain, protected, start):
    outcomes = [
        outcome("none", 0.0, start, plain),
        outcome("wpl", 1.0, start, protected),
    ]
    return two_models_report._no_better_than_guessing(outcomes, CONFIG, GUESS)


def test_two_models_that_learn_are_not_spoken_of():
    assert no_better((0.9, 0.8), (0.7, 0.14), (0.9, 0.9)) == ""


def test_two_models_at_the_level_are_named_with_their_seeds():
    said = no_better((0.9, 0.1), (0.1, 0.12), (0.11, 0.9))
    assert "A converged, 1 of 2 seeds (% error 89.00, guessing 90.00)" in said
    assert "no penalty, 1 of 2 seeds (% error 90.00" in said
    assert "wpl, 2 of 2 seeds (% error 89.00" in said
    assert "config.model_a" in said


def test_what_is_not_known_explains_nothing_and_is_not_written():
    unknown = Guess(math.nan, math.inf, math.nan)
    assert not unknown.explains(1e9)
    assert not unknown.explains_all(1e9, [1e9])
    assert unknown.described() == {}
    known = Guess(1.0, 2.0, 1.5)
    assert known.explains(1.7)
    assert known.explains(math.nan)
    assert known.described()["guess"] == {"loss": 1.0, "error": 2.0, "least_error": 1.5}
