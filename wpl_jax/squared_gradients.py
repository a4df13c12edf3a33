"""Sums of squared per-example gradients, faster than a vmapped gradient.

``jax.vmap(jax.grad(loss))`` writes out one gradient per example, as large as
the parameters each, only to square and add them up. Most layers do not need
that. Where a weight meets one activation per example, as in a dense layer, the
gradient of example ``i`` is the outer product of its activation ``x_i`` and its
output cotangent ``d_i``, and

    sum_i (x_i d_i^T)^2 = (X^2)^T (D^2),

one matrix product, as cheap as the batched gradient itself (Goodfellow,
"Efficient Per-Example Gradient Computations", 2015). This module finds such
weights by itself: it walks the jaxpr of the loss, finds the one operation in
which each parameter meets the data, and runs one batched backward pass in which
that operation hands down the sum of squares in place of the gradient.

A parameter that is used more than once (tied weights, weights inside a scan)
has no such operation, and falls back to the vmapped gradient.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from wpl_jax.checks import check_scalar_loss, example_shape
from wpl_jax.patches import Convolution
from wpl_jax.trees import widen

Loss = Callable[[Any, Any], jax.Array]

# Operations on a parameter alone that move its entries without mixing them.
_LAYOUT = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "expand_dims",
    "reshape",
    "squeeze",
    "transpose",
}


def sum_squared_gradients(loss: Loss, params: Any, examples: Any) -> Any:
    """Computes ``sum_i (d loss(params, example_i) / d params)^2``, entry by entry.

    Args:
      loss: ``loss(params, example) -> scalar``, differentiable in ``params``.
      params: Any pytree of floating-point arrays.
      examples: A pytree of arrays with a leading axis of the same length.

    Returns:
      A tree like ``params``, at least float32. Equal to squaring and summing
      ``jax.vmap(jax.grad(loss), (None, 0))`` up to the order of the sums.
    """
    leaves, treedef = jax.tree.flatten(params)
    program = _trace(loss, params, examples)
    sinks = _find_sinks(program, len(leaves))
    squares: list[Any] = [None] * len(leaves)

    if sinks:
        probes = {i: widen(jnp.zeros_like(leaves[i])) for i in sinks}
        inputs = [*leaves, *jax.tree.leaves(examples)]
        found = jax.grad(lambda p: _total_loss(program, sinks, p, inputs))(probes)
        for i, square in found.items():
            squares[i] = square

    rest = [i for i in range(len(leaves)) if i not in sinks]
    if rest:

        def rest_loss(some, example):
            merged = dict(enumerate(leaves)) | dict(zip(rest, some, strict=True))
            return loss(jax.tree.unflatten(treedef, list(merged.values())), example)

        gradients = jax.vmap(jax.grad(rest_loss), (None, 0))(
            [leaves[i] for i in rest], examples
        )
        for i, gradient in zip(rest, gradients, strict=True):
            squares[i] = _sum_squares(gradient)
    return jax.tree.unflatten(treedef, squares)


_RESULT = -1  # stands for the end of the program among the uses of a value


class _Node(NamedTuple):
    """One operation of the inlined loss; values are named by integers."""

    equation: Any  # jaxpr equation
    inputs: list[int]
    outputs: list[int]


class _Program(NamedTuple):
    """The loss of one example as a flat list of operations."""

    nodes: list[_Node]
    num_params: int
    constants: dict[int, Any]
    num_inputs: int
    output: int


class _Sink(NamedTuple):
    """The operation in which a parameter meets the data."""

    node: int  # index of the operation
    layout: list[int]  # operations on the parameter alone, before it
    position: int  # which input of the operation it is


def _trace(loss: Loss, params: Any, examples: Any) -> _Program:
    check_scalar_loss(loss, params, examples)
    closed = jax.make_jaxpr(loss)(params, example_shape(examples))
    nodes: list[_Node] = []
    constants: dict[int, Any] = {}
    counter = iter(range(10**9))
    inputs = [next(counter) for _ in closed.jaxpr.invars]
    (output,) = _inline(closed, inputs, nodes, constants, counter)
    return _Program(nodes, len(jax.tree.leaves(params)), constants, len(inputs), output)


def _inline(closed, inputs, nodes, constants, counter) -> list[int]:
    """Appends the equations of a jaxpr, calls of jitted functions opened up."""
    names = dict(zip(closed.jaxpr.invars, inputs, strict=True))
    for var, value in zip(closed.jaxpr.constvars, closed.consts, strict=True):
        names[var] = next(counter)
        constants[names[var]] = value

    def name(atom):
        if not isinstance(atom, core.Literal):
            return names[atom]
        index = next(counter)
        constants[index] = atom.val
        return index

    for equation in closed.jaxpr.eqns:
        arguments = [name(atom) for atom in equation.invars]
        if equation.primitive.name in ("jit", "pjit"):
            inner = equation.params["jaxpr"]
            outputs = _inline(inner, arguments, nodes, constants, counter)
        else:
            outputs = [next(counter) for _ in equation.outvars]
            nodes.append(_Node(equation, arguments, outputs))
        names.update(zip(equation.outvars, outputs, strict=True))
    return [name(atom) for atom in closed.jaxpr.outvars]


def _find_sinks(program: _Program, num_params: int) -> dict[int, _Sink]:
    """Maps parameters to their sinks; those without one are left out."""
    uses = defaultdict(list)
    for index, node in enumerate(program.nodes):
        for value in node.inputs:
            uses[value].append(index)
    uses[program.output].append(_RESULT)
    batched = _batched_values(program)

    def follow(value: int) -> _Sink | None:
        layout: list[int] = []
        while len(uses[value]) == 1 and uses[value] != [_RESULT]:
            (index,) = uses[value]
            node = program.nodes[index]
            if any(v in batched for v in node.inputs):
                if len(node.outputs) > 1 or _holds_jaxpr(node.equation):
                    return None
                return _Sink(index, layout, node.inputs.index(value))
            if node.equation.primitive.name not in _LAYOUT or len(node.inputs) > 1:
                return None
            layout.append(index)
            (value,) = node.outputs
        return None

    sinks = {i: sink for i in range(num_params) if (sink := follow(i))}
    # Two parameters that meet the data in the same operation: leave both to the
    # fallback rather than decide between them.
    shared = Counter(sink.node for sink in sinks.values())
    return {i: sink for i, sink in sinks.items() if shared[sink.node] == 1}


def _batched_values(program: _Program) -> set[int]:
    """The values that depend on the example."""
    batched = set(range(program.num_params, program.num_inputs))
    for node in program.nodes:
        if any(v in batched for v in node.inputs):
            batched.update(node.outputs)
    return batched


def _holds_jaxpr(equation) -> bool:
    return any(
        isinstance(leaf, core.Jaxpr | core.ClosedJaxpr) or callable(leaf)
        for leaf in jax.tree.leaves(list(equation.params.values()))
    )


def _total_loss(program, sinks, probes, inputs) -> jax.Array:
    """The loss summed over the examples; its gradient in ``probes`` is the result."""
    values: dict[int, Any] = {**program.constants, **dict(enumerate(inputs))}
    batched = _batched_values(program)
    by_node = {sink.node: (i, sink) for i, sink in sinks.items()}
    folded = {index for sink in sinks.values() for index in sink.layout}

    def axes(arguments: Sequence[int]) -> tuple[int | None, ...]:
        return tuple(0 if v in batched else None for v in arguments)

    for index, node in enumerate(program.nodes):
        if index in folded:
            continue
        if index in by_node:
            i, sink = by_node[index]
            others = [v for k, v in enumerate(node.inputs) if k != sink.position]
            apply = _squaring(program, sink, axes(others))
            outputs = [apply(probes[i], inputs[i], *map(values.get, others))]
        else:
            function = _as_function(node.equation)
            if any(axis == 0 for axis in axes(node.inputs)):
                function = jax.vmap(function, axes(node.inputs))
            outputs = function(*map(values.get, node.inputs))
        values.update(zip(node.outputs, outputs, strict=True))
    return jnp.sum(values[program.output])


def _as_function(equation) -> Callable[..., list[Any]]:
    def function(*arguments):
        params = equation.primitive.get_bind_params(equation.params)
        out = equation.primitive.bind(*arguments, **params)
        return out if equation.primitive.multiple_results else [out]

    return function


def _product_form(equation) -> Callable[..., list[Any]]:
    """The operation, as a matrix product where its own gradient would be slow."""
    if equation.primitive.name == "conv_general_dilated":
        convolution = Convolution(equation.params)
        if convolution.is_product():
            return lambda images, kernel: [convolution(images, kernel)]
    return _as_function(equation)


def _squaring(program: _Program, sink: _Sink, axes: tuple[int | None, ...]):
    """The sink over all examples, handing down squares to its ``probe``.

    ``probe`` has the parameter's shape and no influence on the value; its
    cotangent is defined to be the sum over examples of the squared gradient in
    the parameter. The parameter itself cannot carry it: its cotangent would have
    to take the parameter's dtype, too narrow for squares in half precision.
    """
    node = program.nodes[sink.node]

    def local(param, *others):
        for index in sink.layout:
            (param,) = _as_function(program.nodes[index].equation)(param)
        arguments = list(others)
        arguments.insert(sink.position, param)
        return _product_form(node.equation)(*arguments)[0]

    def squares_of_products(cotangent, param, other):
        # At full width, whatever width the loss computes in: squares of half
        # precision would overflow.
        def product(param, other):
            pair = (param, other) if sink.position == 0 else (other, param)
            return jax.lax.dot_general(
                *pair,
                node.equation.params["dimension_numbers"],
                precision=node.equation.params["precision"],
            )

        batched = jax.vmap(product, (None, *axes))
        squared = jnp.square(widen(other))
        _, pull = jax.vjp(lambda p: batched(p, squared), widen(param))
        return pull(jnp.square(widen(cotangent)))[0]

    def squares_of_gradients(cotangent, param, *others):
        def gradient(cotangent, *others):
            return jax.vjp(lambda p: local(p, *others), param)[1](cotangent)[0]

        return _sum_squares(jax.vmap(gradient, (0, *axes))(cotangent, *others))

    batched = jax.vmap(local, (None, *axes))
    once = _meets_each_example_once(program, sink)
    squares = squares_of_products if once else squares_of_gradients

    @jax.custom_vjp
    def apply(probe, param, *others):
        del probe
        return batched(param, *others)

    def forward(probe, param, *others):
        return apply(probe, param, *others), (param, others)

    def backward(residuals, cotangent):
        param, others = residuals
        _, pull = jax.vjp(lambda *others: batched(param, *others), *others)
        return squares(cotangent, param, *others), None, *pull(cotangent)

    apply.defvjp(forward, backward)
    return apply


def _meets_each_example_once(program: _Program, sink: _Sink) -> bool:
    """Whether each weight's gradient in one example is a single product.

    Then squaring both factors squares the gradient. True of a matrix product
    whose other operand is one vector per example.
    """
    equation = program.nodes[sink.node].equation
    layout = {program.nodes[i].equation.primitive.name for i in sink.layout}
    if equation.primitive.name != "dot_general" or layout - {"convert_element_type"}:
        return False
    contracting, batch = equation.params["dimension_numbers"]
    other = 1 - sink.position
    shape = equation.invars[other].aval.shape
    free = set(range(len(shape))) - set(contracting[other])
    return not batch[0] and all(shape[axis] == 1 for axis in free)


def _sum_squares(gradients: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(widen(gradients)), axis=0)
