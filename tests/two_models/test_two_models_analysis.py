"""Forgetting, rules for alpha and fronts, against numbers made by hand and loops."""

import itertools
import json
import math

import numpy as np
import pytest

from wpl_jax.two_models import fronts, report_fronts
from wpl_jax.two_models.analysis import (
    Outcome,
    read_outcomes,
    relative_reduction,
    select,
    standard_error,
)
from wpl_jax.two_models.arms import Study
from wpl_jax.two_models.fronts import Corners
from wpl_jax.two_models.penalties import PENALTIES, Penalty
from wpl_jax.two_models.rules import Rule, choose
from wpl_jax.two_models.run import _describe


def array(*values):
    return np.array(values, float)


def outcome(
    alpha=0.0, *, a=(0.5, 0.5), b=(0.5, 0.5), test_a=None, test_b=None, **fields
):
    """An arm in which A fell from 0.9 to ``a`` and B came to ``b``, by seed."""
    seeds = len(a)
    return Outcome(
        **{
            "stop": 1.0,
            "shared": 3,
            "penalty": "wpl" if alpha else "none",
            "step": "proximal",
            "normalize": "tree",
            "alpha": alpha,
            "valid_a": np.zeros((seeds, 2)),
            "valid_b": np.zeros((seeds, 2)),
            "penalty_value": np.zeros((seeds, 2)),
            "final_valid": np.stack([a, b], -1),
            "final_test": np.stack([test_a or a, test_b or b], -1),
            "start_valid": np.full(seeds, 0.9),
            "start_test": np.full(seeds, 0.9),
            "fisher_spread": np.ones(seeds),
            "finite": np.ones(seeds),
        }
        | fields
    )


def test_loss_of_a_is_what_it_had_less_what_it_has():
    arm = outcome(
        a=(0.5, 0.7),
        b=(0.1, 0.2),
        test_a=(0.4, 0.8),
        start_valid=array(0.9, 0.8),
        start_test=array(0.6, 0.7),
    )
    np.testing.assert_allclose(arm.lost_valid, [0.4, 0.1])
    np.testing.assert_allclose(arm.lost_test, [0.2, -0.1])


def test_standard_error():
    # Squared deviations from 2.5: 2.25, 0.25, 0.25, 2.25; 5 / 3 / 4 = 5 / 12.
    assert standard_error(array(1, 2, 3, 4)) == pytest.approx(math.sqrt(5 / 12))
    assert math.isnan(standard_error(array(1)))


def test_relative_reduction_is_a_ratio_of_means_with_its_jackknife_error():
    # Without each of the seeds: 1 - 3/11, 1 - 3/10 and 1 - 2/9.
    found = relative_reduction(array(0.4, 0.5, 0.6), array(0.1, 0.1, 0.2))
    left_out = [8 / 11, 7 / 10, 7 / 9]
    middle = sum(left_out) / 3
    error = math.sqrt(2 / 3 * sum((x - middle) ** 2 for x in left_out))
    assert error == pytest.approx(0.0455683, rel=1e-5)
    assert found.value == pytest.approx(1 - 4 / 15)
    assert found.standard_error == pytest.approx(error)


@pytest.mark.parametrize(
    ("lost_with", "value"),
    [
        ((0.0, 0.0), 1.0),
        ((0.4, 0.5), 0.0),
        ((-0.04, -0.05), 1.1),  # A gained.
        ((0.8, 1.0), -1.0),  # A lost more than without.
    ],
)
def test_relative_reduction_where_seeds_agree_has_no_error(lost_with, value):
    found = relative_reduction(array(0.4, 0.5), array(*lost_with))
    assert found.value == pytest.approx(value)
    assert found.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("lost", "forgot"),
    [
        # The standard error of two seeds is half their difference.
        ((0.1, 0.2), True),  # 0.15 is 3 standard errors of 0.05
        ((0.1, 0.4), False),  # 0.25 is 1.67 standard errors of 0.15
        ((-0.1, -0.2), False),
        ((0.0, 0.0), False),
        ((0.1,), True),
        ((0.0,), False),
        ((-0.1,), False),
    ],
)
def test_there_is_no_reduction_where_a_did_not_forget(lost, forgot):
    found = relative_reduction(array(*lost), np.zeros(len(lost)))
    assert (found is not None) == forgot


def test_single_seed_has_no_error():
    found = relative_reduction(array(0.4), array(0.1))
    assert found.value == pytest.approx(0.75)
    assert math.isnan(found.standard_error)


def test_select_takes_equal_fields_in_order_of_alpha():
    arms = [
        outcome(10.0, shared=3),
        outcome(0.1, shared=3),
        outcome(1.0, shared=2),
        outcome(1.0, shared=3, stop=0.5),
        outcome(0.0, shared=3),
    ]
    found = select(arms, shared=3, stop=1.0)
    assert [o.alpha for o in found] == [0.0, 0.1, 10.0]
    assert select(arms, stop=0.5, penalty="wpl") == [arms[3]]
    assert select(arms, stop=0.6) == []
    assert len(select(arms)) == 5


# Rules. Without a penalty A loses 0.4 of its 0.9; B comes to 0.8.
WITHOUT = outcome(a=(0.4, 0.6), b=(0.75, 0.85))
WEAK = outcome(0.1, a=(0.7, 0.7), b=(0.9, 0.9))  # prevents half
GOOD = outcome(1.0, a=(0.86, 0.88), b=(0.8, 0.84))  # prevents 92.5 %
STRONG = outcome(10.0, a=(0.9, 0.9), b=(0.7, 0.7))  # prevents all, costs 0.1
LOST = outcome(100.0, a=(0.1, 0.1), b=(0.3, 0.3))  # diverged


def prevented(value):
    return Rule("prevented", value)


def cost(value):
    return Rule("cost", value)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # The best B among those that keep A.
        (prevented(0.4), WEAK),
        (prevented(0.9), GOOD),
        (prevented(0.95), STRONG),
        # The best A among those that keep B.
        (cost(0.0), GOOD),
        (cost(0.05), GOOD),
        (cost(0.11), STRONG),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_rule_limits_one_model_and_takes_the_best_of_the_other(rule, expected, order):
    found = choose(WITHOUT, [WEAK, GOOD, STRONG, LOST][::order], rule)
    assert found.chosen is expected
    assert found.within
    assert found.without is WITHOUT


@pytest.mark.parametrize(
    ("rule", "arms", "nearest"),
    [
        (prevented(0.9), [WEAK, LOST], WEAK),
        (cost(0.05), [STRONG, LOST], STRONG),
    ],
)
def test_rule_that_no_alpha_obeys_takes_the_nearest(rule, arms, nearest):
    for given in (arms, arms[::-1]):
        found = choose(WITHOUT, given, rule)
        assert found.chosen is nearest
        assert not found.within


def test_rule_is_of_the_mean_over_seeds():
    # One seed loses 0.08 and the other gains as much: nothing is lost.
    arm = outcome(1.0, a=(0.82, 0.99), b=(0.72, 0.88))
    assert choose(WITHOUT, [arm, STRONG], prevented(1.0)).chosen is arm
    assert choose(WITHOUT, [arm, LOST], cost(1e-9)).within


def test_rule_where_a_gained_lets_it_lose_nothing():
    gained = outcome(a=(0.95, 0.95), b=(0.8, 0.8))
    same = outcome(0.1, a=(0.91, 0.91), b=(0.7, 0.7))
    lost = outcome(1.0, a=(0.89, 0.89), b=(0.9, 0.9))
    found = choose(gained, [same, lost], prevented(0.5))
    assert found.chosen is same
    assert found.within
    assert found.reduction is None


def test_rule_reads_validation_images_and_reports_test_images():
    rng = np.random.default_rng(0)
    arms = [WEAK, GOOD, STRONG]
    for _ in range(10):
        test = 0.4 * rng.random((4, 2, 2))
        given = [
            arm._replace(final_test=x)
            for arm, x in zip([WITHOUT, *arms], test, strict=True)
        ]
        for rule, index in ((prevented(0.9), 2), (cost(0.11), 3)):
            found = choose(given[0], given[1:], rule)
            assert found.chosen is given[index]
            ratio = np.mean(0.9 - test[index, :, 0]) / np.mean(0.9 - test[0, :, 0])
            assert found.reduction.value == pytest.approx(1 - ratio)
            pays = test[0, :, 1] - test[index, :, 1]
            np.testing.assert_allclose(found.cost, pays)
            assert found.cost_error == pytest.approx(abs(pays[0] - pays[1]) / 2)


@pytest.mark.parametrize("wrong", [("most", 0.1), ("cost", 1.1), ("cost", -0.1)])
def test_rule_has_a_limit_in_range(wrong):
    with pytest.raises(ValueError, match="expected"):
        Rule(*wrong)


def test_rules_are_told_in_words():
    assert str(cost(0.02)) == "B within 2 points of no penalty"
    assert str(prevented(0.99)) == "99% of A's loss prevented"


# Fronts.


def slow_front(points):
    """Points that no other one beats, by B: each is compared with each."""
    kept = {
        (b, a)
        for a, b in points
        if not any(c >= a and d >= b and (c, d) != (a, b) for c, d in points)
    }
    return [(a, b) for b, a in sorted(kept, reverse=True)]


def slow_kept(points, reached):
    """The front at an accuracy of B, by a walk along it."""
    walk = slow_front(points)
    for (a, b), (c, d) in itertools.pairwise(walk):
        if d <= reached <= b:
            return a + (c - a) * (b - reached) / (b - d)
    return walk[-1][0] if reached <= walk[-1][1] else math.nan


def slow_area(points, start, free, frozen, steps=20_000):
    """The share of A's loss prevented, in the mean over B from frozen to free."""
    at = (np.arange(steps) + 0.5) / steps * (free[1] - frozen[1]) + frozen[1]
    kept = [slow_kept([*points, free], reached) for reached in at]
    return (np.mean(kept) - free[0]) / (start - free[0])


def corners(start, free, frozen):
    return Corners(np.asarray(start), np.asarray(free), np.asarray(frozen))


# In units of tenths: ties, and points beyond both corners.
@pytest.mark.parametrize("seed", range(8))
def test_front_and_area_against_loops(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 11, (rng.integers(1, 9), 2)) / 10
    np.testing.assert_array_equal(fronts.front(points), slow_front(points.tolist()))
    reached = rng.random(20)
    slow = [slow_kept(points.tolist(), x) for x in reached]
    np.testing.assert_allclose(fronts.kept_at(points, reached), slow)
    ends = 0.8, (0.3, 0.7), (0.8, 0.35)
    found = fronts.area(points, corners(*ends))
    assert found == pytest.approx(slow_area(points.tolist(), *ends), abs=1e-3)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        # A before 0.8; free A 0.4 and B 0.9; frozen B 0.5.
        ([(0.1, 0.1)], 0.0),  # diverged: no better than no penalty
        ([(0.8, 0.5)], 0.5),  # the straight line between the corners
        ([(0.8, 0.7)], 0.75),  # half of the cost of frozen layers
        ([(0.8, 0.9)], 1.0),
        ([(0.6, 0.7), (0.5, 0.6), (0.8, 0.5)], 0.5),  # on the line, and below it
        ([(0.6, 0.9), (0.8, 0.5)], 0.75),
        ([(1.2, 0.9)], 2.0),  # A gains as much as it lost
    ],
)
def test_area_by_hand(points, expected):
    ends = corners(0.8, (0.4, 0.9), (0.8, 0.5))
    assert fronts.area(np.array(points), ends) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("lost", "paid", "expected"),
    [
        # The standard error of two seeds is half their difference.
        ((0.1, 0.2), (0.1, 0.2), True),
        ((0.1, 0.4), (0.1, 0.2), False),
        ((0.1, 0.2), (0.1, 0.4), False),
        ((0.1, 0.2), (-0.1, -0.2), False),
        ((0.1,), (0.1,), True),
        ((0.0,), (0.1,), False),
    ],
)
def test_trade_off_needs_both_losses(lost, paid, expected):
    lost, paid = np.array(lost), np.array(paid)
    ends = corners(
        np.full(lost.shape, 0.9),
        np.stack([0.9 - lost, np.full(lost.shape, 0.8)], -1),
        np.stack([np.full(lost.shape, 0.9), 0.8 - paid], -1),
    )
    assert fronts.is_trade_off(ends) == expected


def test_intervals_of_areas_are_paired_over_seeds():
    """Seeds differ much, the fronts of a seed by a little more or less than 0.1."""
    rng = np.random.default_rng(0)
    seeds = 12
    lost, paid = 0.4 + 0.1 * rng.random(seeds), 0.2 + 0.05 * rng.random(seeds)
    ends = corners(
        np.full(seeds, 0.9),
        np.stack([0.9 - lost, np.full(seeds, 0.8)], -1),
        np.stack([np.full(seeds, 0.9), 0.8 - paid], -1),
    )
    share = 0.5 + 0.3 * rng.standard_normal(seeds)
    more = 0.1 + 0.01 * rng.standard_normal(seeds)

    def arms(shares):
        """One alpha that prevents shares of A's loss and costs B nothing."""
        test = np.stack([0.9 - lost * (1 - shares), np.full(seeds, 0.8)], -1)
        return [outcome(1.0, a=[0.5] * seeds, b=[0.5] * seeds, final_test=test)]

    found = fronts.areas({"one": arms(share), "two": arms(share + more)}, ends, "one")
    for name, shares in (("one", share), ("two", share + more)):
        area = found[name].area
        assert area.value == pytest.approx((lost * shares).mean() / lost.mean())
        # A ratio of means: its standard error by the delta method.
        residual = lost * (shares - area.value) / lost.mean()
        error = np.std(residual, ddof=1) / math.sqrt(seeds)
        assert area.high - area.low == pytest.approx(3.92 * error, rel=0.25)
        assert area.low < area.value < area.high
    assert found["one"].more == (0, 0, 0)
    assert found["two"].more.value == pytest.approx(0.1, abs=0.02)
    assert 0 < found["two"].more.low < found["two"].more.high
    width = found["two"].more.high - found["two"].more.low
    assert width < 0.1 * (found["two"].area.high - found["two"].area.low)
    again = fronts.areas({"one": arms(share)}, ends, "one")
    assert again["one"] == found["one"]


def test_single_seed_has_an_area_without_an_interval():
    ends = corners([0.8], [(0.4, 0.9)], [(0.8, 0.5)])
    arm = outcome(1.0, a=(0.8,), b=(0.7,))
    area = fronts.areas({"one": [arm]}, ends, "one")["one"].area
    assert area.value == pytest.approx(0.75)
    assert math.isnan(area.low)
    assert math.isnan(area.high)


# Results.


def test_outcomes_are_read_with_what_is_not_finite():
    arm = outcome(1.0, a=(0.5, 0.6))._asdict()
    arm = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in arm.items()}
    arm["penalty_value"] = [[0.0, None], [0.0, 3.0]]
    arm["finite"] = [False, True]
    (found,) = read_outcomes({"arms": json.loads(json.dumps([arm]))})
    assert (found.stop, found.shared, found.alpha) == (1.0, 3, 1.0)
    np.testing.assert_array_equal(found.penalty_value, [[0, np.nan], [0, 3]])
    np.testing.assert_array_equal(found.finite, [0, 1])
    np.testing.assert_allclose(found.lost_valid, [0.4, 0.3])


def test_a_line_is_all_that_a_penalty_needs(monkeypatch):
    """One with an alpha is in every study; one without is swept, and has a front."""
    monkeypatch.setitem(PENALTIES, "third", Penalty("a third", "l2", alpha=0.3))
    monkeypatch.setitem(PENALTIES, "other", Penalty("another", "l2"))
    arms = list(Study(alphas=(2.0,), penalties=("other",)).arms())
    assert [(arm.penalty, arm.alpha) for arm in arms] == [
        ("none", 0.0),
        ("frozen", 1e12),
        ("third", 0.3),
        ("other", 2.0),
    ]
    with pytest.raises(ValueError, match="penalties"):
        Study(alphas=(2.0,), penalties=("third",))
    outcomes = [
        outcome(arm.alpha, penalty=arm.penalty, normalize=arm.normalize) for arm in arms
    ]
    (front,) = report_fronts.fronts_of(outcomes, (1.0, 3, "tree")).items()
    assert front == (("other", "proximal"), [outcomes[-1]])
    record = {"a_before": 0.9, "a_after": 0.8, "b_after": 0.7}
    third, other = (_describe(arm, record) for arm in arms[2:])
    assert "3 shared, a third: A 0.900 -> 0.800, B 0.700" in third
    assert "3 shared, other proximal alpha 2: A" in other
    assert not report_fronts.fronts_of(outcomes, (1.0, 3, "none"))
