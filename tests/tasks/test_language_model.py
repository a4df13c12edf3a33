"""The language model's losses against one cell in float64 numpy, word by word."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parts import load_task

from configs import enas_rnn_pydoc
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.spaces.recurrent_cell import RecurrentCell
from wpl_jax.spaces.words import Dropout
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import DataCache, Evaluation, word_losses
from wpl_jax.tasks.language_model import LanguageModel
from wpl_jax.tasks.text_streams import Data

VOCABULARY, HIDDEN, NODES, BATCH, LENGTH = 7, 3, 3, 2, 4
# Predicted are all but the first; train and valid end within a window.
WORDS = {"train": 15, "valid": 11, "test": 9}
BATCHES = {"train": 3, "valid": 2, "test": 2}
CHOICE = np.array([1, 0, 3, 0, 0])  # relu; sigmoid and tanh, both after node 0
ARCHITECTURE = Architecture(CHOICE)
PENALTIES = {"activation_penalty": 0.7, "slowness_penalty": 1.3}

SPACE = RecurrentCell(VOCABULARY, HIDDEN, NODES)
TASK = LanguageModel(SPACE, LENGTH, BATCH)
RNG = np.random.default_rng(0)
TEXT = Data(
    *(RNG.integers(VOCABULARY, size=(BATCH, n), dtype=np.int32) for n in WORDS.values())
)
CHILD = {
    name: RNG.normal(size=shape).astype(np.float32)
    for name, shape in {
        "embedding": (VOCABULARY, HIDDEN),
        "input": (2 * HIDDEN, HIDDEN),
        "recurrent": (2 * HIDDEN, HIDDEN),
        "edges": (NODES - 1, 2 * HIDDEN, HIDDEN),
        "bias": (2 * HIDDEN,),
        "output_bias": (VOCABULARY,),
    }.items()
}
P = {name: value.astype(np.float64) for name, value in CHILD.items()}
ZERO = np.zeros((BATCH, HIDDEN))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def node(pre, before, activation):
    gate = sigmoid(pre[:, :HIDDEN])
    return gate * activation(pre[:, HIDDEN:]) + (1 - gate) * before


def read(words, state):
    """Outputs of the architecture's cell, ``[batch, words, hidden]``."""
    outputs = []
    for word in words.T:
        pre = P["embedding"][word] @ P["input"].T + P["bias"]
        pre += state @ P["recurrent"].T
        first = node(pre, state, lambda x: np.maximum(x, 0))
        leaves = [
            node(first @ P["edges"][0].T, first, sigmoid),
            node(first @ P["edges"][1].T, first, np.tanh),
        ]
        state = np.mean(leaves, axis=0)
        outputs.append(state)
    return np.stack(outputs, axis=1)


def log_probabilities(outputs):
    scores = outputs @ P["embedding"].T + P["output_bias"]
    return scores - np.log(np.sum(np.exp(scores), axis=-1, keepdims=True))


def nats_of(outputs, targets):
    """Of each word, ``[batch, words]``."""
    found = log_probabilities(outputs)
    return -np.take_along_axis(found, targets[..., None], axis=-1)[..., 0]


def window(split, index):
    """What a batch reads, and the words after each of it."""
    first = index * LENGTH
    streams = getattr(TEXT, split)
    return (
        streams[:, first : first + LENGTH],
        streams[:, first + 1 : first + 1 + LENGTH],
    )


@jax.jit
def train_loss(carry, step):
    key = jax.random.key(0)
    return TASK.train_loss(CHILD, ARCHITECTURE, TEXT, carry, step, key)


def test_there_are_as_many_batches_as_windows_that_are_full():
    assert {split: TASK.num_batches(TEXT, split) for split in WORDS} == BATCHES
    assert TASK.predictions_per_batch == 8


def test_training_reads_on_from_batch_to_batch_and_anew_after_the_last():
    carry = jnp.full((BATCH, HIDDEN), 5.0)  # of another text: not to be read on
    for step in range(2 * BATCHES["train"] + 1):
        if step % BATCHES["train"] == 0:
            state = ZERO
        inputs, targets = window("train", step % BATCHES["train"])
        outputs = read(inputs, state)
        state = outputs[:, -1]
        loss, (nats, carry) = train_loss(carry, step)
        np.testing.assert_allclose(nats, np.mean(nats_of(outputs, targets)), rtol=2e-6)
        np.testing.assert_allclose(carry, state, atol=2e-6)
        assert loss == nats


def test_the_first_stream_is_the_state_before_the_first_word():
    np.testing.assert_array_equal(TASK.init_carry(), ZERO)


def test_what_is_beside_the_loss_has_no_gradient():
    @jax.jit
    @jax.grad
    def gradient(child, of_loss):
        carry, key = jnp.ones((BATCH, HIDDEN)), jax.random.key(0)
        loss, beside = TASK.train_loss(child, ARCHITECTURE, TEXT, carry, 1, key)
        return of_loss * loss + sum(jnp.sum(x) for x in beside)

    assert all(np.all(x == 0) for x in gradient(CHILD, 0.0).values())
    assert all(np.any(x != 0) for x in gradient(CHILD, 1.0).values())


def test_penalties_are_of_what_is_dropped_and_of_the_change_of_what_is_not():
    task = LanguageModel(SPACE, LENGTH, BATCH, Dropout(output=0.5), **PENALTIES)

    @jax.jit
    def losses(key):
        return task.train_loss(CHILD, ARCHITECTURE, TEXT, ZERO, 0, key)

    inputs, targets = window("train", 0)
    outputs = read(inputs, ZERO)
    change = 1.3 * np.mean((outputs[:, 1:] - outputs[:, :-1]) ** 2)
    # One mask for all words of a sequence: few enough to try them all.
    expected = []
    for bits in itertools.product((0, 2), repeat=BATCH * HIDDEN):
        dropped = outputs * np.reshape(bits, (BATCH, 1, HIDDEN))
        nats = np.mean(nats_of(dropped, targets))
        expected.append((nats, nats + 0.7 * np.mean(dropped**2) + change))
    expected = np.array(expected)

    masks = set()
    for seed in range(6):
        loss, (nats, carry) = losses(jax.random.key(seed))
        mask = np.argmin(np.abs(expected[:, 0] - nats))
        np.testing.assert_allclose((nats, loss), expected[mask], rtol=3e-6)
        np.testing.assert_allclose(carry, outputs[:, -1], atol=2e-6)
        masks.add(mask)
    assert len(masks) > 3


def test_penalties_need_no_dropout():
    task = LanguageModel(SPACE, LENGTH, BATCH, **PENALTIES)
    inputs, targets = window("train", 0)
    outputs = read(inputs, ZERO)
    key = jax.random.key(0)
    loss, _ = jax.jit(task.train_loss)(CHILD, ARCHITECTURE, TEXT, ZERO, 0, key)
    expected = np.mean(nats_of(outputs, targets))
    expected += 0.7 * np.mean(outputs**2)
    expected += 1.3 * np.mean((outputs[:, 1:] - outputs[:, :-1]) ** 2)
    np.testing.assert_allclose(loss, expected, rtol=2e-6)


@pytest.mark.parametrize("words", [1, 2, 4, 8])
def test_words_are_measured_some_at_a_time(words, monkeypatch):
    monkeypatch.setattr(word_losses, "SCORES_AT_ONCE", words * VOCABULARY)
    inputs, targets = window("train", 0)
    outputs = read(inputs, ZERO)
    measure = jax.jit(lambda *args: word_losses.measured_losses(SPACE, *args))
    found = measure(CHILD, outputs.astype(np.float32), targets)
    np.testing.assert_allclose(found, nats_of(outputs, targets), rtol=2e-6)
    program = measure.lower(CHILD, outputs, targets).as_text()
    assert ("stablehlo.while" in program) == (words < targets.size)


@jax.jit
def validate(first):
    return TASK.validate(CHILD, ARCHITECTURE, TEXT, first, 3)


@pytest.mark.parametrize("first", [0, 1, 5])
def test_validation_reads_batches_in_a_row_and_wraps_around(first):
    state, nats = ZERO, []
    for index in range(first, first + 3):
        inputs, targets = window("valid", index % BATCHES["valid"])
        outputs = read(inputs, state)
        state = outputs[:, -1]
        nats.append(nats_of(outputs, targets))
    found = validate(first)
    np.testing.assert_allclose(found.loss, np.mean(nats), rtol=2e-6)
    error = min(np.exp(np.mean(nats)), VOCABULARY)
    np.testing.assert_allclose(found.error, error, rtol=1e-6)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_whole_split_is_evaluated_on_every_word_but_the_first(split):
    streams = getattr(TEXT, split)
    state, nats = ZERO, []
    for t in range(WORDS[split] - 1):
        outputs = read(streams[:, t : t + 1], state)
        state = outputs[:, -1]
        nats.append(nats_of(outputs, streams[:, t + 1 : t + 2]))
    found = jax.jit(TASK.evaluate, static_argnums=3)(CHILD, ARCHITECTURE, TEXT, split)
    np.testing.assert_allclose(found.loss, np.mean(nats), rtol=2e-6)


def test_a_batchs_fisher_loss_is_the_mean_of_its_examples():
    @jax.jit
    def losses(step):
        examples = TASK.fisher_examples(CHILD, ARCHITECTURE, TEXT, "valid", step)
        alone = jax.vmap(lambda each: TASK.example_loss(CHILD, ARCHITECTURE, each))
        together = TASK.fisher_loss(CHILD, ARCHITECTURE, TEXT, "valid", step)
        return examples, alone(examples), together

    for step in range(BATCHES["valid"] + 2):
        inputs, targets = window("valid", step % BATCHES["valid"])
        expected = np.mean(nats_of(read(inputs, ZERO), targets), axis=1)
        examples, alone, together = losses(step)
        np.testing.assert_array_equal(examples, (inputs, targets))
        np.testing.assert_allclose(alone, expected, rtol=2e-6)
        np.testing.assert_allclose(together, np.mean(expected), rtol=2e-6)


def test_the_fisher_can_be_of_another_split():
    step = BATCHES["train"] + 2
    found = TASK.fisher_examples(CHILD, ARCHITECTURE, TEXT, "train", step)
    np.testing.assert_array_equal(found, window("train", 2))


def test_sampled_words_follow_the_models_probabilities():
    n = 4000
    inputs, targets = window("valid", 0)
    example = (inputs[1], targets[1])

    @jax.jit
    @jax.vmap
    def draw(key):
        return TASK.sample_labels(key, CHILD, ARCHITECTURE, example)

    read_words, drawn = draw(jax.random.split(jax.random.key(0), n))
    assert np.all(read_words == example[0])
    assert drawn.dtype == np.int32
    p = np.exp(log_probabilities(read(inputs, ZERO)))[1]
    one_hot = np.eye(VOCABULARY)[drawn]
    assert np.all(np.abs(np.mean(one_hot, axis=0) - p) < 4.5 * deviation(p, n))
    # Each word is drawn for itself.
    pairs = np.einsum("nv,nw->vw", one_hot[:, 0], one_hot[:, 1]) / n
    p = np.outer(p[0], p[1])
    assert np.all(np.abs(pairs - p) < 4.5 * deviation(p, n) + 1 / n)


def test_log_probabilities_are_those_of_the_words_of_a_sequence():
    inputs, targets = window("valid", 0)
    of_each = jax.jit(jax.vmap(TASK.log_probabilities, (None, None, 0)))
    found = of_each(CHILD, ARCHITECTURE, (inputs, targets))
    np.testing.assert_allclose(
        found, log_probabilities(read(inputs, ZERO)), rtol=2e-6, atol=2e-6
    )


def deviation(p, n):
    """Of the frequency of what has probability ``p`` in ``n`` draws."""
    return np.sqrt(p * (1 - p) / n)


def test_the_error_is_the_perplexity_but_at_most_the_vocabulary():
    nats = np.array([0.0, 1.0, np.log(6.9), np.log(7.1), 5.0, 500.0])
    expected = [1, np.e, 6.9, 7, 7, 7]
    found = TASK._evaluation(nats)
    np.testing.assert_array_equal(found.loss, nats)
    np.testing.assert_allclose(found.error, expected, rtol=1e-6)


def test_the_reward_is_the_scale_over_the_perplexity():
    task = LanguageModel(SPACE, reward_scale=80.0)
    found = Evaluation(np.log([1.0, 16.0, 400.0]), error=None)
    np.testing.assert_allclose(task.reward(found), [80, 5, 0.2])


def write_text(folder, **splits):
    texts = {
        "train": "b a b c a b\n" * 150,
        "valid": "a zebra b\n" * 5,
        "test": "c a c c\n" * 5,
    }
    for name, text in (texts | splits).items():
        (folder / f"{name}.txt").write_text(text)


def make_config(folder, **fields):
    """A small configuration with other values, of any type, in some fields."""
    config = enas_rnn_pydoc.get_config()
    config.task.data = {"format": "folder", "path": str(folder), "level": "word"}
    config.task.language_model.batch_size = BATCH
    config.task.language_model.length = LENGTH
    config.space.recurrent_cell.hidden = HIDDEN
    config.space.recurrent_cell.num_nodes = NODES
    with config.ignore_type(), config.unlocked():
        for field, value in fields.items():
            *path, name = field.split(".")
            within = config
            for part in path:
                within = within[part]
            within[name] = value
    return config


def test_a_text_is_loaded_with_what_the_configuration_says(tmp_path):
    write_text(tmp_path)
    config = make_config(
        tmp_path,
        **{
            "task.language_model.activation_penalty": 0.25,
            "task.language_model.slowness_penalty": 0.5,
            "task.language_model.reward_scale": 3.0,
            "task.language_model.dropout.embedding": 0.125,
        },
    )
    task, data, line = load_task(config)
    assert task == LanguageModel(
        RecurrentCell(5, HIDDEN, NODES, init_scale=0.04, max_norm=25.0),
        LENGTH,
        BATCH,
        Dropout(embedding=0.125, input=0.1, output=0.1, recurrent=0.0),
        activation_penalty=0.25,
        slowness_penalty=0.5,
        reward_scale=3.0,
    )
    # Words by their frequency in training: b, a, then the end of the line and c.
    b, a, end, c, unknown = range(5)
    line_of_words = [b, a, b, c, a, b, end]
    np.testing.assert_array_equal(data.train, [line_of_words * 75] * 2)
    valid = [a, unknown, b, end] * 5
    np.testing.assert_array_equal(data.valid, np.reshape(valid, (2, 10)))
    test = [c, a, c, c, end] * 4 + [c, a, c, c]  # One word is left over.
    np.testing.assert_array_equal(data.test, np.reshape(test, (2, 12)))
    assert line == (
        f"{tmp_path}: tokens 1,050 train, 20 valid (5 unknown), 25 test; "
        "vocabulary 5, word level"
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("task.name", "chess"),
        ("task.language_model.length", 1),
        ("task.language_model.length", 4.0),
        ("task.language_model.batch_size", 0),
        ("task.language_model.dropout.embedding", 1.0),
        ("task.language_model.dropout.input", -0.1),
        ("task.language_model.dropout.output", "0.5"),
        ("task.language_model.dropout.recurrent", float("nan")),
        ("task.language_model.activation_penalty", -1.0),
        ("task.language_model.slowness_penalty", None),
        ("task.language_model.reward_scale", 0.0),
        ("space.name", "chess"),
    ],
)
def test_a_wrong_field_is_named(field, value, tmp_path):
    write_text(tmp_path)
    with pytest.raises(ConfigError, match=rf"config\.{field} is {value!r}, expected"):
        load_task(make_config(tmp_path, **{field: value}))


def test_a_field_that_is_missing_is_named(tmp_path):
    config = make_config(tmp_path)
    del config.task.name
    with pytest.raises(ConfigError, match=r"config\.task\.name is missing"):
        load_task(config)


def test_a_setting_that_the_space_does_not_have_is_named(tmp_path):
    write_text(tmp_path)
    with pytest.raises(ConfigError, match=r"recurrent_cell\.leafs is not a setting"):
        load_task(make_config(tmp_path, **{"space.recurrent_cell.leafs": 3}))


def test_a_text_shorter_than_a_batch_is_named(tmp_path):
    write_text(tmp_path, valid="a b c\n" * 2)  # 8 tokens of 10
    with pytest.raises(UserError, match=f"valid of {tmp_path}: found 8 tokens"):
        load_task(make_config(tmp_path))


def test_an_unknown_option_of_the_text_is_named(tmp_path):
    write_text(tmp_path)
    with pytest.raises(UserError, match="colour"):
        load_task(make_config(tmp_path, **{"task.data.colour": 3}))


@pytest.mark.slow
def test_computing_in_half_precision_is_near_and_leaves_float32_gradients():
    """Near: 8 bits of mantissa over a few dozen operations."""
    half = LanguageModel(SPACE, LENGTH, BATCH, compute_dtype="bfloat16", **PENALTIES)
    whole = LanguageModel(SPACE, LENGTH, BATCH, **PENALTIES)
    arguments = (ARCHITECTURE, TEXT, jnp.asarray(ZERO, jnp.float32), 0)

    def slope(task):
        def loss(child):
            return task.train_loss(child, *arguments, key=jax.random.key(0))

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(CHILD)

    (nats, (_, carry)), found = slope(half)
    (expected_nats, _), expected = slope(whole)
    assert nats.dtype == carry.dtype == jnp.float32
    assert 0 < abs(nats - expected_nats) < 0.03 * expected_nats
    scale = max(np.abs(g).max() for g in expected.values())
    for name, gradient in found.items():
        assert gradient.dtype == jnp.float32
        np.testing.assert_allclose(gradient, expected[name], atol=0.05 * scale)


def test_data_is_loaded_once_for_tasks_that_differ_in_other_things(tmp_path):
    write_text(tmp_path)
    cache = DataCache()
    make = make_config(tmp_path, **{"task.language_model.dropout.input": 0.5})
    first, data, line = load_task(make_config(tmp_path), cache=cache)
    other, again, same_line = load_task(make, cache=cache)
    assert first != other
    assert (again, line) == (data, same_line)
    assert all(a is b for a, b in zip(again, data, strict=True))
    _, longer, _ = load_task(
        make_config(tmp_path, **{"task.language_model.length": LENGTH - 1}), cache=cache
    )
    assert longer.train is not data.train
    _, unshared, _ = load_task(make_config(tmp_path))
    assert unshared.train is not data.train


@pytest.mark.slow
def test_a_guess_knows_the_frequencies_of_the_training_text():
    counts = [1 + np.sum(TEXT.train == word) for word in range(VOCABULARY)]
    chances = np.array(counts) / (TEXT.train.size + VOCABULARY)
    losses = [-np.log(chances[word]) for row in TEXT.valid for word in row[1:]]
    found = TASK.guess(jax.tree.map(jnp.asarray, TEXT))
    np.testing.assert_allclose(found.loss, np.mean(losses))
    np.testing.assert_allclose(found.error, min(np.exp(np.mean(losses)), VOCABULARY))
