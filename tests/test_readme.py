"""The Python code of the README and of the guides to the penalty runs as it stands."""

import contextlib
import io
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

import wpl_jax

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PENALTY = ROOT / "docs" / "penalty.md"
MISTAKES = ROOT / "docs" / "ewc_mistakes.md"
FINE_TUNING = ROOT / "docs" / "fine_tuning.md"


def blocks(path):
    return re.findall(r"```python\n(.*?)```", path.read_text("utf-8"), re.DOTALL)


def run(path, *code):
    """What code of a page defines."""
    names = {}
    for block in code:
        exec(compile(block, str(path), "exec"), names)
    return names


def test_the_penalty_of_the_readme_protects_what_it_says():
    penalty, _ = blocks(README)
    names = run(README, penalty)
    # The optimizer that the README builds holds what it says it holds.
    state, params = names["state"], names["params"]["params"]
    moved = {"params": {**params, "kernel": np.ones((3, 2)) + 1}}
    zeros = jax.tree.map(np.zeros_like, moved)
    updates, _ = names["tx"].update(zeros, state.opt_state, moved)
    # By hand: F is 4/3 for each of the six w and 4 for the two b, 2/3 and 2 of mean
    # 1; so w goes the share 2/3 / (1 + 2/3) of its way from 2 back to the anchor 1.
    np.testing.assert_allclose(updates["params"]["kernel"], -0.4, rtol=1e-6)
    np.testing.assert_array_equal(updates["params"]["bias"], 0)
    after = state.replace(params=moved).apply_gradients(grads=zeros)
    np.testing.assert_allclose(after.params["params"]["kernel"], 1.6, rtol=1e-6)


def test_the_search_of_the_readme_can_be_made():
    _, search = blocks(README)
    before, call, _ = search.partition("found = wpl_jax.run(")
    assert call
    search = run(README, before)["search"]
    assert jax.eval_shape(search.init, jax.random.key(0)).epoch.err1


@pytest.mark.slow
def test_the_search_of_the_readme_finds_a_model_that_predicts():
    _, search = blocks(README)
    names = run(README, search)
    found, space = names["found"], names["space"]
    assert list(found.choices) == [decision.name for decision in space.decisions]
    # A search that has learned something does better than guessing.
    assert found.error < space.vocabulary_size / 4
    assert len(found.metrics) == 4
    given = np.asarray(names["log_probabilities"], np.float64)
    assert given.shape == (1, 35, space.vocabulary_size)
    np.testing.assert_allclose(np.exp(given).sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_penalty_of_the_guide_protects_a_flax_nnx_model():
    found = run(PENALTY, *blocks(PENALTY))
    (state,) = wpl_jax.plasticity_states(found["optimizer"].opt_state)
    params = nnx.state(found["model"], nnx.Param)
    for anchor, param in zip(
        jax.tree.leaves(state.anchor), jax.tree.leaves(params), strict=True
    ):
        np.testing.assert_array_equal(anchor, param)
    assert any(np.any(fisher) for fisher in jax.tree.leaves(state.fisher))


@pytest.mark.slow_except("penalty")
@pytest.mark.parametrize(
    "page", [PENALTY, MISTAKES, FINE_TUNING], ids=lambda path: path.stem
)
def test_code_of_a_guide_prints_what_stands_beside_it(page):
    """Comments of prints begin with what is printed."""
    code = blocks(page)
    said = [
        line.split("  # ")[1]
        for block in code
        for line in block.splitlines()
        if line.lstrip().startswith("print(")
    ]
    assert len(said) >= 3
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run(page, *code)
    for line, comment in zip(printed.getvalue().splitlines(), said, strict=True):
        assert comment.startswith(line), (line, comment)
