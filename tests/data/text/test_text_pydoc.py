"""The text that comes with Python."""

import sys
from types import ModuleType

import pytest

from wpl_jax.data import load_text
from wpl_jax.data.text.pydoc_topics import read_pydoc


@pytest.fixture
def topics(monkeypatch):
    """A function that puts other topics in the place of Python's."""

    def replace(texts):
        module = ModuleType("pydoc_data.topics")
        module.topics = texts
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", module)

    return replace


def test_shares_of_the_splits():
    data = load_text("pydoc")
    sizes = [len(split) for split in (data.train, data.valid, data.test)]
    assert sum(sizes) > 50_000
    for size, share in zip(sizes, (0.8, 0.1, 0.1), strict=True):
        assert size / sum(sizes) == pytest.approx(share, abs=0.01)
    # Every tenth word unknown would be too many to learn from.
    assert data.unknown["valid"] < 0.1 * sizes[1]
    assert data.unknown["test"] < 0.1 * sizes[2]
    assert "Python" in data.source


def test_no_paragraph_is_in_two_splits():
    splits = read_pydoc()[:3]
    lines = [split.text.splitlines() for split in splits]
    together = [line for of_split in lines for line in of_split]
    assert len(set(together)) == len(together)
    for split in splits:
        assert split.text == split.text.lower()


def test_tokens(topics):
    text = (
        'The "with" statement\n********************\n\n'
        "It isn\u2019t a_b[0]->C,\n\u201cor\u201d so.\n \n"
        "   +---+---+\n   | x | y |\n   +---+---+\n\n   f('it')\n"
    )
    topics({"with": text})
    assert read_pydoc().train.text.splitlines() == [
        'the " with " statement',
        'it isn\'t a_b [ 0 ] - > c , " or " so .',
        "| x | y |",
        "f ( ' it ' )",
    ]


def test_topics_are_divided_and_paragraphs_kept_once(topics):
    # A long topic that repeats a short one keeps what is its own.
    texts = {f"t{i}": f"Only in {i}." for i in range(80)}
    topics({**texts, "all": "\n\n".join([*texts.values(), "Its own."])})
    data = read_pydoc()
    lines = [line for split in data[:3] for line in split.text.splitlines()]
    assert sorted(lines) == sorted(
        [*(f"only in {i} ." for i in range(80)), "its own ."]
    )
    assert [len(split.text.splitlines()) for split in data[:3]] == [65, 8, 8]


def test_with_a_path(data_error):
    with data_error("path", "topics.txt", "leave it out"):
        load_text("pydoc", "topics.txt")


def test_python_without_the_text(monkeypatch, data_error):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with data_error("pydoc topics of Python", "without its help texts", "install"):
        load_text("pydoc")
