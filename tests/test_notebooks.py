"""The notebooks of the documentation run from their first cell to their last."""

import ast
import sys
import types

import jax
import matplotlib
import numpy as np
import pytest
from helpers.notebooks import NOTEBOOKS, read
from matplotlib import pyplot as plt

from wpl_jax.spaces import SPACES

# In the place of the cell of parameters.
TINY = {
    "continual": {
        "DATA": ("digits",),
        "IMAGES": 1_000,
        "EPOCHS": 4,
        "HIDDEN": 64,
        "ALPHAS": [0.1],
    },
    "fine_tune": {
        "WIDTH": 8,
        "LAYERS": 1,
        "LENGTH": 6,
        "BATCH": 4,
        "FIRST_STEPS": 4,
        "SECOND_STEPS": 20,
        "ALPHAS": [1.0, 1e9],
    },
    "own_space": {"EPOCHS": 1, "LAYERS": 2, "FILTERS": 2, "CHILDREN": 2, "BATCHES": 1},
    "penalty_nnx": {"STEPS": 60, "ALPHA": 100.0},
    "search": {"EPOCHS": 2, "HIDDEN": 4, "NODES": 2, "CHILDREN": 2, "BATCHES": 1},
}


@pytest.fixture
def run(monkeypatch):
    """Runs a notebook at a tiny size, and returns the names that it defines."""

    def run(name):
        (path,) = (path for path in NOTEBOOKS if path.stem == name)
        module = types.ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        for number, cell in enumerate(read(path)):
            if "parameters" in cell.tags:
                vars(module).update(TINY[name])
            else:
                exec(compile(cell.code, f"{name}[{number}]", "exec"), vars(module))
        return module

    backend = matplotlib.get_backend()
    plt.switch_backend("Agg")
    monkeypatch.setattr(SPACES, "_own", dict(SPACES._own))
    yield run
    plt.close("all")
    plt.switch_backend(backend)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_holds_no_outputs_and_its_sizes_in_one_cell(path):
    cells = read(path)
    assert not any(cell.ran for cell in cells)
    (sizes,) = (cell.code for cell in cells if "parameters" in cell.tags)
    assigned = {node.targets[0].id for node in ast.parse(sizes).body}
    assert assigned == set(TINY[path.stem])


@pytest.mark.slow
def test_the_penalty_keeps_the_first_task_of_an_nnx_model(run):
    found = run("penalty_nnx")
    free, kept = found.results[0.0], found.results[found.ALPHA]
    # What shuffled pixels do to a classifier, and what a strong penalty prevents.
    assert kept["A"][-1] > free["A"][-1] + 0.1
    assert free["B"][-1] > kept["B"][-1]
    assert len(plt.get_fignums()) == 1


@pytest.mark.slow
def test_tasks_in_a_row_are_kept_by_ewc(run):
    found = run("continual")
    assert len(found.results) == 3 * 4
    for setting in found.SETTINGS:
        of_setting = [found.results[setting, method] for method in found.METHODS]
        assert all(np.all((x >= 0) & (x <= 1)) for x in of_setting)
        # The first task is learned before there is a penalty.
        np.testing.assert_allclose([x[0] for x in of_setting], 4 * [of_setting[0][0]])
    free, kept = (found.results["permuted", m][-1] for m in ("no penalty", "EWC"))
    assert kept.mean() > free.mean() + 0.05
    # With one head, two of ten digits are right.
    assert found.results["split, one head", "no penalty"][-1].mean() < 0.25
    assert len(plt.get_fignums()) == 1


@pytest.mark.slow
def test_a_text_is_learned_and_a_strong_penalty_prevents_it(run):
    pytest.importorskip("pydoc_data.topics")
    found = run("fine_tune")
    np.testing.assert_array_equal(found.free[0], 0)
    learned = found.free[-1, 0]
    assert learned > 0
    for points in found.penalized.values():
        weak, strong = points[:, 0]
        assert strong < 0.5 * learned
        assert strong < weak
    np.testing.assert_allclose(found.penalized["L2"][1], 0, atol=1e-5)
    assert len(plt.get_fignums()) == 1


@pytest.mark.slow
def test_the_search_has_pictures_and_predicts(run, capsys):
    found = run("search")
    assert len(found.found.metrics) == 2
    assert len(plt.get_fignums()) == 2
    assert capsys.readouterr().out.count(" -> [") == 12
    probabilities = np.exp(np.asarray(found.log_probabilities, np.float64))
    assert probabilities.shape == (12, found.text.vocabulary_size)
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)


@pytest.mark.slow
def test_a_space_from_outside_is_registered_searched_and_predicts(run):
    found = run("own_space")
    space = found.space
    assert SPACES["convolutions"] is found.Convolutions
    assert found.predicted.shape == found.labels.shape
    params = space.init(jax.random.key(0))
    assert params["shared"]["stem/kernel"].shape == (3, 3, 1, 2)
    shapes = {x.shape for x in jax.tree.leaves(params["choices"]["layer_1"])}
    assert shapes == {(2, 2), (1, 1, 1, 2, 2), (1, 3, 3, 2, 2)}
    assert list(found.found.choices) == ["layer_0", "layer_1"]
