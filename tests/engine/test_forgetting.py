"""The forgetting metrics against numbers by hand and scipy."""

import jax
import numpy as np
import pytest
import scipy.stats

from wpl_jax.engine.forgetting import forgetting, kendall_tau, spearman_rho


def test_by_hand():
    err1 = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 9.0])
    err2 = np.array([7.0, 1.5, 4.0, 5.0, 2.5, 8.0])
    # Lost: 2, .5, 0, 3, -.5, -1. The best two by err1 lost .5 and 3.
    found = jax.jit(forgetting, static_argnums=2)(err1, err2, 2)
    assert float(found.mean) == pytest.approx(4 / 6)
    assert float(found.best_mean) == pytest.approx(1.75)
    assert float(found.max) == 3
    assert float(found.std) == pytest.approx(np.std([2, 0.5, 0, 3, -0.5, -1]))
    # Pairs that changed their order: (2, 4), (2, 3), that is 13 of 15 kept.
    # err2 in the order of err1: 1.5, 5, 2.5, 4, 7, 8.
    assert float(found.kendall) == pytest.approx((13 - 2) / 15)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("levels", [1000, 4])  # Hardly any ties, and many.
def test_rank_correlations_are_scipys(seed, levels):
    rng = np.random.default_rng(seed)
    x = rng.integers(levels, size=40).astype(float)
    y = x + rng.integers(levels, size=40)
    tau, rho = jax.jit(lambda x, y: (kendall_tau(x, y), spearman_rho(x, y)))(x, y)
    assert float(tau) == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-5)
    assert float(rho) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-5)


def test_constant_errors_have_no_rank_correlation():
    found = forgetting(np.ones(4), np.arange(4.0))
    assert np.isnan(found.kendall)
    assert np.isnan(found.spearman)
    assert float(found.mean) == 0.5


@pytest.mark.parametrize(
    ("err1", "err2"), [(np.ones(3), np.ones(2)), (np.ones((2, 2)),) * 2, ([], [])]
)
def test_shapes_that_do_not_fit_are_errors(err1, err2):
    with pytest.raises(ValueError, match="same length of at least 1"):
        forgetting(np.asarray(err1), np.asarray(err2))
