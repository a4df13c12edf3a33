"""The recurrence of the ENAS cell over time, with a backward pass of its own.

One step of the cell is a chain of small matrix products that depend on each
other, ``64 x hidden x 2 hidden`` each. Differentiating a scan of it the plain way
multiplies once more for the weights' gradient in every step, and copies the stack
of node states for every node. The backward pass here carries only the states'
gradient through time and leaves the weights' gradient for a single product over
all steps at the end, eight times larger in its inner dimension than the sum of
the small ones is wide.

The cell (Pham et al., "Efficient Neural Architecture Search", 2018, section 2.1,
with highway connections as in its code): with pre-activations ``[a; b] = W p`` of
the parent state ``p``,

    s = p + sigmoid(a) * (f(b) - p),

where the parent of the first node is the previous time step, whose
pre-activations also get the input's.
"""

from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from wpl_jax.common.platforms import computed_once

ACTIVATIONS = ("tanh", "relu", "identity", "sigmoid")

Carry = Literal["output", "last"]


class Wiring(NamedTuple):
    """One architecture's data flow."""

    parents: jax.Array  # int32[nodes - 1]; parent of node j + 1, at most j
    activations: jax.Array  # int32[nodes]; index into ACTIVATIONS
    output: jax.Array  # float32[nodes]; weight of each node in the output, finite


class _Node(NamedTuple):
    """What the backward pass needs of a node; time first, once the scan is over."""

    parent: jax.Array  # [batch, hidden]; the state that it starts from
    gate: jax.Array  # [batch, hidden]; sigmoid(a)
    value: jax.Array  # [batch, hidden]; f(b)

    @property
    def state(self) -> jax.Array:
        """What the node computes."""
        return self.parent + self.gate * (self.value - self.parent)


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
      recurrent: Kernel of the first node, ``float[2 * hidden, hidden]``.
      kernels: Kernels of the other nodes, ``float[nodes - 1, 2 * hidden, hidden]``.
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
    one = _one(wiring, inputs.dtype)
    # Taken apart before the loop, which would copy each slice in every step.
    kernels = [recurrent, *kernels]

    def step(previous, x):
        nodes: list[_Node] = []
        states: list[jax.Array] = []
        for j, kernel in enumerate(kernels):
            parent = _pick(states, wiring.parents[j - 1]) if j else previous
            a, b = jnp.split(
                product_of_few(kernel, parent) + (0 if j else x), 2, axis=-1
            )
            value = _activate(b, jax.tree.map(lambda c, j=j: c[j], curves))
            nodes.append(_Node(parent, jax.nn.sigmoid(a), value))
            states.append(computed_once(nodes[-1].state, one))
        output = sum(
            weight * state
            for weight, state in zip(wiring.output.astype(x.dtype), states, strict=True)
        )
        following = output if carry == "output" else states[-1]
        scale = clip_scale(following, max_norm)
        return following * scale, (output, (nodes, scale))

    state, (outputs, residuals) = jax.lax.scan(step, state, inputs)
    return outputs, state, residuals


def product_of_few(kernel: jax.Array, x: jax.Array) -> jax.Array:
    """``x @ kernel.T``, as the transpose of a product with few columns.

    A batch is a few dozen rows. With them on the right a matrix product on a CPU
    does a quarter to a third more a second, if the kernel's rows are contiguous.
    """
    return jax.lax.dot_general(kernel, x, (((1,), (1,)), ((), ()))).T


def _one(wiring, dtype):
    """1, computed from the wiring, for :func:`computed_once`.

    All nodes that may be wired to a node use its state, and its gradient is of all.
    """
    return 1 + 0 * wiring.output[0].astype(dtype)


def _pick(states, index):
    """One of the states; a few selections, which fuse, where indexing would copy."""
    found = states[0]
    for i, state in enumerate(states[1:], 1):
        found = jnp.where(index == i, state, found)
    return found


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
    # Turned over for the product's sake; the barrier keeps XLA from undoing it.
    turned = jax.lax.optimization_barrier(kernels.swapaxes(1, 2))
    kernels = [recurrent.T, *turned]
    weights = wiring.output.astype(d_outputs.dtype)
    one = _one(wiring, d_outputs.dtype)

    def step(d_following, now):
        d_output, (nodes, scale) = now
        d_following = d_following * scale
        if carry == "output":
            d_output = d_output + d_following
        d_states = [weight * d_output for weight in weights]
        if carry == "last":
            d_states[-1] += d_following
        d_pres: list[jax.Array] = []  # the last node's first
        for j in range(len(kernels) - 1, -1, -1):
            node, d_state = nodes[j], computed_once(d_states[j], one)
            slope = _slope(node.value, jax.tree.map(lambda c, j=j: c[j], curves))
            d_a = d_state * (node.value - node.parent) * node.gate * (1 - node.gate)
            d_b = d_state * node.gate * slope
            d_pres.append(jnp.concatenate([d_a, d_b], axis=-1))
            d_parent = d_state * (1 - node.gate) + product_of_few(
                kernels[j], d_pres[-1]
            )
            if not j:
                return d_parent, d_pres[::-1]
            for i in range(j):
                chosen = wiring.parents[j - 1] == i
                d_states[i] += jnp.where(chosen, d_parent, 0)

    d_state, d_pres = jax.lax.scan(step, d_last, (d_outputs, residuals), reverse=True)
    # One product over time and batch for each weight.
    nodes, _ = residuals
    d_kernels = [
        flat(d_pre).T @ flat(node.parent)
        for node, d_pre in zip(nodes, d_pres, strict=True)
    ]
    return d_pres[0], d_state, d_kernels[0], jnp.stack(d_kernels[1:]), None


highway_scan.defvjp(_forward_rule, _backward_rule)


def flat(x: jax.Array) -> jax.Array:
    """All but the last axis as one, ``[..., n]`` to ``[rows, n]``.

    A product over two axes at once, as the gradient of a product with time and batch
    has it, is one that XLA copies both factors for.
    """
    return x.reshape(-1, x.shape[-1])


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


def clip_scale(x: jax.Array, max_norm: float | None) -> jax.Array:
    """The factors that bring rows to a norm of at most ``max_norm``, ``[..., 1]``."""
    if max_norm is None:
        return jnp.ones((*x.shape[:-1], 1), x.dtype)
    norm = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return jnp.minimum(1, max_norm / jnp.maximum(norm, 1e-12))
