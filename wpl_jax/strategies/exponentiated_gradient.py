"""Gradient descent on probability distributions, as an optax transform.

This is mirror descent with the entropy as its mirror map (Kivinen and Warmuth,
"Exponentiated Gradient versus Gradient Descent for Linear Predictors", 1997). GAEA
trains architecture weights with it (Li, Khodak, Balcan, Talwalkar, "Geometry-Aware
Gradient Algorithms for Neural Architecture Search", ICLR 2021, algorithm 1). It needs
few steps to reach a distribution that is concentrated on few choices.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wpl_jax.common.checks import check_range, check_rate


def exponentiated_gradient(
    learning_rate: optax.ScalarOrSchedule, floor: float = 0.0
) -> optax.GradientTransformation:
    """Multiplies probabilities by ``exp(-learning_rate * gradient)``.

    The parameters are distributions along the last axis of each array, and stay so:

        p_new = p exp(-r g) / sum(p exp(-r g)),

    which minimises ``r <g, p_new> + KL(p_new || p)``. It is computed in logarithms, so
    that large gradients do not overflow. A probability of 0 stays 0.

    Args:
      learning_rate: The rate ``r``, a number of at least 0, or a schedule of it.
      floor: What probabilities that are not 0 are raised to afterwards, before they are
        divided by their sum again, in [0, 1]. At a probability near 0 the gradient has
        hardly any effect: a floor lets a choice come back.

    Returns:
      A transform whose state counts the steps. Its ``update`` needs the parameters.

    Raises:
      ValueError: If ``learning_rate`` is a negative number, ``floor`` lies outside
        [0, 1], or either is no number.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> tx = exponentiated_gradient(1.0)
      >>> p = jnp.array([0.5, 0.5])
      >>> updates, _ = tx.update(jnp.log(jnp.array([1.0, 3.0])), tx.init(p), p)
      >>> print(optax.apply_updates(p, updates).round(2))
      [0.75 0.25]
    """
    check_rate("learning_rate", learning_rate)
    check_range("floor", floor, 0, 1, "a number in [0, 1]")
    # As `optax.inject_hyperparams` passes it, a floor is known when a step is taken.
    is_zero = not isinstance(floor, jax.core.Tracer) and floor == 0

    def init(params: Any) -> optax.ScaleByScheduleState:
        del params
        return optax.ScaleByScheduleState(count=jnp.int32(0))

    def update(
        gradients: Any, state: optax.ScaleByScheduleState, params: Any = None
    ) -> tuple[Any, optax.ScaleByScheduleState]:
        if params is None:
            raise ValueError(
                "exponentiated_gradient needs the parameters: call "
                "update(gradients, state, params)."
            )
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def move(p, gradient):
            there = p > 0
            logits = jnp.where(there, jnp.log(jnp.where(there, p, 1)), -jnp.inf)
            new = jax.nn.softmax(logits - rate * jnp.where(there, gradient, 0))
            if not is_zero:
                new = jnp.where(there, jnp.maximum(new, floor), 0)
                new = new / jnp.sum(new, -1, keepdims=True)
            return (new - p).astype(p.dtype)

        count = optax.safe_increment(state.count)
        return jax.tree.map(move, params, gradients), state._replace(count=count)

    return optax.GradientTransformation(init, update)
