"""Every program of a configuration, with the shapes of its arguments.

A program here is what one call of a run executes: a call of a search's plan, a method
of a retraining, or a training of the two-model experiment. Nothing is computed: states
and data are shapes, which a compiler needs no more than.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from benchmarks import stand_ins
from wpl_jax.data import load_images
from wpl_jax.devices.parallel import ONE_DEVICE, Devices
from wpl_jax.devices.sharded import Sharded
from wpl_jax.engine.plan import Plan
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.jobs.search_config import make_plan, make_search
from wpl_jax.jobs.two_models import settings_of
from wpl_jax.search import Search
from wpl_jax.tasks import Data, Task
from wpl_jax.two_models import experiment
from wpl_jax.two_models.arms import Arm
from wpl_jax.two_models.run import Experiment, make_setting

SPLITS = ("train", "valid", "test")


class Program(NamedTuple):
    """A function, and the shapes of its arguments."""

    name: str  # unique in a configuration
    function: Callable[..., Any]
    arguments: tuple[Any, ...]  # trees of jax.ShapeDtypeStruct
    donated: tuple[int, ...] = ()  # numbers of the arguments that are used up

    def jit(self, **options: Any) -> Any:
        """The function, to be lowered with the arguments; options as of ``jax.jit``."""
        return jax.jit(self.function, donate_argnums=self.donated, **options)


def shapes(tree: Any) -> Any:
    """The shapes of a tree of arrays."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def of_config(config: ConfigDict, devices: Devices = ONE_DEVICE) -> Iterator[Program]:
    """The programs of all arms of a configuration.

    Args:
      config: As ``launch.py`` reads it; data that would be read from files is replaced
        by stand-ins of its shape.
      devices: What the searches and the retraining run on.

    Yields:
      Programs, named by arm and call.
    """
    if config.job == "two_models":
        yield from of_two_models(config)
        return
    cache, seen, whole = stand_ins.StandIns(), set(), set()
    for run in expand(config):
        if run.arm in seen:  # Another seed has the same programs.
            continue
        seen.add(run.arm)
        search, data, _ = make_search(run.config, cache)
        search = dataclasses.replace(search, devices=devices)
        plan = make_plan(run.config, search)
        # What an arm of another penalty or optimizer has no part in is compiled once.
        rest = repr([run.config[name] for name in ("space", "task", "strategy")])
        is_new = rest not in whole
        whole.add(rest)
        for program in of_search(search, plan, _on(devices, search.task, data)):
            if is_new or program.name in OF_THE_PENALTY:
                yield program._replace(name=f"{run.arm}, {program.name}")
        if len(seen) == 1 and run.config.retrain.epochs:
            training, data, _ = make_retraining(run.config, cache)
            training = dataclasses.replace(training, devices=devices)
            yield from of_retraining(training, _on(devices, training.task, data))


def _on(devices: Devices, task: Task, data: Data) -> Data:
    """The shapes of a task's data on devices, which may divide the images."""
    data = shapes(data)
    if devices.count == 1 or not getattr(task, "shard_images", False):
        return data

    def divide(split):
        count, *shape = split.images.shape
        each = -(-count // devices.count)
        part = jax.ShapeDtypeStruct((devices.count, each, *shape), np.uint8)
        first = jax.ShapeDtypeStruct((devices.count,), np.int32)
        return split._replace(images=Sharded(part, first, (count, *shape)))

    return data._replace(**{name: divide(getattr(data, name)) for name in SPLITS})


# What an arm of another penalty or optimizer compiles anew.
OF_THE_PENALTY = ("init", "begin an epoch", "train")


def of_search(search: Search, plan: Plan, data: Data) -> Iterator[Program]:
    """A call of each phase of a search, and what lies between them.

    Args:
      search: The search.
      plan: Its calls.
      data: Shapes of its task's data.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    epoch = jax.ShapeDtypeStruct((), np.int32)
    yield Program("init", search.init, (key,))
    state = jax.eval_shape(search.init, key)
    yield Program("begin an epoch", search.begin_epoch, (state, epoch), (0,))
    # The last call of a phase: the first begins an epoch, which is counted above.
    numbers = {call.phase: number for number, call in enumerate(plan)}
    for phase, number in numbers.items():
        advance = functools.partial(plan.advance, number=number)
        yield Program(phase, advance, (state, data), (0,))
    yield Program("measure", search.measure, (state, epoch))


def of_retraining(retraining: Retraining, data: Data) -> Iterator[Program]:
    """The functions of a training from scratch; ``data`` are shapes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    decisions = len(retraining.task.space.decisions)
    architecture = jax.ShapeDtypeStruct((decisions,), np.int32)
    number = jax.ShapeDtypeStruct((), np.int32)
    yield Program("retrain, init", retraining.init, (key, architecture))
    state = jax.eval_shape(retraining.init, key, architecture)
    calls = {
        "train": (retraining.train, (number, number, number)),
        "validate": (retraining.validate, (number,)),
    }
    for name, (function, rest) in calls.items():
        yield Program(f"retrain, {name}", function, (state, data, *rest), (0,))
    for split in ("valid", "test"):
        evaluate = functools.partial(retraining.evaluate, split=split)
        yield Program(f"retrain, evaluate on {split}", evaluate, (state, data))


def of_two_models(config: ConfigDict) -> Iterator[Program]:
    """A's training, and B's in an arm of each penalty, step and normalization."""
    settings = settings_of(config)
    images = stand_ins.find("image_classification", config.data.to_dict())
    images = images or load_images(**config.data.to_dict())
    data = _two_models_data(settings, images)
    setting = make_setting(settings, data, len(images.class_names))

    def train_a(data):
        return Experiment(settings, data, setting).train_a()

    def train_b(models_a, data, arm):
        return Experiment(settings, data, setting).train_b(arm, models_a)

    yield Program("train A", train_a, (data,))
    models_a, _ = jax.eval_shape(train_a, data)
    arms: dict[tuple[str, ...], Arm] = {}
    for arm in settings.arms():
        arms.setdefault((arm.penalty, arm.step, arm.normalize), arm)
    for names, arm in arms.items():
        function = functools.partial(train_b, arm=arm)
        yield Program(f"train B, {', '.join(names)}", function, (models_a, data))


def _two_models_data(settings, images) -> experiment.Data:
    def examples(count):
        pixels = int(np.prod(images.train.images.shape[1:]))
        return experiment.Examples(
            jax.ShapeDtypeStruct((count, pixels), np.uint8),
            jax.ShapeDtypeStruct((count,), np.int32),
        )

    sizes = {name: len(getattr(images, name).labels) for name in SPLITS}
    number = jax.ShapeDtypeStruct((), jnp.float32)
    return experiment.Data(
        train=examples(sizes["train"]),
        fisher=examples(settings.fisher_examples),
        valid=examples(sizes["valid"] - settings.fisher_examples),
        test=examples(sizes["test"]),
        mean=number,
        std=number,
    )
