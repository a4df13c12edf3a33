"""Random architectures."""

import functools

import jax
import numpy as np
import scipy.stats

from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.supernet import num_choices, random_choice

NODES = 4
SPACE = RecurrentCell(vocabulary_size=7, hidden=3, num_nodes=NODES)
COUNTS = (4, 1, 4, 2, 4, 3, 4)


@functools.cache
def draws(n=3000):
    """Random architectures, ``int32[n, decisions]``."""
    draw = jax.vmap(lambda key: random_choice(key, SPACE.decisions))
    return np.asarray(jax.jit(draw)(jax.random.split(jax.random.key(0), n)))


def test_random_choices_are_uniform():
    assert num_choices(SPACE.decisions) == COUNTS
    found = draws()
    assert found.dtype == np.int32
    for column, count in zip(found.T, COUNTS, strict=True):
        seen = np.bincount(column, minlength=count)
        assert len(seen) == count
        if count > 1:
            assert scipy.stats.chisquare(seen).pvalue > 1e-4
    # Decisions do not follow from each other: all 16 pairs are as frequent.
    pairs = np.bincount(found[:, 0] * 4 + found[:, 2], minlength=16)
    assert scipy.stats.chisquare(pairs).pvalue > 1e-4
