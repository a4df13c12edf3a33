"""Compiled rank correlations against scipy."""

import jax
import numpy as np
import pytest
import scipy.stats

from wpl_jax.common.rank_correlations import kendall_tau, spearman_rho

BOTH = jax.jit(lambda x, y: (kendall_tau(x, y), spearman_rho(x, y)))


def assert_scipys(found, x, y):
    tau, rho = found
    assert float(tau) == pytest.approx(scipy.stats.kendalltau(x, y).statistic, abs=1e-5)
    assert float(rho) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-5)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("levels", [1000, 4])  # Hardly any ties, and many.
def test_they_are_scipys(seed, levels):
    rng = np.random.default_rng(seed)
    x = rng.integers(levels, size=40).astype(float)
    y = x + rng.integers(levels, size=40)
    assert_scipys(BOTH(x, y), x, y)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_not_finite_is_left_out(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 40))
    x[:3], y[2:5] = [np.nan, np.inf, -np.inf], np.nan
    assert_scipys(BOTH(x, y), x[5:], y[5:])


@pytest.mark.parametrize("x", [np.ones(4), np.array([np.nan, np.nan, 1.0, np.nan])])
def test_constants_have_none(x):
    assert np.isnan(BOTH(x, np.arange(4.0))).all()
