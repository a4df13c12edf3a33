"""Text of a model's user: in numbers, and in a table."""

import itertools

import numpy as np
import pytest

from wpl_jax.data.text.folder import read_text_folder
from wpl_jax.data.text.levels import split_words
from wpl_jax.errors import UserError
from wpl_jax.tasks.text_predictor import TextPredictor

WORDS = TextPredictor(("the", "<eos>", "cat", "sat", "<unk>"), "word")
KNOWN = TextPredictor(("the", "<eos>", "cat"), "word")
LETTERS = TextPredictor(("a", "b", "\n"), "character")
RNG = np.random.default_rng(0)
# Log-probabilities of the next word, by the word: a bigram model.
BIGRAMS = RNG.normal(size=(5, 5))
BIGRAMS -= np.log(np.exp(BIGRAMS).sum(1, keepdims=True))


def predict(numbers):
    assert numbers.shape[0] == 16  # Few shapes are compiled.
    assert numbers.shape[1] in (1, 2, 4, 8)
    return BIGRAMS[numbers]


def test_words_are_numbers_and_ends_of_lines_are_words():
    assert WORDS.prepare("the cat sat").tolist() == [[0, 2, 3]]
    assert WORDS.prepare("the dog\nsat\n").tolist() == [[0, 4, 1, 3, 1]]
    assert LETTERS.prepare("ab\n").tolist() == [[0, 1, 2]]
    assert WORDS.prepare(np.array([3, 1])).tolist() == [[3, 1]]


@pytest.mark.parametrize(
    ("predictor", "inputs", "said"),
    [
        (KNOWN, "the dog", "'dog' is not in the model's vocabulary of 3 words"),
        (LETTERS, "abc", "'c' is not in the model's vocabulary of 3 characters"),
        (WORDS, "", "expected words"),
        (WORDS, np.array([[0, 5]]), "has the number 5, expected numbers from 0 to 4"),
        (WORDS, np.array([0.5]), "expected words"),
        (WORDS, "the <eos>", "the word <eos>"),
    ],
)
def test_what_is_no_text_of_the_model_is_named(predictor, inputs, said):
    with pytest.raises(UserError, match=said):
        predictor.prepare(inputs)


def test_lines_have_the_perplexity_of_their_words(tmp_path):
    lines = ["the cat sat", "the dog", "", *["cat"] * 20]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines) + "\n")
    table = WORDS.table(path, predict)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["line"] for row in rows] == list(range(1, 24))
    for row, line in zip(rows, lines, strict=True):
        known = {"the": 0, "cat": 2, "sat": 3}
        numbers = [1, *(known.get(word, 4) for word in line.split()), 1]
        nats = [-BIGRAMS[a, b] for a, b in itertools.pairwise(numbers)]
        assert row["tokens"] == len(numbers) - 2
        assert row["unknown"] == numbers.count(4)
        assert float(row["loss"]) == pytest.approx(np.mean(nats), rel=1e-5)
        expected = np.exp(np.mean(nats))
        assert float(row["perplexity"]) == pytest.approx(expected, rel=1e-5)
        best = int(np.argmax(BIGRAMS[numbers[-2]]))
        assert row["next"] == WORDS.vocabulary[best]
        highest = np.exp(BIGRAMS[numbers[-2], best])
        assert float(row["probability"]) == pytest.approx(highest, rel=1e-5)


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfthe cat\r\nsat\r\n",  # as editors on Windows write it
        b"the\x0ccat\nsat",
        "the\u2028cat\rsat\x85\n".encode(),
    ],
)
def test_lines_end_where_those_of_the_training_text_do(content, tmp_path):
    for name in ("train", "valid", "test"):
        (tmp_path / f"{name}.txt").write_bytes(content)
    read = read_text_folder(tmp_path).train
    assert split_words(read) == ["the", "cat", "<eos>", "sat", "<eos>"]
    table = WORDS.table(tmp_path / "train.txt", predict)
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    found = [(row["line"], row["tokens"], row["unknown"]) for row in rows]
    assert found == [(1, 2, 0), (2, 1, 0)]


def test_files_that_cannot_be_read_are_named(tmp_path):
    path = tmp_path / "text.txt"
    for content, said in ((b"", "is empty"), (b"a\xff", "byte 1 is not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            WORDS.table(path, predict)
    with pytest.raises(UserError, match="is a folder, expected a file of text"):
        WORDS.table(tmp_path, predict)
    with pytest.raises(UserError, match="cannot be read"):
        WORDS.table(tmp_path / "nowhere", predict)
    path.write_text("the dog\n")
    with pytest.raises(UserError, match=r"text\.txt: 'dog' is not in"):
        list(KNOWN.table(path, predict).rows)
