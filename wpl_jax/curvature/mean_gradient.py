"""The gradient of the mean loss of a batch, also for parameters of half precision."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.common.divisors import largest_divisor
from wpl_jax.common.trees import widen
from wpl_jax.curvature.chunks import count_examples
from wpl_jax.curvature.placement import varying_like

# Examples whose gradients autodiff adds up in half precision.
FEW = 8


def mean_gradient(
    loss: Callable[[Any, Any], jax.Array], params: Any, batch: Any
) -> Any:
    """The gradient of the mean loss of a batch, at least float32.

    Autodiff adds up a batch in the dtype of the parameters, where in half precision the
    later examples of many vanish. There a few are differentiated at a time.
    """

    def mean_loss(params, some):
        return jnp.mean(jax.vmap(loss, (None, 0))(params, some))

    def gradient(some):
        return jax.tree.map(widen, jax.grad(mean_loss)(params, some))

    if all(widen(leaf).dtype == leaf.dtype for leaf in jax.tree.leaves(params)):
        return gradient(batch)
    n = count_examples(batch)
    size = largest_divisor(n, FEW)

    def add(total, some):
        return jax.tree.map(jnp.add, total, gradient(some)), None

    # Of each device's examples as many.
    parts = jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(size, n // size, *x.shape[1:]), 1, 0), batch
    )
    zeros = jax.tree.map(lambda p: widen(jnp.zeros_like(p)), params)
    total, _ = jax.lax.scan(add, varying_like(zeros, batch), parts)
    return jax.tree.map(lambda g: g / (n // size), total)
