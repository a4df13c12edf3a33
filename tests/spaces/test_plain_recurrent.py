"""The LSTM and the GRU against numpy in float64, one example and step at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wpl_jax.spaces.plain_recurrent import PlainRecurrent
from wpl_jax.spaces.words import Dropout
from wpl_jax.supernet import Architecture

VOCABULARY, HIDDEN, BATCH, TIME = 7, 5, 3, 4
CELLS = ("lstm", "gru")
NO_CHOICE = Architecture(jnp.zeros(0, jnp.int32))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(p, word, h, c):
    """Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000)."""
    w, u, b = (np.split(p[name], 4) for name in ("input", "recurrent", "bias"))
    i, f, g, o = (w[k] @ word + u[k] @ h + b[k] for k in range(4))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru(p, word, h, c):
    """Cho et al. (2014), with the reset gate after the product."""
    w, u, b = (np.split(p[name], 3) for name in ("input", "recurrent", "bias"))
    r = sigmoid(w[0] @ word + b[0] + u[0] @ h)
    z = sigmoid(w[1] @ word + b[1] + u[1] @ h)
    n = np.tanh(w[2] @ word + b[2] + r * (u[2] @ h + p["inner_bias"]))
    return (1 - z) * n + z * h, c


STEPS = {"lstm": lstm, "gru": gru}


def random_inputs(space):
    keys = iter(jax.random.split(jax.random.key(0), 10))
    params = {
        name: 0.7 * jax.random.normal(next(keys), leaf.shape)
        for name, leaf in space.init(next(keys)).items()
    }
    tokens = jax.random.randint(next(keys), (BATCH, TIME), 0, VOCABULARY)
    state = jax.random.normal(next(keys), space.initial_state(BATCH).shape)
    return params, tokens, state


def in_numpy(cell, params, tokens, state):
    """The outputs, the last state and the scores of the words."""
    p = {name: np.asarray(leaf, np.float64) for name, leaf in params.items()}
    outputs, last = np.zeros((BATCH, TIME, HIDDEN)), np.zeros(state.shape)
    for b in range(BATCH):
        h, *c = np.split(np.asarray(state[b], np.float64), state.shape[1] // HIDDEN)
        c = c[0] if c else None
        for t in range(TIME):
            h, c = STEPS[cell](p, p["embedding"][tokens[b, t]], h, c)
            outputs[b, t] = h
        last[b] = h if c is None else np.concatenate([h, c])
    return outputs, last, outputs @ p["embedding"].T + p["output_bias"]


@pytest.mark.slow_except("gru")
@pytest.mark.parametrize("cell", CELLS)
def test_a_sequence_is_that_of_numpy(cell):
    space = PlainRecurrent(VOCABULARY, HIDDEN, cell)
    params, tokens, state = random_inputs(space)
    found = space.apply(params, NO_CHOICE, tokens, state=state)
    outputs, last, scores = in_numpy(cell, params, tokens, state)
    np.testing.assert_allclose(found.raw, outputs, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found.dropped, outputs, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found.state, last, rtol=2e-5, atol=2e-6)
    logits = space.logits(params, found.raw)
    np.testing.assert_allclose(logits, scores, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("cell", CELLS)
def test_sequences_go_on_from_the_state(cell):
    space = PlainRecurrent(VOCABULARY, HIDDEN, cell)
    params, tokens, state = random_inputs(space)
    whole = space.apply(params, NO_CHOICE, tokens, state=state)
    first = space.apply(params, NO_CHOICE, tokens[:, :3], state=state)
    rest = space.apply(params, NO_CHOICE, tokens[:, 3:], state=first.state)
    np.testing.assert_allclose(rest.raw, whole.raw[:, 3:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rest.state, whole.state, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_is_where_its_names_say(cell):
    space = PlainRecurrent(VOCABULARY, HIDDEN, cell)
    params, tokens, state = random_inputs(space)
    plain = space.apply(params, NO_CHOICE, tokens, state=state)

    def with_rates(**rates):
        dropout, key = Dropout(**rates), jax.random.key(1)
        arguments = {"state": state, "dropout": dropout, "key": key}
        return space.apply(params, NO_CHOICE, tokens, **arguments)

    after = with_rates(output=0.5)
    np.testing.assert_array_equal(after.raw, plain.raw)
    kept = np.asarray(after.dropped != 0)
    np.testing.assert_allclose(after.dropped, kept * 2 * plain.raw, rtol=1e-6)
    # One mask for the whole sequence.
    assert (kept == kept[:, :1]).all()
    assert 0 < kept.mean() < 1
    for name in ("embedding", "input", "recurrent"):
        changed = with_rates(**{name: 0.5})
        assert not np.allclose(changed.raw, plain.raw)
    with pytest.raises(ValueError, match="pass key="):
        space.apply(params, NO_CHOICE, tokens, state=state, dropout=Dropout())


@pytest.mark.parametrize(("cell", "gates", "more"), [("lstm", 4, 0), ("gru", 3, 5)])
def test_it_has_the_parameters_of_its_equations(cell, gates, more):
    space = PlainRecurrent(VOCABULARY, HIDDEN, cell)
    expected = VOCABULARY * (HIDDEN + 1) + gates * HIDDEN * (2 * HIDDEN + 1) + more
    assert space.costs(NO_CHOICE)["parameters"] == expected
    params = space.init(jax.random.key(0))
    assert sum(leaf.size for leaf in params.values()) == expected
    forget = np.split(np.asarray(params["bias"]), gates)[1]
    assert (forget == (1 if cell == "lstm" else 0)).all()
    bound = HIDDEN**-0.5
    for name in ("input", "recurrent"):
        assert np.abs(params[name]).max() < bound
        assert np.asarray(params[name]).std() == pytest.approx(bound / 3**0.5, rel=0.2)
