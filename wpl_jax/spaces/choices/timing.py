"""Programs that time the parts of networks with choices, and whole children."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from wpl_jax.common.parts import Program, example
from wpl_jax.common.trees import is_key
from wpl_jax.spaces.choices.choice import fixed_choices
from wpl_jax.spaces.choices.discovery import Discovered, discover
from wpl_jax.spaces.choices.networks import Mode, Network
from wpl_jax.spaces.choices.parts import Body, bodies
from wpl_jax.spaces.choices.uses import Chain


def programs(
    network: Network, inputs: tuple[Any, ...], found: Discovered
) -> dict[Chain, Program]:
    """Programs of the operations outside of choices, and of each branch.

    They run in evaluation, with given batch statistics. Where another choice is called,
    arrays of the right shapes stand in for what it returns.

    Args:
      network: The network.
      inputs: Shapes of its inputs.
      found: Its choices.
    """
    traced = discover(network, inputs, _statistics(found), timed=True)
    timed = {
        chain: [body for body in own if body.first is not None]
        for chain, own in bodies(traced).items()
    }
    return {chain: _program(own) for chain, own in timed.items() if own}


def whole(
    network: Network,
    inputs: tuple[Any, ...],
    found: Discovered,
    choices: dict[str, str],
    params: Any,
) -> Program:
    """The program of a child in evaluation, with given batch statistics.

    Args:
      network: The network.
      inputs: Shapes of its inputs.
      found: Its choices.
      choices: Those of the child, by name.
      params: Parameters of the network.
    """
    leaves, tree = jax.tree.flatten(inputs)
    arrays = [_example(leaf) for leaf in leaves]

    def run(first: Any, others: Any, params: Any, batch_stats: Any) -> Any:
        own = jax.tree.unflatten(tree, [first, *others])
        with fixed_choices(choices):
            return network.run(params, own, Mode(None, batch_stats))[0]

    return run, (arrays[0], arrays[1:], params, _statistics(found))


def _statistics(found: Discovered) -> Any:
    """Batch statistics to normalize with; None if the network has none."""
    return jax.tree.map(_example, found.batch_stats) or None


def _program(own: Sequence[Body]) -> Program:
    """Runs operations as often as a child does."""
    variables = [(*body.jaxpr.constvars, *body.jaxpr.invars) for body in own]
    arrays = [[_example(v.aval) for v in each] for each in variables]
    firsts = [each.pop(_at(body)) for body, each in zip(own, arrays, strict=True)]

    def run(first: jax.Array, others: list[jax.Array], arrays: Any) -> list[Any]:
        given = [first, *(_changed(x, first) for x in others)]
        return [
            _repeat(body, x, each)
            for body, x, each in zip(own, given, arrays, strict=True)
        ]

    return run, (firsts[0], firsts[1:], arrays)


def _at(body: Body) -> int:
    return 0 if body.first is None else body.first


def _repeat(body: Body, first: jax.Array, others: list[jax.Array]) -> list[jax.Array]:
    """Runs operations several times, one time after the other.

    Args:
      body: The operations.
      first: The array at ``body.first``.
      others: The other constants and arguments.
    """
    constants, at = len(body.jaxpr.constvars), _at(body)

    def once(first: jax.Array) -> list[jax.Array]:
        arrays = [*others[:at], first, *others[at:]]
        closed = core.ClosedJaxpr(body.jaxpr, arrays[:constants])
        return core.jaxpr_as_fun(closed)(*arrays[constants:])

    if body.times == 1:
        return once(first)

    def again(_: Any, outputs: list[jax.Array]) -> list[jax.Array]:
        return once(_changed(first, outputs[0]))

    zeros = [jnp.zeros(x.shape, x.dtype) for x in jax.eval_shape(once, first)]
    return jax.lax.fori_loop(0, body.times, again, zeros)


def _changed(x: jax.Array, by: jax.Array) -> jax.Array:
    """The same array, which depends on another one."""
    zero = (0 * jnp.ravel(by)[0]).astype(x.dtype)
    return x.at[(0,) * x.ndim].add(zero)


def _example(x: Any) -> jax.Array:
    """An array of a shape and dtype."""
    if is_key(x):
        return jax.random.split(jax.random.key(0), x.shape)
    if jnp.issubdtype(x.dtype, jnp.inexact):
        return example(*x.shape).astype(x.dtype)
    return jnp.zeros(x.shape, x.dtype)
