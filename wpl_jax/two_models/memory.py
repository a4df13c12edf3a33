"""What the two-model experiment will need of its device, before it is compiled."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.devices import capacity
from wpl_jax.devices.capacity import bytes_of_each
from wpl_jax.two_models.experiment import Curves, Data, Setting, init_layers, init_pool

_FLOAT = 4  # bytes
_CURVES = 3  # of the fields of Curves; the others are a few numbers


class Estimate(NamedTuple):
    """Bytes of the device."""

    data: int
    models: int  # A at every stop, and the curves of all arms
    training: int  # of B: parameters, gradient, anchor, Fisher, state of the optimizer
    activations: int  # of a batch, of the Fisher's examples, or of an evaluation


_ADVICE = {
    "data": "Take fewer or smaller images",
    "models": "Take a smaller config.hidden, fewer layers_a, stops or num_seeds, or a "
    "larger model_b.eval_every",
    "training": "Take a smaller config.hidden, or fewer layers_b or num_seeds",
    "activations": "Take a smaller config.batch_size or hidden, or fewer "
    "fisher_examples or num_seeds",
}


def estimate(
    data: Data, setting: Setting, *, seeds: int, stops: int, arms: int
) -> Estimate:
    """Adds up arrays by their shapes; what XLA fuses away or needs besides is unknown.

    Args:
      data: The images.
      setting: Sizes of the models and of their training.
      seeds: All are trained at once.
      stops: Models of A that are kept, the converged one among them.
      arms: Trainings of B.
    """
    model_a, model_b = _parameters(setting.sizes_a), _parameters(setting.sizes_b)
    evaluations = setting.steps_b // setting.eval_every + 1
    curves = _CURVES * evaluations + len(Curves._fields)
    pool = 2 * model_a + model_b  # shared layers, A's own and B's own
    examples = max(
        setting.batch_size * sum(setting.sizes_b) * 2,
        len(data.fisher.labels) * sum(setting.sizes_a) * 2,
        max(len(data.valid.labels), len(data.test.labels)) * max(setting.sizes_b) * 2,
    )
    kept = bytes_of_each(_optimizer_state(setting))
    return Estimate(
        data=bytes_of_each(data),
        models=seeds * _FLOAT * (stops * model_a + arms * curves),
        # Parameters before and after a step, gradient, anchor and Fisher; A besides.
        training=seeds * (_FLOAT * (5 * pool + 2 * model_a) + kept),
        activations=seeds * _FLOAT * examples,
    )


def _optimizer_state(setting: Setting) -> Any:
    """Shapes of the state of B's optimizer, such as its momentum."""

    def init(key: jax.Array) -> Any:
        layers_a = init_layers(key, setting.sizes_a, setting.activation)
        optimizer = setting.optimizer_b
        pool = init_pool(key, layers_a, setting)
        return optimizer.transform(optimizer.rate(jnp.int32(0))).init(pool)

    return jax.eval_shape(init, jax.random.key(0))


def check(found: Estimate) -> None:
    """Checks that the device has as much.

    Raises:
      UserError: If it has less, with what to reduce.
    """
    capacity.check("the two-model experiment", found._asdict(), 1, _ADVICE)


def _parameters(sizes: Sequence[int]) -> int:
    """Weights and biases of dense layers."""
    return sum((i + 1) * o for i, o in itertools.pairwise(sizes))
