"""Programs for accelerators that are not at hand: all can be lowered for them.

Lowering shows that every operation has a translation for the platform, and which
variants were chosen for it. XLA compiles nothing here, and nothing is computed.
"""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from helpers import tiny_images, tiny_search
from helpers.lowering import PLATFORMS, lower
from jax import export

from benchmarks import programs
from wpl_jax.common import platforms
from wpl_jax.jobs.expand import expand

ROOT = Path(__file__).resolve().parents[2]
NAMES = sorted(path.stem for path in (ROOT / "configs").glob("[a-z]*.py"))
OF_A_SEARCH = {
    *("init", "begin an epoch", "measure"),
    *("train", "evaluate", "propose", "screen", "keep", "judge"),
}
LEARN_BETWEEN_EPOCHS = ("enas", "nao")
OF_A_RETRAINING = {
    f"retrain, {name}"
    for name in ("init", "train", "validate", "evaluate on valid", "evaluate on test")
}


def calls_of(arm, strategy="enas"):
    learn = {"learn"} if strategy in LEARN_BETWEEN_EPOCHS else set()
    return {f"{arm}, {name}" for name in OF_A_SEARCH | learn}


@pytest.mark.slow
def test_a_search_of_text_is_lowered_for_accelerators():
    config = tiny_search.get_config()
    for name in ("ewc", "wpl"):
        config.penalty[name].estimator = "per_example"
    sizes = lower(programs.of_config(config))
    of_none = {f"none, {name}" for name in programs.OF_THE_PENALTY}
    assert set(sizes) == calls_of("wpl") | OF_A_RETRAINING | of_none
    assert min(sizes.values()) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["batch", "per_example"])
def test_a_search_of_images_is_lowered_for_accelerators(estimator):
    config = tiny_images.get_config()
    config.penalty.wpl.estimator = estimator
    assert set(lower(programs.of_config(config))) == calls_of("wpl") | OF_A_RETRAINING


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_configuration_is_lowered_at_its_size(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    found = set(lower(programs.of_config(config)))
    if config.job == "two_models":
        assert "train A" in found
        assert len(found) > 1
        return
    strategies = {run.arm: run.config.strategy.name for run in expand(config)}
    for strategy in set(strategies.values()):
        # Whole of one arm, as the arms of a strategy may share all but the training.
        arms = [arm for arm, name in strategies.items() if name == strategy]
        assert any(calls_of(arm, strategy) <= found for arm in arms), strategy
    assert {f"{arm}, train" for arm in config.arms} <= found
    assert found >= OF_A_RETRAINING or not config.retrain.epochs


def divisions(function, platform):
    one = jax.ShapeDtypeStruct((), jnp.float32)
    found = export.export(jax.jit(function), platforms=[platform])(one, one)
    return len(re.findall("stablehlo.divide", found.mlir_module()))


@pytest.mark.parametrize("platform", ["cpu", *PLATFORMS])
def test_only_a_cpu_divides_by_one(platform):
    found = divisions(platforms.computed_once, platform)
    assert found == (1 if platform == "cpu" else 0)


@pytest.mark.parametrize("platform", ["cpu", *PLATFORMS])
def test_only_a_cpu_computes_in_pieces(platform):
    def chosen(a, b):
        return platforms.in_cache_or_at_once(
            a, b, in_cache=lambda a, b: a / b / b, at_once=lambda a, b: a / b
        )

    assert divisions(chosen, platform) == (2 if platform == "cpu" else 1)
