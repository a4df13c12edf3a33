"""The table of what an order favours, against regressions written out."""

import numpy as np
import pytest

from wpl_jax.reports.sections.choices_in_order import favour
from wpl_jax.spaces.nasbench201 import NasBench201

SPACE = NasBench201((8, 8, 3), 10, 4, 1)
OPERATIONS = SPACE.decisions[0].choices
RNG = np.random.default_rng(0)
CHOICES = RNG.integers(5, size=(200, 6))
MADE = np.stack([np.sum(k == CHOICES, 1) for k in range(5)], 1) * 1.0


def test_slopes_are_those_of_a_regression_with_a_baseline():
    errors = MADE @ [3.0, 1.0, -1.0, -4.0, 0.5] + RNG.normal(size=200)
    found = favour(SPACE, CHOICES, errors, np.zeros(200))
    ranks = 100 * np.mean(errors[None] > errors[:, None], 1)  # worse ones, in per cent
    design = np.concatenate([np.ones((200, 1)), MADE[:, 1:]], 1)
    slopes = np.linalg.solve(design.T @ design, design.T @ ranks)[1:]
    got = np.array([found.slopes[name] for name in OPERATIONS])
    np.testing.assert_allclose(got[1:] - got[0], slopes, rtol=1e-9)
    assert got.sum() == pytest.approx(0, abs=1e-9)
    assert np.argsort(got).tolist() == [0, 1, 4, 2, 3]
    residual = ranks - design @ np.linalg.solve(design.T @ design, design.T @ ranks)
    assert found.explained == pytest.approx(1 - residual.var() / ranks.var())


def test_equal_errors_are_ordered_by_the_loss_and_what_exploded_is_left_out():
    losses = MADE @ [3.0, 1.0, -1.0, -4.0, 0.5] + RNG.normal(size=200)
    by_loss = favour(SPACE, CHOICES, np.ones(200), losses)
    assert by_loss == favour(SPACE, CHOICES, losses, np.zeros(200))
    errors = losses.copy()
    errors[:3] = np.nan, np.inf, -np.inf
    rest = favour(SPACE, CHOICES[3:], losses[3:], np.zeros(197))
    assert favour(SPACE, CHOICES, errors, np.zeros(200)) == rest


def test_without_two_finite_errors_nothing_is_favoured():
    for known in (0, 1):
        errors = np.where(np.arange(200) < known, 1.0, np.nan)
        found = favour(SPACE, CHOICES, errors, np.zeros(200))
        assert np.isnan([*found.slopes.values(), found.explained]).all()
        assert len(found.slopes) == len(SPACE.decisions[0].choices)
