"""Metrics of a ranking against scipy, and against their definitions in loops."""

import itertools

import numpy as np
import pytest
import scipy.stats

from wpl_jax.evaluation import ranking_metrics as metrics
from wpl_jax.evaluation import table

OF_K = (
    metrics.precision_at_top,
    metrics.precision_at_bottom,
    metrics.best_rank,
    metrics.worst_rank,
)


def draw(seed, n, digits):
    """Related true errors and estimates, with ties where there are few digits."""
    rng = np.random.default_rng(seed)
    true = rng.normal(size=n)
    return true.round(digits), (true + rng.normal(size=n)).round(digits)


@pytest.mark.parametrize(("n", "digits"), [(2, 9), (33, 9), (64, 0), (700, 1)])
def test_correlations_are_scipys(n, digits):
    true, estimate = draw(n, n, digits)
    tau = scipy.stats.kendalltau(true, estimate).statistic
    assert metrics.kendall_tau(true, estimate) == pytest.approx(tau, abs=1e-12)
    rho = scipy.stats.spearmanr(true, estimate).statistic
    assert metrics.spearman_rho(true, estimate) == pytest.approx(rho, abs=1e-12)


def test_a_constant_has_no_correlation():
    for metric in (metrics.kendall_tau, metrics.spearman_rho):
        assert np.isnan(metric([1, 1, 1], [1, 2, 3]))
        assert np.isnan(metric([1, 2, 3], [1, 1, 1]))
        assert np.isnan(metric([1], [1]))


@pytest.mark.parametrize("k", [1, 4, 12])
def test_what_is_on_top_is_by_definition(k):
    true, estimate = draw(k, 12, 9)
    best_first = sorted(range(12), key=lambda i: true[i])
    chosen = sorted(range(12), key=lambda i: estimate[i])
    ranks = [best_first.index(i) + 1 for i in chosen[:k]]
    top = len(set(chosen[:k]) & set(best_first[:k])) / k
    bottom = len(set(chosen[-k:]) & set(best_first[-k:])) / k
    expected = [top, bottom, min(ranks) / 12, max(ranks) / 12]
    assert [metric(true, estimate, k) for metric in OF_K] == pytest.approx(expected)
    lost = true[chosen[0]] - true[best_first[0]]
    assert metrics.regret(true, estimate) == pytest.approx(lost)


def test_equal_estimates_count_in_the_worst_order():
    true, constant = [3.0, 1, 4, 2], [0.0] * 4
    # The best two are thought to be the worst two.
    assert [metric(true, constant, 2) for metric in OF_K] == [0, 0, 0.75, 1]
    assert metrics.regret(true, constant) == 3
    # Of equal true errors, either is the best.
    assert metrics.precision_at_top([1, 1, 2], [2, 1, 3], 1) == 1
    assert metrics.precision_at_top([1, 1, 2], [1, 2, 3], 1) == 1
    assert metrics.best_rank([1, 1, 2], [2, 1, 3], 1) == pytest.approx(1 / 3)


def test_an_infinite_error_is_the_last():
    true, estimate = [1.0, 2, np.inf, 3], [1, 2, 4, 3]
    assert metrics.kendall_tau(true, estimate) == pytest.approx(1)
    assert metrics.spearman_rho(true, estimate) == pytest.approx(1)
    assert metrics.precision_at_bottom(true, estimate, 1) == 1


@pytest.mark.slow
def test_intervals_hold_what_they_promise():
    rng, held, tau = np.random.default_rng(0), 0, 2 / np.pi * np.arcsin(0.6)
    for seed in range(100):
        a = rng.normal(size=40)
        b = 0.6 * a + 0.8 * rng.normal(size=40)
        found = metrics.bootstrap(metrics.kendall_tau, a, b, samples=100, seed=seed)
        held += found.low < tau < found.high
    assert 0.87 <= held / 100 <= 0.99


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(1)
    true = rng.normal(size=100)

    def mean(true, estimate):
        return float(true.mean())

    found = metrics.bootstrap(mean, true, true, samples=4000, level=0.6827)
    error = true.std() / 10
    assert found.value == true.mean()
    assert found.high - found.low == pytest.approx(2 * error, rel=0.05)
    assert metrics.bootstrap(mean, true, true, samples=4000, level=0.6827) == found


def test_the_summary_has_each_metric():
    true, estimate = draw(0, 30, 9)
    found = metrics.summary(true, estimate, k=6, samples=50)
    assert list(found) == [
        *("Kendall's tau", "Spearman's rho", "P@top 6", "P@bottom 6"),
        *("BR@6", "WR@6", "regret"),
    ]
    assert found["WR@6"].value == metrics.worst_rank(true, estimate, 6)
    for one in found.values():
        assert one.low <= one.high
    constant = metrics.summary(true, np.zeros(30), k=6, samples=5)
    assert np.all(np.isnan(constant["Kendall's tau"]))


@pytest.mark.parametrize(
    ("true", "estimate", "k", "message"),
    [
        ([1, 2], [1, 2, 3], 1, r"shapes \(2,\) and \(3,\)"),
        ([], [], 1, "at least 1"),
        ([[1]], [[1]], 1, "vectors"),
        ([1, np.nan], [1, 2], 1, "must not be nan"),
        ([1, 2], [1, 2], 0, "k is 0, expected 1 to 2"),
        ([1, 2], [1, 2], 3, "k is 3, expected 1 to 2"),
    ],
)
def test_what_cannot_be_ranked_is_refused(true, estimate, k, message):
    for metric in OF_K:
        with pytest.raises(ValueError, match=message):
            metric(true, estimate, k)


def test_the_order_of_what_is_finite():
    true, estimate = [1, np.nan, 2, 3, np.inf, 4], [1, 2, np.nan, 4, 5, 3]
    assert metrics.tau_of_finite(true, estimate) == pytest.approx(1 / 3)
    for number in (0, 1, 2):
        assert np.isnan(metrics.tau_of_finite(true[:number], estimate[:number]))


def test_random_search_is_the_mean_over_all_draws():
    true, estimate = draw(3, 5, 9)
    for number in (1, 2, 3):
        found = [
            true[min(drawn, key=lambda i: estimate[i])]
            for drawn in itertools.product(range(5), repeat=number)
        ]
        mean = metrics.best_of_random(true, estimate, number)
        assert mean == pytest.approx(np.mean(found))
    # Of architectures with equal estimates any may be drawn, and so be selected.
    tied = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
    for number in (1, 2, 3):
        found = []
        for drawn in itertools.product(range(5), repeat=number):
            lowest = min(tied[list(drawn)])
            found.append(np.mean([true[i] for i in drawn if tied[i] == lowest]))
        mean = metrics.best_of_random(true, tied, number)
        assert mean == pytest.approx(np.mean(found))
    ordered = np.sort(true)
    middle = metrics.best_of_random(ordered, ordered, 3)
    assert metrics.draws_until(ordered, ordered, middle) == pytest.approx(3)
    assert metrics.draws_until(ordered, ordered, ordered.max()) == 1
    assert metrics.draws_until(ordered, ordered, ordered.min() - 1) == float("inf")


def test_random_search_may_reach_an_error_and_lose_it_again():
    """By the validation accuracies of NAS-Bench-201, against every whole number."""
    columns = table.nasbench201().columns
    true = 100 - columns["imagenet16_120_test"]
    estimate = 100 - columns["imagenet16_120_valid"]
    for error, first in ((53.8, 746), (53.656, 1283), (53.4, np.inf)):
        found = metrics.draws_until(true, estimate, error)
        assert np.ceil(found) == first
        if np.isfinite(found):
            assert metrics.best_of_random(true, estimate, first) <= error
            assert metrics.best_of_random(true, estimate, first - 1) > error
    assert metrics.best_of_random(true, estimate, 100 * len(true)) > 53.656
