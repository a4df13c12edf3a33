"""The two parts of a loss, run: without examples once, with examples for all at once.

:mod:`wpl_jax.curvature.split` says which operations are which. A gradient in a *probe*,
a zero that is added to the result of a site, is the gradient in that result.
"""

from typing import Any

import jax
import jax.numpy as jnp

from wpl_jax.curvature.operations import Arrays, Level, Loop, Site, run_steps
from wpl_jax.curvature.program import is_inexact
from wpl_jax.curvature.split import Split


def without_examples(
    split: Split, names: list[int], params: dict[int, Any]
) -> dict[int, Any]:
    """Computes values of parameters and constants alone.

    Args:
      split: The loss.
      names: Of values outside of all loops.
      params: The parameters by their place.

    Returns:
      The values by name.
    """
    env = split.constants | {split.params[i]: p for i, p in params.items()}
    run_steps(split.steps_to(names), env)
    return {v: env[v] for v in names}


def init_probes(split: Split, count: int) -> dict[int, list[Any]]:
    """Zeros for each site, by its number: for each result of each example."""

    def zeros(site, aval):
        lengths = [level.length for level in site.level.path()]
        return jnp.zeros((*lengths, count, *aval.shape), aval.dtype)

    def of(site):
        if site.is_opaque:
            return [split.avals[site.inputs[k]] for k in site.positions]
        return [aval for aval in site.avals if is_inexact(aval)]

    return {s.number: [zeros(s, aval) for aval in of(s)] for s in split.sites}


def with_examples(split: Split, met: Arrays, examples: list[Any], probes: Any):
    """Computes the losses of all examples.

    Args:
      split: The loss.
      met: The values in :attr:`Split.met`.
      examples: Leaves of the examples, each with a leading axis of them.
      probes: As :func:`init_probes` makes them. The gradient in them is that in the
        results of the sites, or of the parameters in an opaque one.

    Returns:
      The losses, ``float[n]``, and by the number of a site those of its arguments
      that differ between examples or steps, by their position. Axes of loops come
      first, from the outermost, then that of the examples.
    """
    env = met | dict(zip(split.example, examples, strict=True))
    count = len(examples[0])
    records: dict[int, Any] = {}
    _run(split, split.root, env, probes, records, count)
    return env[split.output], records


def _run(split: Split, level: Level, env, probes, records, count: int) -> None:
    """Runs the operations on examples of a level."""
    for step in level.batched:
        if isinstance(step, Loop):
            _run_loop(split, step, env, probes, records, count)
            continue
        arguments, axes = [env[v] for v in step.inputs], split.axes(step.inputs)
        site = step.site
        if site is not None and site.is_opaque:
            outputs = _run_opaque(site, axes, probes[site.number], arguments)
        elif any(axis == 0 for axis in axes):
            outputs = jax.vmap(step.function, axes)(*arguments)
        else:
            outputs = [
                jnp.broadcast_to(x, (count, *jnp.shape(x)))
                for x in step.function(*arguments)
            ]
        if site is not None and not site.is_opaque:
            given = iter(probes[site.number])
            outputs = [
                _tap(y, next(given)) if is_inexact(aval) else y
                for y, aval in zip(outputs, site.avals, strict=True)
            ]
            records[site.number] = {
                k: arguments[k]
                for k, v in enumerate(site.inputs)
                if split.is_batched(v) or split.levels[v] is not split.root
            }
        env.update(zip(step.outputs, outputs, strict=True))


def _run_loop(split: Split, loop: Loop, env, probes, records, count: int) -> None:
    inner = loop.level
    emitted = {v: s for v, s in inner.emitted.items() if s in env}
    xs = (
        [jnp.moveaxis(env[v], 1, 0) for v, _ in loop.slices],
        [env[s] for s in emitted.values()],
        {site.number: probes[site.number] for site in inner.sites},
    )

    def body(carry, xs):
        slices, stacks, own = xs
        here = dict(env)
        here |= dict(zip((c.inside for c in loop.carries), carry, strict=True))
        here |= dict(zip((v for _, v in loop.slices), slices, strict=True))
        here |= dict(zip(emitted, stacks, strict=True))
        found: dict[int, Any] = {}
        _run(split, inner, here, own, found, count)
        following = [here[c.following] for c in loop.carries]
        return following, ([here[v] for v, _ in loop.stacks], found)

    end, (stacks, found) = jax.lax.scan(
        body,
        [env[c.before] for c in loop.carries],
        xs,
        **loop.options,
    )
    env |= dict(zip((c.after for c in loop.carries), end, strict=True))
    for (_, v), stack in zip(loop.stacks, stacks, strict=True):
        env[v] = jnp.moveaxis(stack, 0, 1)
    records.update(found)


@jax.custom_jvp
def _tap(y, probe):
    """``y``, whose gradient is also that of ``probe``, which is not looked at."""
    del probe
    return y


@_tap.defjvp
def _tap_rule(primals, tangents):
    return primals[0], tangents[0] + tangents[1]


def _run_opaque(site: Site, axes, probes, arguments):
    """Runs an operation whose gradient is a rule of its owner's.

    Such a rule cannot be divided: it gives the parameters' gradient of each example
    as a whole, which the probes get.
    """
    # Constants of the rule come first; it has no gradient in them.
    constants = site.equation.params.get("num_consts", 0)
    inexact = [
        k >= constants and is_inexact(jax.typeof(x)) for k, x in enumerate(arguments)
    ]

    def run(arguments):
        return jax.vmap(site.function, axes)(*arguments)

    def pull(gradients, *arguments):
        """The gradients in all arguments, of one example."""

        def of(*differentiable):
            given = iter(differentiable)
            return site.function(
                *(
                    next(given) if is_float else x
                    for x, is_float in zip(arguments, inexact, strict=True)
                )
            )

        chosen = [x for x, is_float in zip(arguments, inexact, strict=True) if is_float]
        _, backward = jax.vjp(of, *chosen)
        return backward(gradients)

    @jax.custom_vjp
    def apply(probes, arguments):
        del probes
        return run(arguments)

    def forward(probes, arguments):
        del probes
        return run(arguments), arguments

    def backward(arguments, gradients):
        found = iter(jax.vmap(pull, (0, *axes))(gradients, *arguments))
        each = [next(found) if is_float else None for is_float in inexact]
        summed = [
            jnp.sum(g, 0) if g is not None and axis is None else g
            for g, axis in zip(each, axes, strict=True)
        ]
        return [each[k] for k in site.positions], summed

    apply.defvjp(forward, backward)
    return apply(probes, arguments)
