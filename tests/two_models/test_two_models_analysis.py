"""Forgetting, its reduction and the choice of alpha, against numbers made by hand."""

import json
import math

import numpy as np
import pytest

from wpl_jax.two_models.analysis import (
    Outcome,
    calibrate,
    read_outcomes,
    relative_reduction,
    select,
    standard_error,
)


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


# Without a penalty A loses 0.4 of its 0.9; B comes to 0.8.
WITHOUT = outcome(a=(0.4, 0.6), b=(0.75, 0.85))


def test_calibrate_takes_the_best_b_among_those_that_keep_a():
    weak = outcome(0.1, a=(0.7, 0.7), b=(0.9, 0.9))  # keeps half: too little
    good = outcome(1.0, a=(0.86, 0.88), b=(0.8, 0.84))  # keeps 92.5 %
    strong = outcome(10.0, a=(0.9, 0.9), b=(0.7, 0.7))  # keeps all
    for arms in ([weak, good, strong], [strong, good, weak]):
        found = calibrate(WITHOUT, arms, keep=0.9)
        assert found.chosen is good
        assert found.kept_enough
        assert found.without is WITHOUT
        assert calibrate(WITHOUT, arms, keep=0.95).chosen is strong
        assert calibrate(WITHOUT, arms, keep=0.4).chosen is weak


def test_calibrate_counts_the_mean_over_seeds():
    # One seed loses 0.08 and the other gains as much: nothing is lost.
    arm = outcome(1.0, a=(0.82, 0.99), b=(0.8, 0.8))
    worse = outcome(2.0, a=(0.9, 0.9), b=(0.7, 0.7))
    assert calibrate(WITHOUT, [arm, worse], keep=1.0).chosen is arm


def test_calibrate_where_no_alpha_keeps_enough_takes_the_best_a():
    weak = outcome(0.1, a=(0.7, 0.7), b=(0.9, 0.9))
    strong = outcome(1.0, a=(0.75, 0.85), b=(0.5, 0.5))
    overdone = outcome(10.0, a=(0.1, 0.1), b=(0.95, 0.95))  # diverged
    found = calibrate(WITHOUT, [weak, strong, overdone], keep=0.9)
    assert found.chosen is strong
    assert not found.kept_enough


def test_calibrate_where_a_gained_lets_it_lose_nothing():
    gained = outcome(a=(0.95, 0.95), b=(0.8, 0.8))
    same = outcome(0.1, a=(0.91, 0.91), b=(0.7, 0.7))
    lost = outcome(1.0, a=(0.89, 0.89), b=(0.9, 0.9))
    found = calibrate(gained, [same, lost], keep=0.5)
    assert found.chosen is same
    assert found.kept_enough
    assert found.reduction is None


def test_calibrate_never_looks_at_test_images():
    arms = {
        0.1: ((0.7, 0.7), (0.9, 0.9)),
        1.0: ((0.86, 0.88), (0.8, 0.84)),
        10.0: ((0.9, 0.9), (0.7, 0.7)),
    }
    rng = np.random.default_rng(0)
    chosen, reductions = set(), set()
    for _ in range(30):
        x = rng.random((8, 2)).tolist()
        candidates = [
            outcome(alpha, a=a, b=b, test_a=x[i], test_b=x[i + 3])
            for i, (alpha, (a, b)) in enumerate(arms.items())
        ]
        without = WITHOUT._replace(
            final_test=np.array(x[6:]) / 4, start_test=np.full(2, 0.9)
        )
        found = calibrate(without, candidates, keep=0.9)
        chosen.add(found.chosen.alpha)
        assert found.kept_enough
        reductions.add(found.reduction)
    assert chosen == {1.0}
    assert len(reductions) > 20  # They are of test images, so they did change.


def test_calibrate_reports_the_reduction_on_test_images():
    without = outcome(a=(0.5, 0.5), test_a=(0.5, 0.4))  # lost 0.4 and 0.5
    chosen = outcome(1.0, a=(0.9, 0.9), test_a=(0.8, 0.7))  # lost 0.1 and 0.2
    found = calibrate(without, [chosen], keep=0.9)
    assert found.reduction.value == pytest.approx(1 - 0.3 / 0.9)
    # Without each seed 1 - 2/5 and 1 - 1/4: half their difference.
    assert found.reduction.standard_error == pytest.approx(0.075)


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
