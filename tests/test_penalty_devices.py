"""The penalty, its consolidation and the scales of the Fisher on several devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import wpl_jax

DEVICES = 4
SHAPES = {"w": (8, 4), "b": (4,)}
SPECS = {
    "rows": {"w": ("d", None), "b": ()},
    "columns": {"w": (None, "d"), "b": ("d",)},
    "nothing": {"w": (), "b": ()},
}
MASK = {"w": jnp.ones((8, 1)).at[2].set(0), "b": jnp.float32(1)}
OPTIMIZERS = [
    optax.chain(wpl_jax.weight_plasticity(2.0), optax.adam(0.1)),
    optax.chain(optax.adam(0.1), wpl_jax.proximal_weight_plasticity(2.0, 0.1)),
]
RULES = (wpl_jax.replace, wpl_jax.accumulate, wpl_jax.online(0.5))


def problem():
    rng = np.random.default_rng(0)
    params, gradient = (
        {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}
        for _ in range(2)
    )
    return params, jax.tree.map(jnp.square, gradient), gradient


def everything(params, fisher, gradient, rules):
    """What the library computes of parameters, a Fisher and a gradient."""
    found = []
    for tx in OPTIMIZERS:
        for rule in rules:
            consolidate = functools.partial(wpl_jax.consolidate, rule=rule)
            state = consolidate(tx.init(params), params, fisher)
            moved = jax.tree.map(lambda p: p + 1, params)
            state = consolidate(state, moved, wpl_jax.normalize(fisher), mask=MASK)
            updates, state = tx.update(gradient, state, params, mask=MASK)
            found.append((updates, state, wpl_jax.penalty_value(state, params, 2.0)))
    found.append(wpl_jax.update_average(fisher, fisher, eta=0.3, mask=MASK))
    found.append(wpl_jax.clip_norm(fisher, 0.1))
    found.append(wpl_jax.normalize(fisher, MASK))
    found.append(wpl_jax.normalize(fisher, per="tensor", scale="loss"))
    found.append((wpl_jax.flush(fisher), wpl_jax.square(gradient)))
    return found


@functools.cache
def on_one_device(rules):
    return jax.jit(functools.partial(everything, rules=rules))(*problem())


@pytest.mark.slow_except("AxisType.Explicit-columns-True-*", "AxisType.Auto-rows-*")
@pytest.mark.parametrize(
    ("kind", "divided", "jit", "fisher_is"),
    [
        (AxisType.Explicit, "rows", True, "divided"),
        (AxisType.Explicit, "rows", True, "whole"),
        (AxisType.Explicit, "columns", True, "whole"),
        (AxisType.Explicit, "columns", False, "whole"),
        (AxisType.Explicit, "nothing", True, "divided"),
        (AxisType.Auto, "rows", True, "whole"),
        (AxisType.Auto, "columns", True, "divided"),
    ],
)
def test_on_a_mesh_as_on_one_device(kind, divided, jit, fisher_is):
    devices = jax.devices()[:DEVICES]
    mesh = jax.make_mesh((DEVICES,), ("d",), axis_types=(kind,), devices=devices)

    def put(tree, specs):
        return {
            k: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*specs[k])))
            for k, x in tree.items()
        }

    # Without jit each operation is a program of its own: one rule does.
    rules = RULES if jit else RULES[1:2]
    function = functools.partial(everything, rules=rules)
    params, fisher, gradient = problem()
    specs = SPECS[divided]
    with jax.set_mesh(mesh):
        params, gradient = put(params, specs), put(gradient, specs)
        fisher = put(fisher, specs if fisher_is == "divided" else SPECS["nothing"])
        got = (jax.jit(function) if jit else function)(params, fisher, gradient)
    for each, want in zip(
        jax.tree.leaves(got), jax.tree.leaves(on_one_device(rules)), strict=True
    ):
        np.testing.assert_allclose(each, want, rtol=2e-5, atol=1e-6)
