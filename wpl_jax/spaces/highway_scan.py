"""The recurrence of the ENAS cell over time, with a backward pass of its own.

One step of the cell is a chain of small matrix products that depend on each
other, ``64 x hidden x 2 hidden`` each. Differentiating a scan of it the plain way
multiplies once more for the weights' gradient in every step, and copies the stack
of node states for every node. The backward pass here carries only the states'
gradient through time and leaves the weights' gradient for a single product over
all steps at the end, eight times larger in its inner dimension than the sum of
the small ones is wide.

The cell (Pham et al., "Efficient Neural Architecture Search", 2018, section 2.1,
with highway connections as in its code): with pre-activations ``[a, b] = p W`` of
the parent state ``p``,

    s = p + sigmoid(a) * (f(b) - p),

where the parent of the first node is the previous time step, whose
pre-activations also get the input's.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

ACTIVATIONS = ("tanh", "relu", "identity", "sigmoid")

Carry = Literal["output", "last"]


class Wiring(NamedTuple):
    """One architecture's data flow."""

    parents: jax.Array  # int32[nodes - 1]; parent of node j + 1, at most j
    activations: jax.Array  # int32[nodes]; index into ACTIVATIONS
    output: jax.Array  # float32[nodes]; weight of each node in the output


class _Residuals(NamedTuple):
    """What the backward pass needs, time first."""

    previous: jax.Array  # [time, batch, hidden]; the recurrent state coming in
    states: jax.Array  # [time, nodes, batch, hidden]
    gates: jax.Array  # [time, nodes, batch, hidden]; sigmoid(a)
    values: jax.Array  # [time, nodes, batch, hidden]; f(b)
    scales: jax.Array  # [time, batch, 1]; of the norm clipping


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def highway_scan(
    inputs: jax.Array,
    state: jax.Array,
    recurrent: jax.Array,
    kernels: jax.Array,
    wiring: Wiring,
    carry: Carry = "output",
    max_norm: float | None = 25.0,
) -> tuple[jax.Array, jax.Array]:
    """Runs the cell over time.

    Args:
      inputs: The input's share of the first node's pre-activations, bias included,
        ``float[time, batch, 2 * hidden]``.
      state: Recurrent state before the first step, ``float[batch, hidden]``.
      recurrent: Kernel of the first node, ``float[hidden, 2 * hidden]``.
      kernels: Kernels of the other nodes, ``float[nodes - 1, hidden, 2 * hidden]``.
      wiring: Which node feeds which, through what. Not differentiated.
      carry: What goes on to the next step: ``"output"``, the weighted mean of the
        nodes (the official code), or ``"last"``, the last node (the WPL authors').
      max_norm: Rows of the recurrent state are scaled down to this Euclidean norm;
        the scale counts as a constant in the gradient. None for no limit.

    Returns:
      The outputs ``float[time, batch, hidden]``, and the state after the last step.
    """
    outputs, state, _ = _forward(
        inputs, state, recurrent, kernels, wiring, carry, max_norm
    )
    return outputs, state


def _forward(inputs, state, recurrent, kernels, wiring, carry, max_norm):
    curves = _curves(wiring.activations, inputs.dtype)

    def node(parent, pre, j):
        a, b = jnp.split(pre, 2, axis=-1)
        gate, value = (
            jax.nn.sigmoid(a),
            _activate(b, jax.tree.map(lambda c: c[j], curves)),
        )
        return parent + gate * (value - parent), gate, value

    def step(previous, x):
        first = node(previous, x + previous @ recurrent, 0)
        nodes = [first]
        stack = jnp.zeros((len(wiring.activations), *previous.shape), previous.dtype)
        stack = stack.at[0].set(first[0])
        for j in range(1, len(wiring.activations)):
            parent = stack[wiring.parents[j - 1]]
            nodes.append(node(parent, parent @ kernels[j - 1], j))
            stack = stack.at[j].set(nodes[-1][0])
        output = jnp.einsum("n,nbh->bh", wiring.output.astype(stack.dtype), stack)
        following = output if carry == "output" else stack[-1]
        scale = _clip_scale(following, max_norm)
        gates, values = (jnp.stack([n[k] for n in nodes]) for k in (1, 2))
        residuals = _Residuals(previous, stack, gates, values, scale)
        return following * scale, (output, residuals)

    state, (outputs, residuals) = jax.lax.scan(step, state, inputs)
    return outputs, state, residuals


def _forward_rule(inputs, state, recurrent, kernels, wiring, carry, max_norm):
    outputs, last, residuals = _forward(
        inputs, state, recurrent, kernels, wiring, carry, max_norm
    )
    return (outputs, last), (recurrent, kernels, wiring, residuals)


def _backward_rule(carry, max_norm, saved, cotangents):
    del max_norm
    recurrent, kernels, wiring, residuals = saved
    d_outputs, d_last = cotangents
    curves = _curves(wiring.activations, d_outputs.dtype)
    num_nodes = len(wiring.activations)

    def node(d_state, parent, gate, value, j):
        slope = _slope(value, jax.tree.map(lambda c: c[j], curves))
        d_a = d_state * (value - parent) * gate * (1 - gate)
        d_b = d_state * gate * slope
        return d_state * (1 - gate), jnp.concatenate([d_a, d_b], axis=-1)

    def step(d_following, now):
        d_output, r = now
        d_following = d_following * r.scales
        if carry == "output":
            d_output = d_output + d_following
        weights = wiring.output.astype(d_output.dtype)[:, None, None]
        d_stack = weights * d_output
        if carry == "last":
            d_stack = d_stack.at[-1].add(d_following)
        d_pres: list[jax.Array] = []  # the last node's first
        for j in range(num_nodes - 1, 0, -1):
            parent = wiring.parents[j - 1]
            through, d_pre = node(
                d_stack[j], r.states[parent], r.gates[j], r.values[j], j
            )
            d_stack = d_stack.at[parent].add(through + d_pre @ kernels[j - 1].T)
            d_pres.append(d_pre)
        through, d_pre = node(d_stack[0], r.previous, r.gates[0], r.values[0], 0)
        d_pres.append(d_pre)
        return through + d_pre @ recurrent.T, jnp.stack(d_pres[::-1])

    d_state, d_pres = jax.lax.scan(step, d_last, (d_outputs, residuals), reverse=True)
    # One product over time and batch for each weight.
    d_recurrent = jnp.einsum("tbh,tbk->hk", residuals.previous, d_pres[:, 0])
    d_kernels = jnp.stack(
        [
            jnp.einsum(
                "tbh,tbk->hk", residuals.states[:, wiring.parents[j - 1]], d_pres[:, j]
            )
            for j in range(1, num_nodes)
        ]
    )
    return d_pres[:, 0], d_state, d_recurrent, d_kernels, None


highway_scan.defvjp(_forward_rule, _backward_rule)


class _Curve(NamedTuple):
    """``height * tanh(rate * x) + shift`` where smooth, else ``max(x, slope * x)``.

    Both sigmoid and tanh are of the first form, ReLU and identity of the second,
    so that choosing among the four costs one tanh.
    """

    smooth: jax.Array
    height: jax.Array
    rate: jax.Array
    shift: jax.Array
    slope: jax.Array


# Of each activation: smooth, height, rate, shift, slope.
_CURVES = {
    "tanh": (True, 1.0, 1.0, 0.0, 0.0),
    "relu": (False, 1.0, 1.0, 0.0, 0.0),
    "identity": (False, 1.0, 1.0, 0.0, 1.0),
    "sigmoid": (True, 0.5, 0.5, 0.5, 0.0),
}


def _curves(activations: jax.Array, dtype) -> _Curve:
    columns = zip(*(_CURVES[name] for name in ACTIVATIONS), strict=True)
    smooth, *numbers = (jnp.asarray(column)[activations] for column in columns)
    return _Curve(smooth, *(column.astype(dtype) for column in numbers))


def _activate(x: jax.Array, curve: _Curve) -> jax.Array:
    bent = curve.height * jnp.tanh(curve.rate * x) + curve.shift
    return jnp.where(curve.smooth, bent, jnp.maximum(x, curve.slope * x))


def _slope(value: jax.Array, curve: _Curve) -> jax.Array:
    """Derivative of the activation, from its value."""
    unit = (value - curve.shift) / curve.height
    bent = curve.height * curve.rate * (1 - unit**2)
    return jnp.where(curve.smooth, bent, jnp.where(value > 0, 1, curve.slope))


def _clip_scale(x: jax.Array, max_norm: float | None) -> jax.Array:
    if max_norm is None:
        return jnp.ones((*x.shape[:-1], 1), x.dtype)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.minimum(1, max_norm / jnp.maximum(norm, 1e-12))
