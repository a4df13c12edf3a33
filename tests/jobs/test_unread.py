"""Every setting either changes what is run, or is told to be read by nobody."""

import functools
import re

import jax
import numpy as np
import pytest
from helpers import tiny_images, tiny_search
from ml_collections import ConfigDict

from wpl_jax.errors import UserError
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs import unread
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.jobs.search_config import make_search
from wpl_jax.tasks import DataCache

CACHE = DataCache()
# What choices by name lead to, beside the configurations as they are.
VARIANTS = {
    "text": (tiny_search, {}),
    "images": (tiny_images, {}),
    "random": (tiny_search, {"strategy.name": "random"}),
    "none": (tiny_search, {"penalty.name": "none"}),
    "ewc": (tiny_search, {"penalty.name": "ewc"}),
    "l2": (tiny_search, {"penalty.name": "l2", "penalty.l2.decay_epochs": 3}),
    "per example": (tiny_search, {"penalty.wpl.estimator": "per_example"}),
    "uniform": (tiny_search, {"penalty.wpl.estimator": "uniform"}),
    "momentum": (tiny_search, {"optimizer.sgd.momentum": 0.5}),
    "plain images": (
        tiny_images,
        {
            "space.micro_cell.auxiliary": False,
            "retrain.space.micro_cell.auxiliary": False,
            "task.image_classification.drop_path.rate": 0.0,
            "retrain.task.image_classification.drop_path.rate": 0.0,
            "task.image_classification.normalization.batch_stats": "train",
        },
    ),
}
# Read where parts are put together, or by the data, or by other modes.
ELSEWHERE = re.compile(
    r"job|seed|num_seeds|arms.*|main_arm|search\..*|(retrain\.)?task\.data\..*|"
    r"task\.image_classification\.(shrink|shard_images)|(ranking|ensemble)\..*|"
    r"retrain\.(checkpoint_seconds|architecture|start_from|baselines\..*)|.*\.name|"
    r"penalty\.wpl\.alpha_inside_average|limits\.latency_ms|latency\..*|"
    # Read, but no other sampler fits a recurrent cell.
    r"strategy\.random\.sampler"
)
TEXTS = ("cosine", "exponential", "explicit", "proximal", "tree", "tensor", "none")
TEXTS += ("all", "choices", "leaves", "last", "output", "train", "valid", "model")
TEXTS += ("data", "batch", "per_example", "uniform", "paper", "code", "bfloat16")
TEXTS += ("regularizer", "reward", "distance", "float32")


def variant(name):
    """A copy, which takes a fraction of the time of the configuration itself."""
    return made(name).copy_and_resolve_references()


@functools.cache
def made(name):
    module, fields = VARIANTS[name]
    config = module.get_config()
    config.arms = ConfigDict({"wpl": {}})
    for field, value in fields.items():
        change(config, field, value)
    return config


def change(config, field, value):
    above, _, last = field.rpartition(".")
    for name in filter(None, above.split(".")):
        config = config[name]
    with config.unlocked(), config.ignore_type():
        config[last] = value


def values(old):
    """Others of the same kind."""
    if isinstance(old, bool):
        return [not old]
    if isinstance(old, str):
        return [text for text in TEXTS if text != old]
    if isinstance(old, int):
        return [old + 1, old - 1, old + 3, 2 * old]
    return [0.37, 0.73, 7, 1e9] if old is None or old < 1 else [old * 1.5, 0.5]


def parts(config):
    """What a search and its retraining are made of, but for their data.

    The one arm changes nothing, so the configuration is that of its search.
    """
    search, _, _ = make_search(config, CACHE)
    retraining = make_retraining(config, CACHE).retraining
    return search.task, search.strategy, search.protection, search.optimizer, retraining


def program(config):
    """What trains a child and protects it, as text."""
    search, data, _ = make_search(config, CACHE)
    state = jax.eval_shape(search.init, jax.random.key(0))
    traced = jax.make_jaxpr(search.train_and_protect)(
        state, data, np.int32(0), np.int32(0)
    )
    return re.sub("0x[0-9a-f]+", "", str(traced))


def leaves(config, field=""):
    for name in config:
        below = f"{field}.{name}" if field else name
        if isinstance(config[name], ConfigDict):
            yield from leaves(config[name], below)
        elif not ELSEWHERE.fullmatch(below):
            yield below, config[name]


def changed(name, field, old):
    """The variant with another value, the first that it takes."""
    for value in values(old):
        config = variant(name)
        change(config, field, value)
        try:
            return config, parts(config)
        except (UserError, TypeError):
            continue
    raise AssertionError(f"config.{field} takes no other value than {old}")


def loud_and_silent(name):
    """Fields that change parts though they are told to be unread, and the reverse."""
    as_they_are = parts(variant(name))
    told = unread.by_arm(variant(name), "run")["wpl"]
    loud, silent = {}, []
    for field, old in leaves(variant(name)):
        config, others = changed(name, field, old)
        why = unread.why(told, field)
        if others != as_they_are and why is not None:
            loud[field] = config
        if others == as_they_are and why is None:
            silent.append(field)
    return loud, silent


@pytest.mark.slow_except("text")
@pytest.mark.parametrize("name", VARIANTS)
def test_a_setting_that_changes_no_part_is_told_of(name):
    assert loud_and_silent(name)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_an_unread_setting_that_a_part_holds_changes_no_program(name):
    same = program(variant(name))
    for field, config in loud_and_silent(name)[0].items():
        # Of a retraining the same classes; of a factor of 0 other constants.
        if not field.startswith("retrain.") and "drop_path" not in field:
            assert program(config) == same, field


CHANGES_NOTHING = {
    "strategy": ("text", "strategy.random.candidates.keep", "strategy.name is 'enas'"),
    "subtree": ("text", "strategy.random.candidates", "strategy.name is 'enas'"),
    "schedule": (
        "text",
        "optimizer.sgd.cosine.period",
        "sgd.schedule is 'exponential'",
    ),
    "of retraining": ("text", "retrain.optimizer.sgd.nesterov", "momentum is None"),
    "labels": (
        "text",
        "penalty.wpl.per_example.labels",
        "config.penalty.wpl.estimator is 'batch'",
    ),
    "penalty": ("none", "penalty.wpl.strength", "config.penalty.name is 'none'"),
    "drop path": (
        "plain images",
        "task.image_classification.drop_path.epochs",
        "drop_path.rate is 0",
    ),
    "architecture": ("text", "retrain.architecture", "--mode=retrain"),
}


@pytest.mark.parametrize("name", CHANGES_NOTHING)
def test_an_override_that_is_not_read_is_an_error(name):
    which, field, expected = CHANGES_NOTHING[name]
    config = variant(which)
    config.strategy.random.candidates.keep = 3
    if "cosine" in field:
        config.optimizer.sgd.cosine = ConfigDict({"period": 3})
    with pytest.raises(UserError, match="changes nothing: ") as caught:
        jobs.check_overrides(config, [field], "run")
    assert f"--config.{field} " in str(caught.value)
    assert expected in str(caught.value)


def test_reasons_are_told_of_each_arm():
    config = variant("text")
    config.arms = ConfigDict({"wpl": {}, "none": {"penalty": {"name": "none"}}})
    jobs.check_overrides(config, ["penalty.wpl.strength", "penalty.wpl.eta"], "run")
    config.arms = ConfigDict(
        {
            "wpl": {"penalty": {"wpl": {"eta": 0.5}}},
            "none": {"penalty": {"name": "none"}},
        }
    )
    with pytest.raises(UserError) as caught:
        jobs.check_overrides(config, ["penalty.wpl.eta"], "run")
    assert "in the arm wpl, wpl sets it; in the arm none, config.penalty.name" in str(
        caught.value
    )


def retraining(config):
    """What a mode that trains one architecture is made of, and its seed."""
    return make_retraining(config, CACHE)[0], config.seed


@pytest.mark.slow_except("text")
@pytest.mark.parametrize("name", ["text", "images", "plain images"])
def test_a_training_of_one_architecture_is_told_what_it_does_not_read(name):
    told = unread.by_file(variant(name), "retrain")[""]
    as_it_is = retraining(variant(name))
    for field, old in leaves(variant(name)):
        others = as_it_is
        for value in values(old):
            config = variant(name)
            change(config, field, value)
            try:
                others = retraining(config)
            except (UserError, TypeError):
                continue
            break
        reason = unread.why(told, field)
        if others == as_it_is:
            assert reason is not None, field
        else:  # Some parts hold settings that their functions do not use.
            assert "does not read" not in str(reason), field
            assert "replaces" not in str(reason), field


OF_A_FILE = {
    "search": ("search.epochs", "--mode={} does not read it"),
    "penalty": ("penalty.wpl.strength", "--mode={} does not read it"),
    "seeds": ("num_seeds", "--mode={} does not read it"),
    "arms": ("arms.none.penalty.name", "--mode={} does not read it"),
    "optimizer": ("optimizer.sgd.learning_rate", "--mode={} does not read it"),
    "replaced": (
        "task.language_model.batch_size",
        "config.retrain.task.language_model.batch_size replaces it",
    ),
    "nesterov": ("retrain.optimizer.sgd.nesterov", "sgd.momentum is None"),
}


@pytest.mark.parametrize("mode", ["retrain", "evaluate"])
def test_overrides_of_a_training_of_one_architecture_are_read(mode):
    config = tiny_search.get_config()
    for field, reason in OF_A_FILE.values():
        with pytest.raises(UserError, match="changes nothing: ") as caught:
            jobs.check_overrides(config, [field], mode)
        assert f"--config.{field} " in str(caught.value)
        assert reason.format(mode) in str(caught.value)
    read = ["seed", "task.data.level", "task.language_model.length"]
    read += ["space.recurrent_cell.num_nodes"]
    read += [
        "retrain.architecture",
        "retrain.epochs",
        "retrain.task.language_model.batch_size",
    ]
    jobs.check_overrides(config, read, mode)
