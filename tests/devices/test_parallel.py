"""Devices: any number of them does what one does."""

import contextlib
import dataclasses
import functools
import importlib
import json
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import tiny_images, tiny_search, toy
from helpers.parts import make_protection
from helpers.written_search import (
    BATCHES,
    CHILDREN,
    DECAY,
    EPOCHS,
    RATE,
    WEIGHT_DECAY,
    Written,
    make_penalty,
    make_search,
)
from ml_collections import ConfigDict

import configs
from wpl_jax.data import open_images
from wpl_jax.devices import capacity, choice, sharded
from wpl_jax.devices.axis import NO_AXIS, Axis
from wpl_jax.devices.parallel import Devices
from wpl_jax.devices.sharded import Sharded
from wpl_jax.engine.joint_training import Child, batches_of_several, joint_step
from wpl_jax.engine.training import TrainState, gradient_of_batch
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation.shared_scores import SharedScores
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs import search_config
from wpl_jax.jobs.modes import run as run_mode
from wpl_jax.jobs.search_loop import METRICS
from wpl_jax.penalty import consolidate, weight_plasticity
from wpl_jax.protections.protection import Trained
from wpl_jax.runs import machine
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.stopping import StopRequest
from wpl_jax.supernet import Architecture, gather, mask, random_choice
from wpl_jax.tasks import image_classification, image_data
from wpl_jax.tasks.image_data import SPLITS

COUNTS = (1, 2, 8)
BUILT_IN = [module.name for module in pkgutil.iter_modules(configs.__path__)]


def on(count, function, *arguments):
    """What a function gives that runs on so many devices."""
    devices = Devices(count)
    return jax.device_get(devices.compile(function)(*devices.replicate(arguments)))


@pytest.mark.parametrize("count", COUNTS)
def test_shares_are_parts_of_the_whole(count):
    rows = np.arange(48.0, dtype=np.float32).reshape(16, 3)
    axis = Axis(count)

    def work(rows):
        share, columns = axis.shard(rows), axis.shard(rows.T, axis=1)
        weight = 1.0 + jnp.arange(len(share))[:, None]
        return (
            share.shape[0] * jnp.ones(()),
            axis.all_gather(share * 2),
            axis.sum(jnp.sum(share * weight)),
            axis.mean(jnp.mean(columns)),
        )

    size, doubled, total, mean = on(count, work, rows)
    each = 16 // count
    assert size == each
    np.testing.assert_array_equal(doubled, 2 * rows)
    weights = np.tile(np.arange(1, each + 1), count)[:, None]
    np.testing.assert_allclose(total, np.sum(rows * weights), rtol=1e-6)
    np.testing.assert_allclose(mean, rows.mean(), rtol=1e-6)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("items", [1, 3, 8, 13])
def test_items_are_mapped_once_each_and_in_order(count, items):
    values = np.random.default_rng(0).normal(size=(items, 2)).astype(np.float32)
    found = on(count, lambda x: Axis(count).map(lambda row: row**2, x), values)
    np.testing.assert_array_equal(found, values**2)


@pytest.mark.parametrize("count", COUNTS)
def test_sums_over_items_have_each_item_once(count):
    values = np.arange(24.0, dtype=np.float32).reshape(8, 3)

    def add(total, row):
        return total + row, row.sum()

    total, beside = on(
        count, lambda x: Axis(count).accumulate(add, jnp.zeros(3), x), values
    )
    np.testing.assert_array_equal(total, values.sum(0))
    np.testing.assert_array_equal(beside, values.sum(1))


def test_the_gradient_of_a_mean_is_that_of_all_devices_losses():
    rows = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)

    def loss(w, rows, axis):
        y = axis.shard(rows) @ w
        return jnp.mean((y - axis.mean(jnp.mean(y))) ** 3)

    def gradient_on(axis):
        return lambda w, rows: axis.mean(jax.grad(loss)(w, rows, axis))

    w = np.array([0.5, -1.0, 2.0], np.float32)
    y = np.float64(rows) @ w
    centered = y - y.mean()
    expected = (3 * centered**2) @ (rows - rows.mean(0)) / 8
    for count in COUNTS:
        found = on(count, gradient_on(Axis(count)), w, rows)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_shared_equally_is_named():
    with pytest.raises(ValueError, match=r"6 rows .* by 4 devices"):
        on(4, lambda x: Axis(4).shard(x), np.zeros(6))


def test_arguments_may_be_static_donated_and_named():
    def work(x, scale, power):
        return scale * x**power

    devices = Devices(2)
    compiled = devices.compile(work, static_argnames="power", donate_argnames=("x",))
    x, scale = devices.replicate((jnp.arange(4.0), jnp.float32(3)))
    np.testing.assert_array_equal(compiled(x, power=2, scale=scale), [0, 3, 12, 27])
    assert x.is_deleted()
    assert not scale.is_deleted()


def test_one_program_serves_a_state_that_comes_back():
    traces = []

    def work(state, number):
        traces.append(1)
        return jax.tree.map(lambda x: x + number, state)

    devices = Devices(8)
    compiled = devices.compile(work, donate_argnames="state")
    state = devices.replicate({"a": jnp.zeros(3), "b": jnp.ones((2, 2))})
    for _ in range(3):
        state = compiled(state, np.int32(2))
    np.testing.assert_array_equal(state["b"], np.full((2, 2), 7))
    assert len(traces) == 1


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("rows", [3, 16, 21])
def test_every_device_gets_the_rows_it_asks_for_wherever_they_are(count, rows):
    rng = np.random.default_rng(0)
    array = rng.integers(1, 256, (rows, 2, 3), np.uint8)
    asked = rng.integers(0, rows, (count, 5, 2))
    asked[0, 0] = 0, rows - 1
    devices = Devices(count)
    here = devices.rows_here(rows)
    np.testing.assert_array_equal(here, np.arange(rows))  # One process has all devices.
    axis, data = devices.every, {"images": devices.shard(array, rows), "other": asked}

    def work(data, asked):
        found = data["images"][axis.shard(asked)[0]]  # Another one's are others.
        return axis.all_gather(found[None]), data["images"][asked[0]], data["other"]

    found, same, other = on(count, work, data, asked)
    np.testing.assert_array_equal(found, array[asked])
    np.testing.assert_array_equal(same, array[asked[0]])
    assert found.dtype == same.dtype == np.uint8
    np.testing.assert_array_equal(other, asked)


class Device:
    platform = "tpu"

    def __init__(self, process_index):
        self.process_index = process_index


def have(monkeypatch, *counts):
    """Processes with so many devices each; this is the first."""
    devices = [Device(index) for index, n in enumerate(counts) for _ in range(n)]
    monkeypatch.setattr(jax, "devices", lambda: devices)
    monkeypatch.setattr(jax, "device_count", lambda: len(devices))
    monkeypatch.setattr(jax, "process_count", lambda: len(counts))
    return devices


def test_processes_with_different_numbers_of_devices_are_told(monkeypatch):
    have(monkeypatch, 1, 2)
    with pytest.raises(UserError, match="have 1, 2 devices, expected as many each"):
        choose(text_config())


def test_of_each_process_as_many_devices_are_used(monkeypatch):
    found = have(monkeypatch, *[8] * 4)
    config = text_config()
    config.task.language_model.batch_size = 48
    devices = choose(config)
    assert devices.count == 24
    chosen = [found.index(device) for device in devices._chosen()]
    assert chosen == [first + i for first in (0, 8, 16, 24) for i in range(6)]
    assert "Devices: 24 of 32 (tpu): more cannot" in choice.told([devices], None)
    config.task.language_model.batch_size = 6
    with pytest.raises(ConfigError, match=r"multiple of 4, .* start fewer processes"):
        choose(config)
    with pytest.raises(UserError, match=r"is 6, .* multiple of the 4 processes"):
        choose(config, 6)
    config.task.language_model.batch_size = 16
    assert choose(config, 8).count == 8
    assert choice.told([Devices(8)], 8) == "Devices: 8 of 32 (tpu)"


def test_what_is_divided_takes_a_devices_part_of_the_memory():
    devices = Devices(4)
    data = devices.shard(np.zeros((10, 6), np.int16), 10), np.zeros(5, np.float32)
    assert capacity.bytes_of_each(data) == 3 * 6 * 2 + 5 * 4
    whole, other = sharded.unsharded(data)
    assert (whole.shape, whole.dtype) == ((10, 6), np.int16)
    assert other is data[1]
    assert capacity.bytes_of_each([data, data]) == capacity.bytes_of_each(data)
    assert capacity.bytes_of_exchange(data, 7) == 4 * 7 * 6 * 2
    assert capacity.bytes_of_exchange(whole, 7) == 0
    with pytest.raises(TypeError, match="no rows in order"):
        list(data[0])
    shards = data[0].part.addressable_shards
    assert [shard.data.size for shard in shards] == [18] * 4


# Of searches: what devices leave is compared with what one leaves.

FIRST, SECOND = jax.random.key(0), jax.random.key(1)


def text_config():
    config = tiny_search.get_config()
    config.task.language_model.batch_size = 8
    config.task.language_model.dropout = ConfigDict(
        {"embedding": 0.1, "input": 0.2, "output": 0.2, "recurrent": 0.1}
    )
    config.search.epochs = 1
    config.search.children = 4
    config.strategy.enas.candidates = ConfigDict(
        {"proposed": 5, "screen_batches": 1, "keep": 3}
    )
    return config


def choose(config, count=None, children_per_step=1):
    """The devices of a configuration's batches."""
    task = search_config.open_task(config).task
    return search_config.choose_devices(config, task, count, children_per_step)


def load(config, count):
    """A search on so many devices, and its data."""
    search, data, _ = search_config.make_search(config, num_devices=count)
    return search, data


@pytest.fixture
def noise(monkeypatch):
    """Images whose pixels differ: of equal ones the largest may be either.

    And of which none brings an activation so near to 0 that rounding takes it to the
    other side, which moves a Fisher by what that image gives. With the seed 1 some do:
    on one device, the last bit of the deviation of ``moments`` moved an entry by .6 %;
    in float64 any number of devices agreed.
    """

    def drawn(split):
        rng = np.random.default_rng(2)
        pixels = rng.integers(0, 256, split.images.shape, np.uint8)
        order = np.random.default_rng(0).permutation(len(pixels))  # As they are put.
        return split._replace(images=pixels[np.argsort(order)])

    def open_noise(*args, **options):
        dataset = open_images(*args, **options)
        splits = {name: drawn(getattr(dataset, name)) for name in SPLITS}
        return dataclasses.replace(dataset, **splits)

    moments = jnp.full(1, 127.0), jnp.full(1, 74.0)
    monkeypatch.setattr(image_classification, "open_images", open_noise)
    monkeypatch.setattr(image_data, "_mean_and_deviation", lambda *args: moments)
    yield
    # Compiled programs hold maps of memory, of which a process may have 65,530.
    jax.clear_caches()


def outcome(config, count):
    """A whole search: the numbers of its last epoch, and its state."""
    search, data = load(config, count)
    state, number = search.init(FIRST), 0
    plan = search_config.make_plan(config, search)
    while number < len(plan):
        state = plan.advance(state, data, number)
        number += plan.count_taken(number)
        if plan[number - 1].last:
            measured = search.measure(state, np.int32(config.search.epochs - 1))
    return jax.device_get((measured, state._replace(key=())))


def assert_same_search(found, expected, atol=1e-5):
    (measured, state), (measured_there, state_there) = found, expected
    for name in ("err1", "err2", "train_loss", "reward", "child_reward", "entropy"):
        np.testing.assert_allclose(
            getattr(measured, name),
            getattr(measured_there, name),
            atol=atol,
            err_msg=name,
        )
    for name in ("mean", "best_mean", "max", "std"):
        each = getattr(measured.loss, name), getattr(measured_there.loss, name)
        np.testing.assert_allclose(*each, atol=atol, err_msg=name)
    shared, there = state.shared, state_there.shared
    for tree in ("params", "memory"):
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, atol=10 * atol, rtol=1e-3),
            getattr(shared, tree),
            getattr(there, tree),
        )
    seen, seen_there = state.epoch.architectures, state_there.epoch.architectures
    np.testing.assert_array_equal(seen.choice, seen_there.choice)
    np.testing.assert_array_equal(
        state.selection.architectures.choice, state_there.selection.architectures.choice
    )
    np.testing.assert_allclose(
        state.selection.judged.loss, state_there.selection.judged.loss, atol=atol
    )


def per_example(config):
    config.penalty.wpl.estimator = "per_example"
    config.penalty.wpl.per_example.labels = "model"
    return config


@functools.cache
def text_on_one(estimator, children_per_step=1):
    config = text_config()
    config.search.children_per_step = children_per_step
    config = per_example(config) if estimator == "per_example" else config
    return config, outcome(config, 1)


@pytest.mark.parametrize(
    ("count", "estimator"),
    [
        pytest.param(2, "batch", marks=pytest.mark.slow),
        pytest.param(8, "batch", marks=pytest.mark.slow),
        pytest.param(2, "per_example", marks=pytest.mark.slow),
    ],
)
def test_a_search_of_text_is_the_same_on_several_devices(count, estimator):
    config, expected = text_on_one(estimator)
    assert_same_search(outcome(config, count), expected)


@pytest.mark.slow
def test_children_that_are_trained_together_may_be_anywhere():
    config, expected = text_on_one("batch", children_per_step=4)
    assert_same_search(outcome(config, 4), expected)
    alone = text_on_one("batch")[1]
    assert np.max(np.abs(alone[0].err2 - expected[0].err2)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("children_per_step", [1, 4])
def test_a_search_of_images_is_the_same_on_several_devices(children_per_step, noise):
    config = tiny_images.get_config()
    config.search.children_per_step = children_per_step
    expected = outcome(config, 1)
    for count in (2, 8) if children_per_step == 1 else (2, 4):
        assert_same_search(outcome(config, count), expected)


@pytest.mark.slow  # A minute, of compilation; the cells have a test of their own.
@pytest.mark.usefixtures("noise")
def test_a_step_on_images_is_the_same_on_several_devices():
    search, data = load(tiny_images.get_config(), 1)
    task = search.task
    architecture = Architecture(random_choice(SECOND, task.space.decisions))
    child = gather(task.space.init(FIRST), task.space.rows(architecture))

    def step_on(axis):
        def step(child, architecture, data):
            given = architecture, data
            number = jnp.int32(70)
            gradient, _, nats, _ = gradient_of_batch(
                task, child, *given, (), number, FIRST, axis
            )
            return gradient, nats

        return step

    expected = on(1, step_on(NO_AXIS), child, architecture, data)
    _, divided = load(tiny_images.get_config(), 8)
    assert isinstance(divided.train.images, Sharded)
    found = on(8, step_on(Axis(8)), child, architecture, divided)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * (np.max(np.abs(b)) + 1e-2))


FISHER_BATCHES = 2


class Together(Written):
    """Several children at once, in numpy."""

    def __init__(self, params, data, penalty, name):
        super().__init__(params, data, penalty)
        self.name = name

    def train_several(self, architectures, epoch, index):
        rate, some = RATE * DECAY ** max(epoch - 1, 0), len(architectures)
        stretch = len(self.data[0]) // some
        for i in range(BATCHES):
            numbers = [
                place * stretch + (epoch * CHILDREN + index) // some * BATCHES + i
                for place in range(some)
            ]
            batches = [self.data[0][number % len(self.data[0])] for number in numbers]
            sums = {k: np.zeros_like(v) for k, v in self.params.items()}
            count = {k: np.zeros((len(v), 1)) for k, v in self.params.items()}
            count["shared"] = np.zeros(())
            for architecture, batch in zip(architectures, batches, strict=True):
                gradient = self.gradient(architecture, batch)
                for k, part in self.parts(architecture).items():
                    sums[k][part] += gradient[k]
                    count[k][part if k != "shared" else ...] += 1
            for k, theta in self.params.items():
                step = sums[k] / np.maximum(count[k], 1) + WEIGHT_DECAY * theta
                f = self.penalty.strength * self.fisher[k]
                if self.penalty.step == "explicit":
                    new = theta - rate * (step + f * (theta - self.anchor[k]))
                else:
                    new = theta - rate * step
                    new = (new + rate * f * self.anchor[k]) / (1 + rate * f)
                self.params[k] = np.where(count[k] > 0, new, theta)

    def protect_several(self, architectures, epoch, index):
        if epoch < self.penalty.start_epoch:
            return
        sums = {k: np.zeros_like(v) for k, v in self.params.items()}
        count = {k: np.zeros_like(v) for k, v in self.params.items()}
        for place, architecture in enumerate(architectures):
            for i in range(FISHER_BATCHES):
                number = (epoch * CHILDREN + index + place) * FISHER_BATCHES + i
                batch = self.data[1][number % len(self.data[1])]
                gradient = self.gradient(architecture, batch)
                for k, part in self.parts(architecture).items():
                    sums[k][part] += gradient[k] ** 2 / FISHER_BATCHES
            for k, part in self.parts(architecture).items():
                count[k][part] += 1
        found = {k: sums[k] / np.maximum(used, 1) for k, used in count.items()}
        if self.name == "l2":
            found = {k: np.ones_like(f) for k, f in found.items()}
        elif self.name == "wpl":
            for k, used in count.items():
                mixed = 0.1 * self.average[k] + found[k]
                found[k] = self.average[k] = np.where(used > 0, mixed, self.average[k])
        mean = np.concatenate([found[k][n > 0] for k, n in count.items()]).mean()
        for k, used in count.items():
            fisher, anchor = found[k] / mean, self.params[k]
            if self.name == "ewc":
                total = fisher + self.fisher[k]
                weighted = fisher * anchor + self.fisher[k] * self.anchor[k]
                fisher, anchor = total, weighted / np.maximum(total, 1e-300)
            self.fisher[k] = np.where(used > 0, fisher, self.fisher[k])
            self.anchor[k] = np.where(used > 0, anchor, self.anchor[k])


@pytest.mark.parametrize(
    ("count", "name", "step"),
    [
        (1, "wpl", "proximal"),
        (2, "wpl", "proximal"),
        (2, "wpl", "explicit"),
        (2, "ewc", "explicit"),
        (1, "l2", "proximal"),
    ],
)
def test_children_that_are_trained_together_share_their_gradients(count, name, step):
    settings = {"start_epoch": 1, "flush_every": 2, "strength": 1.0}
    if name != "l2":
        settings["batches"] = FISHER_BATCHES
    protection = make_protection(name, normalize="tree", step=step, **settings)
    search = dataclasses.replace(
        make_search(protection=protection),
        children_per_step=2,
        devices=Devices(count, "children"),
    )
    data = search.devices.replicate(toy.make_data())
    state = search.init(SECOND)
    written = Together(
        jax.device_get(state.shared.params), toy.make_data(), protection, name
    )
    for epoch in range(EPOCHS):
        state = search.begin_epoch(state, np.int32(epoch))
        if epoch == 3:
            written.flush()
        for index in range(0, CHILDREN, 2):
            numbers = np.int32(epoch), np.int32(index)
            state = search.train_child(state, data, *numbers)
            seen = jax.device_get(state.epoch)
            pair = seen.architectures.choice[index : index + 2]
            written.train_several(pair, epoch, index)
            expected = [written.evaluate(architecture) for architecture in pair]
            found = seen.err1.loss[index : index + 2]
            np.testing.assert_allclose(found, expected, rtol=2e-5)
            written.protect_several(pair, epoch, index)
        for name, value in state.shared.params.items():
            np.testing.assert_allclose(value, written.params[name], rtol=2e-5)
            if written.name == "wpl":
                average = state.shared.memory[name]
                np.testing.assert_allclose(average, written.average[name], rtol=2e-4)


def test_momentum_is_of_the_children_that_use_a_parameter():
    transform = optax.sgd(0.1, momentum=0.9, nesterov=True)
    params = toy.ToySpace().init(FIRST)
    train_state = TrainState(params, transform.init(params), ())
    written = Written(params, toy.make_data(), None)
    velocity = {k: np.zeros_like(v) for k, v in written.params.items()}
    for pair in ([[0, 1], [1, 1]], [[2, 0], [0, 1]], [[0, 2], [0, 0]]):
        train_state, told = take_joint_step(
            transform, train_state.opt_state, train_state.params, pair
        )
        assert np.all(told.sound)
        sums = {k: np.zeros_like(v) for k, v in written.params.items()}
        count = {k: np.zeros_like(v) for k, v in written.params.items()}
        for architecture, batch in zip(pair, written.data[0], strict=False):
            gradient = written.gradient(architecture, batch)
            for k, part in written.parts(architecture).items():
                sums[k][part] += gradient[k]
                count[k][part] += 1
        for k, used in count.items():
            gradient = sums[k] / np.maximum(used, 1)
            moved = 0.9 * velocity[k] + gradient
            velocity[k] = np.where(used > 0, moved, velocity[k])
            step = np.where(used > 0, gradient + 0.9 * moved, 0)
            written.params[k] = written.params[k] - 0.1 * step
            np.testing.assert_allclose(
                train_state.params[k], written.params[k], rtol=1e-5
            )


def test_architectures_are_ranked_on_several_devices_as_computed():
    architectures = np.array([[0, 1], [1, 1], [2, 0], [0, 0], [1, 2], [2, 2]], np.int32)
    search = dataclasses.replace(make_search(), devices=Devices(4))
    data, params = search.devices.replicate(
        (toy.make_data(), toy.ToySpace().init(FIRST))
    )
    scores = SharedScores(search.task, search.devices, block=5)
    found = scores.of(params, architectures, data)
    written = Written(jax.device_get(params), toy.make_data(), None)
    nats = [written.loss(each, written.data[1]) for each in architectures]
    np.testing.assert_allclose(found.loss, nats, rtol=1e-5)
    np.testing.assert_allclose(found.error, np.sqrt(2 * np.array(nats)), rtol=1e-5)


def test_a_child_that_explodes_does_not_move_the_others():
    class Broken(toy.ToyTask):
        def train_loss(self, child, architecture, data, carry, step, key, axis):
            nats, aux = super().train_loss(
                child, architecture, data, carry, step, key, axis
            )
            nats += jnp.where(architecture.choice[0] == 0, jnp.inf, 0.0)
            return nats, (nats, aux[1])

    data, params, states = toy.make_data(), None, []
    for task in (toy.ToyTask(), Broken()):
        search = dataclasses.replace(make_search(task), children_per_step=CHILDREN)
        state = search.begin_epoch(search.init(SECOND), np.int32(0))
        params = jax.device_get(state.shared.params)
        states.append(search.train_child(state, data, np.int32(0), np.int32(0)))
    sane, broken = jax.device_get(states)
    bad = np.sum(broken.epoch.architectures.choice[:, 0] == 0)
    assert 0 < bad < CHILDREN
    assert broken.skipped == (bad * BATCHES, 0)
    assert sane.skipped == (0, 0)
    np.testing.assert_array_equal(broken.shared.params["a"][0], params["a"][0])
    assert np.all(sane.shared.params["a"][0] != params["a"][0])
    assert np.all(np.isfinite(broken.shared.params["shared"]))
    assert np.all(broken.shared.params["shared"] != params["shared"])


def take_joint_step(transform, opt_state, params, architectures):
    """A joint step of toy children."""
    count = len(architectures)
    children = Child(
        architecture=Architecture(jnp.array(architectures)),
        step=jnp.arange(count),
        key=jax.random.split(FIRST, count),
    )
    task, data = toy.ToyTask(), toy.make_data()
    train_state = TrainState(params, opt_state, jnp.zeros((count, 4)))
    return joint_step(task, transform, train_state, children, None, data, Devices())


def under_penalty(fisher_of_a, anchor_of_a):
    """SGD that clips, under an explicit penalty on the rows of ``a``."""
    params = jax.tree.map(jnp.ones_like, toy.ToySpace().init(FIRST))
    transform = optax.chain(
        weight_plasticity(1.0), optax.clip_by_global_norm(0.25), optax.sgd(0.5)
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    fisher = zeros | {"a": jnp.asarray(fisher_of_a)[:, None] * jnp.ones(2)}
    anchor = params | {"a": jnp.full((3, 2), anchor_of_a)}
    return transform, consolidate(transform.init(params), anchor, fisher), params


def test_what_no_child_uses_does_not_count_for_the_norm_of_the_gradient():
    moved = []
    for fisher in ([0.0, 0.0, 0.0], [0.0, 0.0, 100.0]):
        step = under_penalty(fisher, 3.0)
        train_state, _ = take_joint_step(*step, [[0, 1], [1, 1]])
        moved.append(train_state.params)
    np.testing.assert_array_equal(moved[0]["a"], moved[1]["a"])
    np.testing.assert_array_equal(moved[0]["shared"], moved[1]["shared"])
    # Not clipped away: the step of a clipped gradient is as long as the clip.
    change = jax.tree.map(lambda p: np.sum((p - 1) ** 2), moved[1])
    assert np.sqrt(sum(jax.tree.leaves(change))) == pytest.approx(0.125, rel=1e-5)


def test_a_joint_update_that_is_not_finite_is_left_out_and_told():
    transform, opt_state, before = under_penalty([3e38, 0.0, 0.0], -1e30)
    train_state, told = take_joint_step(transform, opt_state, before, [[0, 1], [1, 1]])
    assert not np.any(told.sound)
    assert np.all(np.isfinite(told.loss))
    unchanged = TrainState(before, opt_state, np.zeros((2, 4)))
    jax.tree.map(np.testing.assert_array_equal, train_state, unchanged)


@pytest.mark.parametrize(
    "changes", [{"max_norm": 1.0}, {"alpha_inside_average": True, "normalize": "none"}]
)
def test_what_no_child_uses_keeps_what_is_remembered_of_it(changes):
    protection = make_penalty(**changes)
    params = toy.ToySpace().init(FIRST)
    optimizer = protection.wrap(optax.sgd(0.1), 0.1, 10.0)
    state, memory = (
        optimizer.init(params),
        jax.tree.map(lambda p: jnp.full_like(p, 3.0), params),
    )
    rows = toy.ToySpace().rows(Architecture(jnp.array([1, 2])))
    found = jax.tree.map(jnp.ones_like, params)
    used = jax.tree.map(lambda m: m > 0, mask(params, rows))
    after, _ = protection.remember(
        memory, state, Trained(params, None, None), found, used, rows, 10.0
    )
    for name, row in (("a", 1), ("b", 2)):
        others = [i for i in range(3) if i != row]
        np.testing.assert_array_equal(after[name][jnp.array(others)], 3.0)
        assert np.all(after[name][row] != 3.0)
    if "max_norm" in changes:  # What is not used counts for no norm, either.
        np.testing.assert_allclose(np.linalg.norm(after["a"][1]), 1.0, rtol=1e-5)


def test_batches_of_images_are_taken_in_turns_and_those_of_text_in_stretches():
    def numbers(task):
        """Of two children at a time, of two batches each."""
        data = toy.make_data()  # 5 batches
        taken = [batches_of_several(task, data, done, 2) for done in (0, 2, 4)]
        steps = np.arange(2)[:, None]
        return [(first + steps * stride).tolist() for first, stride in taken]

    assert numbers(toy.ToyTask()) == [
        [[0, 2], [1, 3]],
        [[2, 4], [3, 5]],
        [[4, 6], [5, 7]],
    ]

    class Separate(toy.ToyTask):
        def init_carry(self):
            return ()

    assert np.ravel(numbers(Separate())).tolist() == list(range(12))


@pytest.mark.parametrize("count", COUNTS)
def test_the_first_devices_values_go_to_all(count):
    def drifted(x):
        axis = Axis(count)
        mine = axis.shard(jnp.arange(8.0))[0]  # Other numbers on other devices.
        tree = {"x": x + mine, "n": jnp.int32(mine), "b": mine == 0}
        return axis.all_gather(jax.tree.map(lambda y: y[None], axis.first(tree)))

    found = on(count, drifted, np.float32(0.3))
    np.testing.assert_array_equal(found["x"], np.full(count, np.float32(0.3)))
    np.testing.assert_array_equal(found["n"], np.zeros(count))
    assert found["b"].dtype == bool
    assert np.all(found["b"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task": {"language_model": {"batch_size": 6}}},
            "task.language_model.batch_size is 6, .* multiple of 4",
        ),
        (
            {"search": {"children_per_step": 2}},
            "search.children_per_step is 2, .* multiple of 4",
        ),
        (
            {"search": {"children_per_step": 3}},
            "search.children_per_step is 3, .* divisor of the 4",
        ),
        ({"search": {"children_per_step": 0}}, "search.children_per_step is 0"),
        (
            {"task": {"language_model": {"batch_size": "8"}}},
            "task.language_model.batch_size is '8'",
        ),
        (
            {"search": {"children_per_step": 4000, "children": 4000}},
            "children_per_step is 4000, .* at most .* batches of the training data",
        ),
    ],
)
def test_what_devices_cannot_divide_is_said_before_anything_runs(changes, said):
    config = text_config()
    for part, fields in changes.items():
        with config.ignore_type():
            config[part].update(fields)
    with pytest.raises(ConfigError, match=said):
        load(config, 4)


@pytest.mark.parametrize("count", [0, 9, -1])
def test_devices_that_there_are_not_cannot_be_used(count):
    with pytest.raises(UserError, match=f"--devices is {count}, expected 1 to 8"):
        choose(text_config(), count)


@pytest.mark.parametrize(
    ("batch_size", "children_per_step", "count"),
    [(8, 1, 8), (20, 1, 5), (7, 1, 7), (11, 1, 1), (24, 12, 6), (20, 8, 4), (8, 3, 1)],
)
def test_as_many_devices_are_used_as_divide_the_work(
    batch_size, children_per_step, count
):
    config = text_config()
    config.task.language_model.batch_size = batch_size
    devices = choose(config, None, children_per_step)
    assert (devices.count, devices.batch.size > 1) == (
        count,
        children_per_step == 1 != count,
    )
    line = choice.told([devices], None)
    assert line.startswith(f"Devices: {count}")
    assert ("more cannot divide" in line) == (count != 8)


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_configuration_runs_on_eight_devices(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    if "search" not in config:
        return
    retraining = search_config.config_for_task(config)
    for changed, children_per_step in (
        (config, config.search.children_per_step),
        (retraining, 1),
    ):
        rows = changed.task[changed.task.name].batch_size
        assert choice.choose(None, rows, children_per_step).count >= 4


class Interrupted(StopRequest):
    """Is told to stop after some calls."""

    left = 0

    def asked(self):
        type(self).left -= 1
        return type(self).left < 0


@pytest.mark.parametrize(
    "counts", [(1, 1), (4, 1), pytest.param((1, 4), marks=pytest.mark.slow)]
)
def test_a_search_goes_on_with_another_number_of_devices(
    counts, tmp_path, monkeypatch, undisturbed
):
    config = one_search()
    monkeypatch.setattr(machine, "StopRequest", Interrupted)
    monkeypatch.setattr(run_mode, "write_report", lambda *args: None)
    for count, calls in zip(counts, (11, 1000), strict=True):
        Interrupted.left = calls
        with contextlib.suppress(SystemExit):
            jobs.run(config, tmp_path / "run", "run", Machine(devices=count))
    lines, expected = read_lines(tmp_path / "run"), read_lines(undisturbed)
    assert len(lines) == len(expected) == config.search.epochs
    for line, wanted in zip(lines, expected, strict=True):
        names = ("err1", "err2", "best", "reward")
        for name in (*map(METRICS.get, names), "forgetting/loss_max"):
            np.testing.assert_allclose(line[name], wanted[name], atol=1e-5)
    if counts == (1, 1):
        assert lines == expected


def one_search():
    config = toy.get_config()
    config.arms = ConfigDict({"wpl": config.arms.wpl})
    config.retrain.epochs = 0
    return config


def read_lines(workdir):
    path = workdir / "searches" / "wpl-seed0" / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_mode, "write_report", lambda *args: None)
        jobs.run(one_search(), folder / "run", "run")
    return folder / "run"
