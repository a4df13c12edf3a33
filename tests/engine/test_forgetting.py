"""The forgetting metrics against numbers by hand and scipy."""

import jax
import numpy as np
import pytest

from wpl_jax.engine.forgetting import forgetting


def test_by_hand():
    err1 = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0])
    err2 = np.array([7.0, 1.5, 4.0, 5.0, 2.5, 8.0])
    # Lost: 2, .5, 0, 3, -.5, -1. The best five by err1 are all but the last.
    found = jax.jit(forgetting)(err1, err2)
    assert float(found.mean) == pytest.approx(4 / 6)
    assert float(found.best_mean) == pytest.approx(1.0)
    assert float(found.max) == 3
    assert float(found.std) == pytest.approx(np.std([2, 0.5, 0, 3, -0.5, -1]))
    # Pairs that changed their order: (2, 4), (2, 3), that is 13 of 15 kept.
    # err2 in the order of err1: 1.5, 5, 2.5, 4, 7, 8.
    assert float(found.kendall) == pytest.approx((13 - 2) / 15)


def test_constant_errors_have_no_rank_correlation():
    found = forgetting(np.ones(4), np.arange(4.0))
    assert np.isnan(found.kendall)
    assert np.isnan(found.spearman)
    assert float(found.mean) == 0.5


def test_the_order_is_that_of_the_children_that_have_errors():
    err1 = np.array([5.0, np.nan, 1.0, 4.0, 2.0, 3.0, 9.0])
    err2 = np.array([7.0, np.nan, 1.5, 4.0, 5.0, 2.5, np.inf])
    there = np.isfinite(err2)
    found, of_finite = forgetting(err1, err2), forgetting(err1[there], err2[there])
    assert float(found.kendall) == float(of_finite.kendall)
    assert float(found.spearman) == float(of_finite.spearman)
    assert np.isnan(found.mean)


@pytest.mark.parametrize(
    ("err1", "err2"), [(np.ones(3), np.ones(2)), (np.ones((2, 2)),) * 2, ([], [])]
)
def test_shapes_that_do_not_fit_are_errors(err1, err2):
    with pytest.raises(ValueError, match="same length of at least 1"):
        forgetting(np.asarray(err1), np.asarray(err2))
