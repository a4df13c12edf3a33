"""Programs for accelerators that are not at hand: all can be lowered for them."""

import functools

import jax
import pytest
from helpers import tiny_images, tiny_search
from jax import export

from wpl_jax.jobs.search_config import expand, make_plan, make_search

PLATFORMS = ("cuda", "tpu")


def shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def lower_all_calls(config):
    """The size of each call's program, for CUDA and TPU."""
    search, data, _ = make_search(expand(config)[0].config)
    plan = make_plan(config, search)
    state = jax.eval_shape(search.init, jax.random.key(0))
    numbers = {call.phase: number for number, call in enumerate(plan)}
    found = {}
    for phase, number in numbers.items():
        advance = functools.partial(plan.advance, number=number)
        program = jax.jit(advance)
        exported = export.export(program, platforms=PLATFORMS)(state, shapes(data))
        assert exported.platforms == PLATFORMS
        found[phase] = len(exported.mlir_module_serialized)
    return found


PHASES = {"train", "evaluate", "learn", "propose", "screen", "keep", "judge"}


def test_a_search_of_text_is_lowered_for_accelerators():
    config = tiny_search.get_config()
    for name in ("ewc", "wpl"):
        config.penalty[name].estimator = "per_example"
    sizes = lower_all_calls(config)
    assert set(sizes) == PHASES
    assert min(sizes.values()) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["batch", "per_example"])
def test_a_search_of_images_is_lowered_for_accelerators(estimator):
    config = tiny_images.get_config()
    config.penalty.wpl.estimator = estimator
    assert set(lower_all_calls(config)) == PHASES
