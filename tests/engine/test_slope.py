"""Keys of the losses from which differentiable strategies learn."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.devices.axis import NO_AXIS
from wpl_jax.engine.slope import Slope
from wpl_jax.engine.training import Batch

KEY = jax.random.key(3)
DRAWS = 10  # of which a loss may split its key


def keys_of_loss(**options):
    """The key and the number of the batch that the loss of a task gets."""
    found = []

    def train_loss(params, architecture, data, carry, number, key, axis, split):
        found.append((number, jax.random.key_data(key)))
        return architecture * params, carry

    task = types.SimpleNamespace(
        train_loss=train_loss,
        num_batches=lambda data, split: 1000,
        init_carry=lambda: (),
    )
    batch = Batch(None, jnp.int32(0), KEY, NO_AXIS)
    slope = Slope(task, lambda _: 2.0, batch, (), lambda params, _: params)
    loss, gradient = slope(lambda theta: theta, jnp.float32(3), **options)
    assert loss == 6
    assert gradient == 2
    return found[0]


def test_the_batch_of_the_shared_weights_has_their_noise():
    number, key = keys_of_loss()
    assert number == 0
    np.testing.assert_array_equal(key, jax.random.key_data(KEY))


@pytest.mark.parametrize("options", [{"split": "valid"}, {"own_batch": True}])
def test_another_batch_has_noise_that_no_other_draw_has(options):
    number, key = keys_of_loss(**options)
    others = jax.random.split(KEY, DRAWS)
    taken = [KEY, *others, jax.random.fold_in(KEY, 1)]
    for other in taken:
        assert np.any(key != jax.random.key_data(other))
    if "own_batch" in options:  # Nor is the batch drawn by one of them.
        drawn = [1 + jax.random.randint(k, (), 0, 1000) for k in taken]
        assert number not in drawn
