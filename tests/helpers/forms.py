"""Checks of the form of a search's state, by tracing alone."""

import functools

import jax

from wpl_jax.jobs.search_config import make_plan, make_search


def assert_calls_keep_the_form(run, cache=None, phases=None):
    """No call of a search changes the shapes and dtypes of its state.

    Args:
      run: One arm and seed of a configuration.
      cache: What has been loaded before; None for nothing.
      phases: Names of the phases to trace; None for all.
    """
    search, data, _ = make_search(run.config, cache=cache)
    state = jax.eval_shape(search.init, run.key())
    plan = make_plan(run.config, search)
    numbers = {call.phase: number for number, call in enumerate(plan)}
    for phase in numbers if phases is None else numbers.keys() & set(phases):
        advance = functools.partial(plan.advance, data=data, number=numbers[phase])
        after = jax.eval_shape(advance, state)
        assert jax.tree.map(_form, after) == jax.tree.map(_form, state)


def _form(x):
    """What a compiled function depends on."""
    return x.shape, x.dtype
