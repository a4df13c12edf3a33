"""The children's optimizer against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.parts import optimizer_of
from ml_collections import ConfigDict

from configs import enas_rnn_ptb
from wpl_jax.engine.optimizers import Cosine, Exponential, OptaxOptimizer, Sgd
from wpl_jax.errors import ConfigError

PARAMS = {"a": np.array([1.0, -2.0, 4.0]), "b": np.array([[0.5]])}
GRADIENT = {"a": np.array([3.0, 0.0, -4.0]), "b": np.array([[12.0]])}  # of norm 13


def to_jax(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)


def take_steps(settings, rates):
    """The parameters after each step on the same gradient, rates as data."""

    @jax.jit
    def step(params, state, rate):
        transform = settings.transform(rate)
        updates, state = transform.update(to_jax(GRADIENT), state, params)
        return optax.apply_updates(params, updates), state

    params = to_jax(PARAMS)
    state = settings.transform(0.0).init(params)
    for rate in rates:
        params, state = step(params, state, rate)
        yield params


def expected_steps(rates, clip=1.0, weight_decay=0.0, momentum=0.0):
    params = PARAMS
    trace = jax.tree.map(np.zeros_like, PARAMS)
    for rate in rates:
        gradient = jax.tree.map(
            lambda g, p: clip * g + weight_decay * p, GRADIENT, params
        )
        trace = jax.tree.map(lambda t, g: momentum * t + g, trace, gradient)
        params = jax.tree.map(lambda p, t, r=rate: p - r * t, params, trace)
        yield params


def test_the_rate_falls_in_each_epoch_from_the_one_that_is_named():
    settings = optimizer_of(enas_rnn_ptb.get_config())
    epochs = np.arange(40)
    expected = [20 * 0.96 ** max(epoch - 15 + 1, 0) for epoch in range(40)]
    assert expected[14] == 20
    assert expected[15] == 20 * 0.96
    found = jax.jit(settings.rate)(epochs)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_decay_of_one_keeps_the_rate():
    rates = Sgd(learning_rate=0.3).rate(jnp.arange(5))
    np.testing.assert_array_equal(rates, np.full(5, 0.3, np.float32))


@pytest.mark.parametrize("growth", [1, 2, 3])
def test_a_cosine_falls_in_each_period_and_starts_again(growth):
    expected, length, place = [], 4, 0
    for _ in range(120):
        expected.append(0.1 + (0.5 - 0.1) * (1 + np.cos(np.pi * place / length)) / 2)
        place += 1
        if place == length:
            length, place = length * growth, 0
    schedule = Sgd(0.5, Cosine(lowest=0.1, period=4, growth=growth))
    found = jax.jit(schedule.rate)(jnp.arange(120))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_cosine_of_any_period_starts_again_at_the_highest_rate():
    def after(period):
        return jax.jit(Cosine(lowest=0.1, period=period).rate)(0.5, epochs)

    # Times their inverses in float32, some multiples of these are less than whole.
    for period in (41, 61, 82):
        epochs = np.arange(1, 9) * period
        np.testing.assert_array_equal(after(period), np.float32(0.5))
        epochs = epochs - 1
        last = 0.1 + 0.4 * (1 + np.cos(np.pi * (period - 1) / period)) / 2
        np.testing.assert_allclose(after(period), last, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [{"lowest": -1.0}, {"period": 0}, {"growth": 1.5}, {"growth": None}, {"high": 1}],
)
def test_a_wrong_cosine_is_named(change):
    config = enas_rnn_ptb.get_config()
    settings = {"lowest": 0.5, "period": 4, "growth": 2} | change
    config.optimizer.sgd.schedule = "cosine"
    with config.unlocked():
        config.optimizer.sgd.cosine = ConfigDict(settings)
    with pytest.raises(ConfigError, match=rf"cosine.*{next(iter(change))}"):
        optimizer_of(config)


def test_nesterovs_momentum_looks_ahead():
    rates, trace = (0.25, 0.5, 0.125), 0.0
    params = PARAMS["a"]
    settings = Sgd(1.0, momentum=0.5, nesterov=True)
    for found, rate in zip(take_steps(settings, rates), rates, strict=True):
        trace = 0.5 * trace + GRADIENT["a"]
        params = params - rate * (GRADIENT["a"] + 0.5 * trace)
        np.testing.assert_allclose(found["a"], params, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "reference"),
    [
        ({}, {}),
        ({"clip_norm": 6.5}, {"clip": 0.5}),
        ({"clip_norm": 13.5}, {}),
        ({"weight_decay": 2.0}, {"weight_decay": 2.0}),
        # The decay is neither clipped nor counted in the norm that is.
        (
            {"clip_norm": 0.13, "weight_decay": 2.0},
            {"clip": 0.01, "weight_decay": 2.0},
        ),
        ({"momentum": 0.75}, {"momentum": 0.75}),
        (
            {"clip_norm": 6.5, "weight_decay": 0.5, "momentum": 0.75},
            {"clip": 0.5, "weight_decay": 0.5, "momentum": 0.75},
        ),
    ],
    ids=str,
)
def test_steps_clip_then_decay_then_gather_momentum_then_scale(settings, reference):
    rates = (0.25, 0.5, 0.125)
    found = take_steps(Sgd(learning_rate=1.0, **settings), rates)
    for params, expected in zip(found, expected_steps(rates, **reference), strict=True):
        for name in PARAMS:
            np.testing.assert_allclose(params[name], expected[name], rtol=1e-5)


def test_settings_are_read_from_where_they_are():
    config = enas_rnn_ptb.get_config()
    assert optimizer_of(config) == Sgd(20.0, Exponential(0.96, 15), 0.25, 1e-7, None)
    config.retrain.optimizer.sgd.momentum = 0.5
    found = optimizer_of(config, path="retrain.optimizer")
    assert found == Sgd(20.0, Exponential(), 0.25, 8e-7, 0.5)
    config.optimizer.sgd.cosine = ConfigDict({"lowest": 0.5, "period": 4, "growth": 2})
    config.optimizer.sgd.schedule, config.optimizer.sgd.nesterov = "cosine", True
    found = optimizer_of(config)
    assert found == Sgd(20.0, Cosine(0.5, 4, 2), 0.25, 1e-7, None, nesterov=True)


@pytest.mark.parametrize("path", ["optimizer", "retrain.optimizer"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", None),
        ("learning_rate", float("inf")),
        ("exponential.decay", 0.0),
        ("exponential.decay", 1.01),
        ("exponential.decay_from", -1),
        ("exponential.decay_from", 1.5),
        ("schedule", "linear"),
        ("nesterov", "yes"),
        ("nesterov", 1),
        ("weight_decay", -1e-7),
        ("clip_norm", 0.0),
        ("clip_norm", "0.25"),
        ("momentum", 1.0),
        ("momentum", -0.1),
    ],
)
def test_a_wrong_field_is_named(path, name, value):
    config = enas_rnn_ptb.get_config()
    within = (config.retrain if "." in path else config).optimizer.sgd
    with config.ignore_type():
        *parts, last = name.split(".")
        (within[parts[0]] if parts else within)[last] = value
    message = rf"config\.{path}\.sgd\.{name} is {value!r}, expected"
    with pytest.raises(ConfigError, match=message):
        optimizer_of(config, path=path)


def test_a_field_that_is_missing_is_named():
    config = enas_rnn_ptb.get_config()
    del config.optimizer.sgd.learning_rate
    missing = r"config\.optimizer\.sgd\.learning_rate is missing"
    with pytest.raises(ConfigError, match=missing):
        optimizer_of(config)


def test_any_optimizer_of_optax_has_the_learning_rate_as_data():
    adam = OptaxOptimizer("adam", 0.1, options={"b1": 0.5, "b2": 0.75})
    rates = (0.25, 0.5)
    m, v, params = 0.0, 0.0, PARAMS["a"]
    gradient = GRADIENT["a"]
    for t, (found, rate) in enumerate(zip(take_steps(adam, rates), rates, strict=True)):
        m, v = 0.5 * m + 0.5 * gradient, 0.75 * v + 0.25 * gradient**2
        scaled = np.sqrt(v / (1 - 0.75 ** (t + 1))) + 1e-8
        params = params - rate * m / (1 - 0.5 ** (t + 1)) / scaled
        np.testing.assert_allclose(found["a"], params, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"function": "adamm"}, "function is 'adamm', expected the name"),
        ({"function": "apply_updates"}, "takes a learning_rate"),
        ({"function": "lbfgs"}, "nothing but gradients and parameters"),
        ({"function": "adafactor"}, r"for parameters \(2, 3\) it has states \[\(1,\)"),
        ({"function": "novograd"}, "states like the parameters"),
        ({"function": "sm3"}, "states like the parameters"),
        ({"function": "noisy_sgd", "options": {"key": 0}}, "has a PRNG key"),
        ({"options": {"beta": 0.9}}, r"options is \{'beta': 0.9\}, expected .*'b1'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected a number above 0"),
    ],
)
def test_a_wrong_optimizer_of_optax_is_named(settings, said):
    with pytest.raises(ValueError, match=said):
        OptaxOptimizer(**settings)
