"""Protections on a task whose gradients are known, against float64 numpy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.parts import make_protection, protection_of

from configs import enas_rnn_ptb
from wpl_jax import penalty
from wpl_jax.errors import ConfigError
from wpl_jax.protections.estimators import PerExample
from wpl_jax.protections.protection import NoProtection, Trained
from wpl_jax.protections.quadratic import (
    L2,
    ElasticWeightConsolidation,
    WeightPlasticity,
)
from wpl_jax.supernet import ALL, real_rows

# A child of two stacked rows, and weights that all children share.
SHAPES = {"edges": (2, 3), "shared": (2,), "scale": ()}
ROWS = {"edges": np.array([4, 1]), "shared": ALL, "scale": ALL}
BATCHES, EXAMPLES = 3, 4
RNG = np.random.default_rng(0)


def draw(*leading):
    """A tree of float64 values that float32 represents exactly."""
    return {
        name: RNG.normal(size=leading + shape).astype(np.float32).astype(np.float64)
        for name, shape in SHAPES.items()
    }


DATA = {split: draw(BATCHES, EXAMPLES) for split in ("train", "valid")}
CHILDREN = [draw(), draw(), draw()]
HERE, GRADIENT, ANCHOR = draw(), draw(), draw()
FISHER = {name: f**2 for name, f in draw().items()}
ZERO = {name: np.zeros(shape) for name, shape in SHAPES.items()}
ONE = {name: np.ones(shape) for name, shape in SHAPES.items()}
OPTIMIZER = optax.sgd(0.5)


class Quadratic:
    """A loss with the gradient ``slope + 2 w``, where an example is the slopes."""

    def loss(self, child, slopes):
        each = jax.tree.map(lambda w, x: jnp.sum(x * w + w * w), child, slopes)
        return sum(jax.tree.leaves(each))

    def example_loss(self, child, architecture, example):
        return self.loss(child, example)

    def fisher_examples(self, child, architecture, data, split, step, axis):
        return jax.tree.map(lambda x: x[step % BATCHES], data[split])

    def fisher_loss(self, child, architecture, data, split, step, axis):
        examples = self.fisher_examples(child, architecture, data, split, step, axis)
        return jnp.mean(jax.vmap(self.loss, (None, 0))(child, examples))

    def sample_labels(self, key, child, architecture, example):
        return jax.tree.map(lambda x, w: 3 * x - w, example, child)


def to_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def protection(**changed):
    return make_protection(**{"eta": 0.75} | changed)


def train_children(protection, numbers=(0, 1), alpha=0.5):
    """Lets children be remembered one after the other: memory, penalty's state."""
    task, data = Quadratic(), to_jax(DATA)

    @jax.jit
    def remember(memory, state, params, number):
        trained = Trained(params, jnp.zeros(1, jnp.int32), number)
        found = protection.estimate(trained, task, data, jax.random.key(0))
        used = real_rows(params, ROWS)
        trained = Trained(params, None, None)
        return protection.remember(memory, state, trained, found, used, ROWS, alpha)

    params = to_jax(CHILDREN[0])
    memory = protection.init(params, None)
    state = protection.wrap(OPTIMIZER, 0.5, alpha).init(params)
    for child, number in zip(CHILDREN, numbers, strict=False):
        memory, state = remember(memory, state, to_jax(child), number)
    return memory, penalty.plasticity_states(state)[0], state


# The reference.


def fisher_of(child, number, options):
    """The estimate of a child's Fisher."""
    estimator = options.get("estimator", "batch")
    if estimator == "uniform":
        return ONE
    split, batches = options.get("split", "valid"), options.get("batches", 1)
    found = {}
    for name, w in child.items():
        squares = []
        for i in range(batches):
            slopes = DATA[split][name][(number * batches + i) % BATCHES]
            if options.get("labels") == "model":
                slopes = 3 * slopes - w
            gradients = slopes + 2 * w
            if estimator == "batch":
                squares.append(np.mean(gradients, axis=0) ** 2)
            else:
                squares.append(np.mean(gradients**2, axis=0))
        found[name] = np.mean(squares, axis=0)
    return found


def reference(options, numbers=(0, 1), alpha=0.5):
    """The running average, and the Fisher of the penalty, after the children."""
    eta = options.get("eta", 0.75)
    memory = dict(ZERO)
    for child, number in zip(CHILDREN, numbers, strict=False):
        newest = fisher_of(child, number, options)
        for name in memory:
            share = eta if options.get("average") == "code" else 1.0
            memory[name] = np.array((1 - eta) * memory[name] + share * newest[name])
            for tensor in tensors_of(name, memory[name]):
                norm = np.sqrt(np.sum(tensor**2))
                if options.get("max_norm") and norm > options["max_norm"]:
                    tensor *= options["max_norm"] / norm
            if options.get("alpha_inside_average"):
                memory[name] = alpha * memory[name]
    importance = dict(memory)
    shared = {"shared", "scale"} if options.get("protect") == "choices" else set()
    importance |= {name: 0 * importance[name] for name in shared}
    per = options.get("normalize")
    together = np.concatenate(
        [np.ravel(f) for name, f in importance.items() if name not in shared]
    )
    for name, f in importance.items():
        importance[name] = f = np.array(f)
        for tensor in tensors_of(name, f):
            mean = {"tree": np.mean(together), "tensor": np.mean(tensor)}.get(per, 1.0)
            tensor /= mean if mean > 0 else 1
    return memory, importance


def tensors_of(name, value):
    """Views of the tensors: each row of a stack is one."""
    return [value[...]] if ROWS[name] is ALL else [row[...] for row in value]


def assert_close(found, expected, rtol=2e-5):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-6)


LIMIT = 7.0  # of norms
VARIANTS = [
    {"average": "paper"},
    {"average": "code"},
    {"average": "code", "max_norm": LIMIT},
    {"normalize": "tree"},
    {"normalize": "tensor"},
    {"protect": "choices"},
    {"protect": "choices", "normalize": "tree"},
    {"alpha_inside_average": True, "max_norm": LIMIT, "protect": "choices"},
    {"estimator": "per_example", "chunk_size": 3},
    {"estimator": "per_example", "chunk_size": 8, "labels": "model", "batches": 2},
    {"estimator": "uniform", "eta": 0.5},
    {"batches": 2, "split": "train"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_a_trained_child_is_remembered(options):
    memory, state, _ = train_children(protection(**options))
    average, importance = reference(options)
    assert_close(memory, average)
    assert_close(state.fisher, importance)
    assert_close(state.anchor, CHILDREN[1])


def test_the_variants_are_worth_a_test_each():
    found = [reference(options)[1]["edges"] for options in VARIANTS]
    # Only what is not a choice tells "protect" from the plain average; and its one
    # tensor is all of the tree that is protected.
    del found[5:7]
    for one, other in itertools.combinations(found, 2):
        assert not np.allclose(one, other, rtol=0.01)
    average, _ = reference({"average": "code"})
    norms = [np.sqrt(np.sum(row**2)) for row in average["edges"]]
    assert min(norms) < LIMIT < max(norms)  # Each is clipped for itself.


def test_a_stored_average_is_multiplied_by_alpha_in_each_visit():
    options = {
        "alpha_inside_average": True,
        "estimator": "uniform",
        "average": "code",
        "eta": 0.5,
    }
    memory, state, _ = train_children(protection(**options), alpha=3.0)
    # 3 (0 / 2 + 1 / 2) = 1.5, then 3 (1.5 / 2 + 1 / 2) = 3.75.
    assert_close(memory, {name: 3.75 * ones for name, ones in ONE.items()})
    assert_close(state.fisher, memory)


def test_ewc_adds_up_a_quadratic_for_each_child():
    ewc = make_protection("ewc", step="explicit")
    memory, state, opt_state = train_children(ewc, numbers=(0, 1, 2))
    fishers = [fisher_of(child, i, {}) for i, child in enumerate(CHILDREN)]
    assert memory == ()
    total = {name: sum(f[name] for f in fishers) for name in SHAPES}
    mean = {
        name: sum(f[name] * c[name] for f, c in zip(fishers, CHILDREN, strict=True))
        / total[name]
        for name in SHAPES
    }
    assert_close(state.fisher, total)
    assert_close(state.anchor, mean, rtol=1e-4)
    # The gradient is that of the sum, where the gradient of the loss is zero.
    transform = ewc.wrap(OPTIMIZER, 0.5, 0.25)
    updates, _ = jax.jit(transform.update)(to_jax(ZERO), opt_state, to_jax(HERE))
    pulls = {
        name: sum(
            0.25 * f[name] * (HERE[name] - c[name])
            for f, c in zip(fishers, CHILDREN, strict=True)
        )
        for name in SHAPES
    }
    assert_close(updates, {name: -0.5 * pull for name, pull in pulls.items()}, 1e-4)


def test_l2_weighs_all_weights_alike_and_asks_nothing_of_the_data():
    l2 = make_protection("l2", normalize="tree")
    params = to_jax(CHILDREN[0])
    state = l2.wrap(OPTIMIZER, 0.5, 1.0).init(params)
    memory = l2.init(params, None)

    @jax.jit
    def remember(memory, state, child, number):
        trained = Trained(child, jnp.zeros(1, jnp.int32), number)
        found = l2.estimate(trained, None, None, jax.random.key(0))
        used = real_rows(child, ROWS)
        trained = Trained(child, None, None)
        return l2.remember(memory, state, trained, found, used, ROWS, 1.0)

    for number, child in enumerate(map(to_jax, CHILDREN)):
        memory, state = remember(memory, state, child, number)
        found = penalty.plasticity_states(state)[0]
        assert_close(found.fisher, ONE)
        assert_close(found.anchor, CHILDREN[number])


def test_without_a_penalty_nothing_is_done():
    none = NoProtection()
    assert none.wrap(OPTIMIZER, 0.5, 3.0) is OPTIMIZER
    params = to_jax(CHILDREN[0])
    assert none.init(params, None) == ()
    assert none.memory_rows((), ROWS) == ()
    state = OPTIMIZER.init(params)
    memory, after = none.begin_epoch((), state, jnp.int32(6))
    assert memory == ()
    assert after is state
    trained = Trained(params, None, None)
    memory, after = none.remember((), state, trained, params, ONE, ROWS, 3.0)
    assert memory == ()
    assert after is state
    epochs = jnp.arange(20)
    np.testing.assert_array_equal(none.alpha(epochs), np.zeros(20))
    np.testing.assert_array_equal(none.active(epochs), np.zeros(20, bool))


def test_the_memory_is_a_zero_for_each_weight_in_the_rows_of_the_weights():
    wpl = protection()
    params = to_jax(CHILDREN[0]) | {"shared": jnp.ones(2, jnp.bfloat16)}
    memory = wpl.init(params, None)
    assert_close(memory, ZERO)
    assert {f.dtype for f in memory.values()} == {jnp.dtype("float32")}
    assert wpl.memory_rows(memory, ROWS) is ROWS


@pytest.mark.parametrize("step", ["explicit", "proximal"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_step_is_pulled_to_the_anchor(step, inside):
    rate = 0.25
    protected = protection(step=step, alpha_inside_average=inside)

    @jax.jit
    def update(rate, alpha):
        inner = optax.chain(optax.clip(1.0), optax.scale_by_learning_rate(rate))
        transform = protected.wrap(inner, rate, alpha)
        params = to_jax(HERE)
        state = transform.init(params)
        state = penalty.consolidate(state, to_jax(ANCHOR), to_jax(FISHER))
        updates, _ = transform.update(to_jax(GRADIENT), state, params)
        return optax.apply_updates(params, updates)

    # What is stored has been multiplied by alpha already where it compounds.
    alpha = 1.0 if inside else 8.0
    expected = {}
    for name, w in HERE.items():
        g, f, a = GRADIENT[name], FISHER[name], ANCHOR[name]
        if step == "explicit":  # The pull is a part of the gradient, which is clipped.
            pulled = w - rate * np.clip(g + alpha * f * (w - a), -1, 1)
        else:
            moved = w - rate * np.clip(g, -1, 1)
            pulled = (moved + rate * alpha * f * a) / (1 + rate * alpha * f)
        expected[name] = pulled
    assert_close(update(rate, 8.0), expected)


def test_the_penalty_falls_linearly_to_nothing():
    found = protection(strength=60.0, decay_from=14, decay_epochs=60)
    alpha = jax.jit(found.alpha)(np.arange(80))
    expected = [60] * 15 + list(range(59, -1, -1)) + [0] * 5
    np.testing.assert_allclose(alpha, expected, atol=1e-5)
    assert np.all(alpha[74:] == 0)


def test_the_penalty_stays_where_it_has_no_epochs_to_fall_in():
    found = protection(strength=0.5, decay_from=1, decay_epochs=None)
    np.testing.assert_array_equal(found.alpha(jnp.arange(9)), np.full(9, 0.5))


def test_children_are_remembered_from_the_epoch_that_is_named():
    found = protection(start_epoch=3).active(jnp.arange(6))
    np.testing.assert_array_equal(found, [False] * 3 + [True] * 3)


@pytest.mark.parametrize(
    ("flush_every", "flushed"), [(3, {6, 9, 12}), (4, {7, 11}), (None, set())]
)
def test_fishers_are_forgotten_every_few_epochs_after_the_first(flush_every, flushed):
    found = protection(start_epoch=3, flush_every=flush_every)
    params, average = to_jax(CHILDREN[0]), to_jax(CHILDREN[1])
    state = found.wrap(OPTIMIZER, 0.5, 1.0).init(params)
    state = penalty.consolidate(state, params, to_jax(FISHER))
    begin = jax.jit(found.begin_epoch)
    for epoch in range(14):
        memory, after = begin(average, state, epoch)
        after = penalty.plasticity_states(after)[0]
        assert_close(memory, ZERO if epoch in flushed else CHILDREN[1])
        assert_close(after.fisher, ZERO if epoch in flushed else FISHER)
        assert_close(after.anchor, params)


def test_settings_of_the_configuration_arrive():
    config = enas_rnn_ptb.get_config()
    own = {"strength": 0.03, "start_epoch": 5, "flush_every": 3}
    wpl = WeightPlasticity(**own, eta=0.9, estimator=PerExample(chunk_size=8))
    assert protection_of(config) == wpl
    config.penalty.name = "ewc"
    assert protection_of(config) == ElasticWeightConsolidation(**own)
    config.penalty.name = "l2"
    assert protection_of(config) == L2(**own)
    config.penalty.name = "none"
    assert protection_of(config) == NoProtection()


WRONG = [
    ("name", "dropout"),
    ("wpl.strength", -0.1),
    ("wpl.strength", float("inf")),
    ("wpl.strength", float("nan")),
    ("wpl.eta", 1.5),
    ("wpl.eta", -0.5),
    ("wpl.step", "implicit"),
    ("wpl.estimator", "guessed"),
    ("wpl.per_example.labels", "none"),
    ("wpl.per_example.split", "test"),
    ("wpl.per_example.batches", 0),
    ("wpl.per_example.chunk_size", 0),
    ("wpl.average", "mean"),
    ("wpl.normalize", "unit"),
    ("wpl.protect", "nothing"),
    ("wpl.alpha_inside_average", "yes"),
    ("wpl.start_epoch", -1),
    ("wpl.decay_from", 1.5),
    ("wpl.decay_epochs", 0),
    ("wpl.flush_every", 0),
    ("wpl.max_norm", 0.0),
    ("wpl.max_norm", "10"),
    ("wpl.anchor_decay", 1.0),
    ("wpl.anchor_decay", -0.5),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_is_named(field, value):
    config = enas_rnn_ptb.get_config()
    *path, last = field.split(".")
    within = config.penalty
    for name in path:
        within = within[name]
    with config.ignore_type():
        within[last] = value
    message = rf"config\.penalty\.{field} is {value!r}, expected"
    with pytest.raises(ConfigError, match=message):
        protection_of(config)


def test_every_setting_has_a_wrong_value_above():
    settings = {field.name for field in dataclasses.fields(WeightPlasticity)}
    settings |= {f"per_example.{f.name}" for f in dataclasses.fields(PerExample)}
    found = {field.removeprefix("wpl.") for field, _ in WRONG}
    assert found == settings | {"name"}


@pytest.mark.parametrize("normalize", ["tree", "tensor"])
def test_alpha_inside_the_average_excludes_normalization(normalize):
    with pytest.raises(ValueError, match=r"normalize is .* expected 'none'"):
        protection(alpha_inside_average=True, normalize=normalize)


@pytest.mark.parametrize("name", ["strength", "flush_every", "max_norm"])
def test_a_field_that_is_missing_has_its_default(name):
    config = enas_rnn_ptb.get_config()
    del config.penalty.wpl[name]
    default = {field.name: field.default for field in dataclasses.fields(L2)}
    default["max_norm"] = None
    assert getattr(protection_of(config), name) == default[name]


def test_a_penalty_has_no_settings_of_another():
    config = enas_rnn_ptb.get_config()
    config.penalty.name = "l2"
    with config.unlocked():
        config.penalty.l2.eta = 0.5
    with pytest.raises(ConfigError, match=r"config\.penalty\.l2\.eta is not a setting"):
        protection_of(config)
