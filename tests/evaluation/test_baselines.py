"""Baselines from a table: by hand on a tiny table, and published figures."""

import dataclasses

import numpy as np
import pytest

from wpl_jax.errors import UserError
from wpl_jax.evaluation.baselines import baselines, random_search
from wpl_jax.evaluation.table import Table, nasbench201

# Of 200 epochs; 12 epochs take 1, 2 and 3 seconds.
TINY = Table(
    "tiny",
    np.array([[0], [1], [2]]),
    {
        "cifar10_seconds": np.array([200, 400, 600]) / 12,
        "cifar10_valid_12_epochs": np.array([10.0, 30.0, 20.0]),
        "cifar10_valid": np.array([5.0, 6.0, 7.0]),
        "cifar10_test": np.array([50.0, 70.0, 60.0]),
    },
)


def found_by_hand(seconds, trials, seed=0):
    """One architecture after the other, as far as the time allows."""
    random, found = np.random.default_rng(seed), []
    for _ in range(trials):
        left, best = seconds, None
        for row in random.integers(3, size=1 + int(seconds)):
            if best is not None and row + 1 > left:
                break
            left -= row + 1
            if best is None or TINY.columns["cifar10_valid_12_epochs"][row] > best[0]:
                best = TINY.columns["cifar10_valid_12_epochs"][row], row
        found.append(best[1])
    return found


@pytest.mark.parametrize("seconds", [0.5, 1.0, 3.0, 6.5])
def test_random_search_trains_until_its_time_is_over(seconds):
    found = random_search(TINY, seconds, trials=50, seed=3)
    assert found.tolist() == found_by_hand(seconds, 50, seed=3)


def test_random_search_has_the_published_accuracy():
    """Dong and Yang (2020), table 5: 93.70 ± 0.36 and 90.93 ± 0.36."""
    table = nasbench201()
    found = random_search(table, 12_000)
    for column, mean, deviation in (
        ("cifar10_test", 93.70, 0.36),
        ("cifar10_valid", 90.93, 0.36),
    ):
        accuracies = table.columns[column][found]
        assert accuracies.mean() == pytest.approx(mean, abs=0.1)
        assert accuracies.std() == pytest.approx(deviation, abs=0.05)


def test_baselines_are_of_the_table_alone():
    found = baselines(TINY, ["cifar10_test"], [0.5])
    assert list(found) == [
        "random architecture",
        "random search, 0 s",
        "best by validation",
        "best there is",
    ]
    accuracies = {name: of["cifar10_test"] for name, of in found.items()}
    assert accuracies["random architecture"].tolist() == [50, 70, 60]
    assert accuracies["best by validation"].tolist() == [60]
    assert accuracies["best there is"].tolist() == [70]


def test_a_table_without_trainings_has_no_random_search():
    columns = {"own_test": np.array([1.0, np.nan, 2.0])}
    found = baselines(dataclasses.replace(TINY, columns=columns), ["own_test"], [9.0])
    assert list(found) == ["random architecture", "best there is"]
    assert found["best there is"]["own_test"].tolist() == [2]
    with pytest.raises(UserError, match="lacks column 'cifar10_seconds'"):
        random_search(dataclasses.replace(TINY, columns=columns), 9.0)


def test_random_search_draws_what_is_known():
    """As from a table without the rest."""
    gaps = {name: np.append(column, [9.0] * 2) for name, column in TINY.columns.items()}
    gaps["cifar10_seconds"][3] = np.nan
    gaps["cifar10_valid_12_epochs"][4] = np.nan
    table = Table("tiny", np.arange(5)[:, None], gaps)
    found = random_search(table, 3.0, trials=50)
    assert found.tolist() == random_search(TINY, 3.0, trials=50).tolist()
    rows = np.array([2, 3, 4])
    rest = {name: column[rows] for name, column in gaps.items()}
    rest["cifar10_seconds"][0] = np.nan
    rest["cifar10_valid"][:] = np.nan
    found = baselines(Table("tiny", rows[:, None], rest), ["cifar10_test"], [3.0])
    assert list(found) == ["random architecture", "best there is"]
