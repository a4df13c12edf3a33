"""The networks of NAO, against the same in float64 numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import choosing

from wpl_jax.common.settings import SettingError
from wpl_jax.spaces.architecture_json import (
    architecture_from_json,
    architecture_to_json,
)
from wpl_jax.spaces.darts_cell import DartsCell
from wpl_jax.spaces.micro_cell import MicroCell
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.strategies.nao_networks import Coder, Networks, make_vocabulary
from wpl_jax.supernet import num_choices

CELL = RecurrentCell(vocabulary_size=7, hidden=3, num_nodes=4)
SPACES = (CELL, MicroCell((8, 8, 3), 10, num_nodes=3), NasBench201((8, 8, 3), 10))
DARTS = DartsCell((8, 8, 3), 10, channels=4, cells=3)
CHOICES = choosing.plain(choosing.SHAPE, choosing.CLASSES)
TINY = Networks(embedding=5, hidden=6, layers=2, units=7, dropout=0.0)
CODER = Coder(TINY, CELL.decisions)


@functools.partial(jax.jit, static_argnums=(0, 1))
def draw(space, number):
    return jax.vmap(space.sample)(jax.random.split(jax.random.key(0), number))


@functools.cache
def params():
    return jax.jit(CODER.init)(jax.random.key(0))


# The networks, one sequence and one step at a time.


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def in_float64(tree):
    return jax.tree.map(np.float64, tree["params"])


def lstm(p, inputs, cell, hidden):
    outputs = []
    for x in inputs:
        i, f, g, o = (
            x @ p[f"i{gate}"]["kernel"]
            + hidden @ p[f"h{gate}"]["kernel"]
            + p[f"h{gate}"]["bias"]
            for gate in "ifgo"
        )
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        outputs.append(hidden)
    return np.array(outputs)


def dense(p, x):
    return x @ p["kernel"] + p["bias"]


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def tokens_of(choice):
    """The tokens by their names: that of a name is where it occurs first."""
    names = [d.choices[i] for d, i in zip(CELL.decisions, choice, strict=True)]
    known = []
    for decision in CELL.decisions:
        known += [name for name in decision.choices if name not in known]
    return [known.index(name) for name in names], len(known)


def encode(choice):
    p = in_float64(params().encoder)
    embedded = p["Embed_0"]["embedding"][tokens_of(choice)[0]]
    zeros = np.zeros(TINY.hidden)
    return unit(lstm(p["OptimizedLSTMCell_0"], embedded, zeros, zeros))


def predict(encoded):
    p = in_float64(params().predictor)
    x = unit(encoded.mean(0))
    for layer in range(TINY.layers):
        x = np.maximum(dense(p[f"Dense_{layer}"], x), 0)
    return sigmoid(dense(p[f"Dense_{TINY.layers}"], x))[0]


def log_probabilities(encoded, choice):
    p = in_float64(params().decoder)
    tokens, start = tokens_of(choice)
    embedded = p["Embed_0"]["embedding"][[start, *tokens[:-1]]]
    mean = unit(encoded.mean(0))
    found = []
    outputs = lstm(p["OptimizedLSTMCell_0"], embedded, mean, mean)
    for decision, output, token in zip(CELL.decisions, outputs, tokens, strict=True):
        scores = encoded @ (output @ p["Dense_0"]["kernel"])
        attention = np.exp(scores) / np.exp(scores).sum()
        both = np.concatenate([attention @ encoded, output])
        logits = dense(p["Dense_2"], np.tanh(dense(p["Dense_1"], both)))
        legal = [tokens_of_name(name) for name in decision.choices]
        found.append(logits[token] - np.log(np.sum(np.exp(logits[legal]))))
    return np.array(found)


def tokens_of_name(name):
    for choice in draw(CELL, 200):
        for token, decision, index in zip(
            tokens_of(choice)[0], CELL.decisions, choice, strict=True
        ):
            if decision.choices[index] == name:
                return token
    raise AssertionError(name)


def test_the_encoder_and_the_predictor_are_those_of_the_paper():
    choices = np.asarray(draw(CELL, 4))
    encoded = jax.jit(CODER.encode)(params(), choices)
    expected = np.array([encode(choice) for choice in choices])
    np.testing.assert_allclose(encoded, expected, atol=2e-6)
    found = jax.jit(CODER.predict)(params(), encoded)
    np.testing.assert_allclose(found, [predict(x) for x in expected], rtol=2e-6)
    assert np.ptp(found) > 1e-4


def test_the_slope_is_the_difference_of_predictions():
    encoded = encode(draw(CELL, 1)[0])
    found = jax.jit(CODER.slope)(params(), jnp.asarray(encoded[None], jnp.float32))[0]
    for place in ((0, 0), (3, 2), (6, 5)):
        step = np.zeros_like(encoded)
        step[place] = 1e-5
        difference = (predict(encoded + step) - predict(encoded - step)) / 2e-5
        np.testing.assert_allclose(found[place], difference, rtol=1e-3, atol=1e-7)


def test_the_decoder_is_that_of_the_paper_among_choices():
    choices = np.asarray(draw(CELL, 4))
    encoded = jax.jit(CODER.encode)(params(), choices[::-1])
    found = jax.jit(CODER.log_probabilities)(params(), encoded, choices)
    expected = [
        log_probabilities(np.float64(e), choice)
        for e, choice in zip(encoded, choices, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found[:, 1], 0)  # The first parent is node 0.


def test_decoding_takes_the_most_probable_choice_of_each_decision():
    encoded = jax.random.normal(jax.random.key(1), (3, len(CELL.decisions), 6))
    found = np.asarray(jax.jit(CODER.decode)(params(), encoded))
    of_choice = jax.jit(CODER.log_probabilities)
    best = of_choice(params(), encoded, found)
    for decision, count in enumerate(num_choices(CELL.decisions)):
        for choice in range(count):
            other = found.copy()
            other[:, decision] = choice
            others = of_choice(params(), encoded, other)[:, decision]
            assert np.all(best[:, decision] >= others - 1e-6)


@pytest.mark.slow_except("recurrent_cell")
@pytest.mark.parametrize("space", [*SPACES, DARTS, CHOICES], ids=lambda s: s.name)
def test_whatever_is_decoded_is_an_architecture(space):
    coder = Coder(TINY, space.decisions)
    keys = jax.random.split(jax.random.key(2))

    @jax.jit
    def decode():
        params = coder.init(keys[0])
        params = jax.tree.map(lambda p: 20 * p, params)  # so that choices differ
        noise = jax.random.normal(keys[1], (200, len(space.decisions), TINY.hidden))
        return coder.decode(params, noise)

    found, counts = np.asarray(decode()), np.array(num_choices(space.decisions))
    assert found.dtype == np.int32
    assert np.all((found >= 0) & (found < counts))
    different = {tuple(choice) for choice in found}
    assert len(different) > 20
    for choice in different:
        text = architecture_to_json(space, choice)
        assert tuple(architecture_from_json(space, text)) == choice
    if space is DARTS:
        for choice in different:
            genotype = space.genotype(choice)
            for cell in (genotype.normal, genotype.reduce):
                states = np.array([state for _, state in cell]).reshape(-1, 2)
                assert np.all(states[:, 0] != states[:, 1])


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_a_token_is_a_choice_of_a_name(space):
    vocabulary = make_vocabulary(space.decisions)
    names = {(d.ordered, name) for d in space.decisions for name in d.choices}
    assert vocabulary.size == len(names)
    tokens = {}
    for row, decision in enumerate(space.decisions):
        legal = vocabulary.tokens[row, : len(decision.choices)]
        assert set(np.flatnonzero(vocabulary.legal[row])) == set(legal)
        np.testing.assert_array_equal(
            vocabulary.choices[row, legal], np.arange(len(legal))
        )
        for name, token in zip(decision.choices, legal, strict=True):
            assert tokens.setdefault((decision.ordered, name), token) == token
    assert len(set(tokens.values())) == len(names)


@pytest.mark.slow
def test_what_is_overfitted_is_decoded_to_itself():
    coder = Coder(Networks(8, 24, 1, 8, 0.0, learning_rate=0.01), CELL.decisions)
    choices = jnp.unique(draw(CELL, 12), axis=0)
    target = jnp.linspace(0, 1, len(choices))

    @jax.jit
    def fit():
        params = coder.init(jax.random.key(0))
        optimizer = optax.adam(0.01)

        def update(state, number):
            key = jax.random.fold_in(jax.random.key(1), number)
            used = jnp.ones(len(choices), bool)
            gradient = jax.grad(coder.loss)(state[0], choices, target, used, used, key)
            updates, opt_state = optimizer.update(gradient, state[1])
            return (optax.apply_updates(state[0], updates), opt_state), None

        start = params, optimizer.init(params)
        (params, _), _ = jax.lax.scan(update, start, jnp.arange(400))
        encoded = coder.encode(params, choices)
        return coder.decode(params, encoded), coder.predict(params, encoded)

    decoded, predicted = fit()
    np.testing.assert_array_equal(decoded, choices)
    np.testing.assert_allclose(predicted, target, atol=0.1)


def test_the_loss_is_of_known_targets_and_of_architectures_that_are_there():
    choices = np.asarray(draw(CELL, 3))
    target = np.array([0.2, np.nan, np.nan], np.float32)
    known, there = np.array([True, False, False]), np.array([True, True, False])
    found = jax.jit(CODER.loss)(
        params(), choices, target, known, there, jax.random.key(0)
    )
    encoded = [encode(choice) for choice in choices[:2]]
    nats = [
        -np.mean(log_probabilities(e, c))
        for e, c in zip(encoded, choices[:2], strict=True)
    ]
    error = (predict(encoded[0]) - target[0]) ** 2
    np.testing.assert_allclose(found, 0.8 * error + 0.2 * np.mean(nats), rtol=1e-5)


@pytest.mark.slow
def test_dropout_is_for_training():
    coder = Coder(Networks(5, 6, 1, 7, 0.5, 0.5), CELL.decisions)
    choices = draw(CELL, 2)

    @jax.jit
    def encode_thrice(keys):
        params = coder.init(keys[0])
        found = [coder.encode(params, choices, key) for key in (None, *keys)]
        return found, [coder.predict(params, found[0], key) for key in (None, *keys)]

    for plain, first, second in encode_thrice(jax.random.split(jax.random.key(0))):
        assert np.max(np.abs(first - second)) > 1e-3
        assert np.max(np.abs(plain - first)) > 1e-3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("embedding", 0),
        ("hidden", 1.5),
        ("layers", -1),
        ("units", 0),
        ("batch_size", 0),
        ("dropout", 1.0),
        ("predictor_dropout", -0.1),
        ("learning_rate", 0.0),
        ("clip_norm", 0.0),
        ("weight_decay", -1.0),
        ("prediction_weight", 1.5),
    ],
)
def test_a_wrong_setting_is_named(name, value):
    with pytest.raises(SettingError, match=rf"^{name} is {value}, expected"):
        Networks(**{name: value})
