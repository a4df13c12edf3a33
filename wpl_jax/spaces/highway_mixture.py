"""The recurrence of a mixture of recurrent cells over time.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (ICLR 2019), section
2.2 for recurrent cells, with the edges of the cell of ENAS
(:mod:`wpl_jax.spaces.highway_scan`). Each earlier node ``i`` is an input of node ``j``,
with a weight for each activation. With ``[a; b] = W_ji s_i`` and ``c = sigmoid(a)``,

    s_j = sum_i sum_f w_jif (s_i + c (f(b) - s_i)).

As there, weights' gradients are products over all time steps, after the loop.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wpl_jax.spaces.highway_scan import (
    ACTIVATIONS,
    Carry,
    clip_scale,
    flat,
    product_of_few,
)

_FUNCTIONS = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "identity": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
}


def edge(source: Any, target: Any) -> Any:
    """The number of the edge between two nodes, by target, then by source."""
    return target * (target - 1) // 2 + source


@functools.partial(jax.custom_vjp, nondiff_argnums=(6, 7))
def mixed_highway_scan(
    inputs: jax.Array,
    state: jax.Array,
    recurrent: jax.Array,
    kernels: jax.Array,
    first: jax.Array,
    weights: jax.Array,
    carry: Carry = "output",
    max_norm: float | None = 25.0,
) -> tuple[jax.Array, jax.Array]:
    """Runs the mixture over time.

    Args:
      inputs: The input's share of the first node's pre-activations, bias included,
        ``float[time, batch, 2 * hidden]``.
      state: Recurrent state before the first step, ``float[batch, hidden]``.
      recurrent: Kernel of the first node, ``float[2 * hidden, hidden]``.
      kernels: Kernels of the edges, ``float[edges, 2 * hidden, hidden]``, in the order
        of :func:`edge`.
      first: Weight of each activation of the first node, ``float[activations]``.
      weights: The same of each edge, ``float[edges, activations]``.
      carry: What goes on to the next step: ``"output"``, the mean of all nodes, or
        ``"last"``, the last node.
      max_norm: Rows of the recurrent state are scaled down to this Euclidean norm;
        the scale counts as a constant in the gradient. None for no limit.

    Returns:
      The outputs ``float[time, batch, hidden]``, and the state after the last step.
    """
    arguments = inputs, state, recurrent, kernels, first, weights, None
    return _run(*arguments, carry, max_norm)[0]


def _run(inputs, state, recurrent, kernels, first, weights, shifts, carry, max_norm):
    """The results, and the nodes' states; ``shifts`` are added to pre-activations."""
    nodes = _nodes(len(kernels))
    targets = [np.arange(source + 1, nodes) for source in range(nodes - 1)]
    edges = [edge(source, to) for source, to in enumerate(targets)]
    # All kernels of edges from a node are one, for a single product.
    joined = [kernels[own].reshape(-1, kernels.shape[-1]) for own in edges]

    def step(previous, now):
        x, shift = now
        sums: list[Any] = [0.0] * nodes
        sums[0] = _mix(previous, product_of_few(recurrent, previous) + x, first)
        for source in range(nodes - 1):
            pre = product_of_few(joined[source], sums[source])
            parts = jnp.split(pre, len(edges[source]), -1)
            for own, target, part in zip(
                edges[source], targets[source], parts, strict=True
            ):
                if shift is not None:
                    part = part + shift[own]
                sums[target] += _mix(sums[source], part, weights[own])
        output = sum(sums) / nodes
        following = output if carry == "output" else sums[-1]
        scale = jax.lax.stop_gradient(clip_scale(following, max_norm))
        return following * scale, (output, previous, jnp.stack(sums))

    last, (outputs, before, states) = jax.lax.scan(step, state, (inputs, shifts))
    return (outputs, last), (before, states)


def _nodes(edges: int) -> int:
    return round((1 + (1 + 8 * edges) ** 0.5) / 2)


def _mix(parent, pre, weights):
    """The weighted sum over the activations."""
    a, b = jnp.split(pre, 2, -1)
    gate = jax.nn.sigmoid(a)
    weights = weights.astype(pre.dtype)
    values = sum(
        w * _FUNCTIONS[f](b) for w, f in zip(weights, ACTIVATIONS, strict=True)
    )
    return jnp.sum(weights) * (1 - gate) * parent + gate * values


def _forward(inputs, state, recurrent, kernels, first, weights, carry, max_norm):
    arguments = inputs, state, recurrent, kernels, first, weights
    return mixed_highway_scan(*arguments, carry, max_norm), arguments


def _backward(carry, max_norm, saved, gradients):
    inputs, state, recurrent, kernels, first, weights = saved
    time, batch, width = inputs.shape
    shifts = jnp.zeros((time, len(kernels), batch, width), inputs.dtype)

    def run(inputs, state, first, weights, shifts):
        arguments = inputs, state, recurrent, kernels, first, weights, shifts
        return _run(*arguments, carry, max_norm)

    arguments = inputs, state, first, weights, shifts
    _, pull, (before, states) = jax.vjp(run, *arguments, has_aux=True)
    of_inputs, of_state, of_first, of_weights, of_pre = pull(gradients)
    of_recurrent = flat(of_inputs).T @ flat(before)
    of_kernels = [
        flat(of_pre[:, edge(source, target)]).T @ flat(states[:, source])
        for target in range(1, states.shape[1])
        for source in range(target)
    ]
    return (
        of_inputs,
        of_state,
        of_recurrent,
        jnp.stack(of_kernels),
        of_first,
        of_weights,
    )


mixed_highway_scan.defvjp(_forward, _backward)
