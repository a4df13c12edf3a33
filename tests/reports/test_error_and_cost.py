"""The section on error and cost, with costs that are counted by hand."""

import types

import numpy as np
import pytest

from wpl_jax.common.pareto import front
from wpl_jax.evaluation import candidates, latency
from wpl_jax.evaluation.candidates import Evaluated
from wpl_jax.evaluation.latency import Child, Measurements, Table
from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import Searched
from wpl_jax.reports.sections import error_and_cost
from wpl_jax.reports.sections.section import Report
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.supernet import Architecture
from wpl_jax.tasks import Evaluation

SPACE = NasBench201((4, 4, 1), 2, channels=2, cells=1, exclude_none=True)
SKIP, ONE, THREE, POOL = range(4)
SIX = [SKIP] * 5 + [THREE]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_has_the_points_that_none_is_better_than(seed):
    rng = np.random.default_rng(seed)
    costs, errors = rng.integers(0, 8, 30) * 1.0, rng.integers(0, 8, 30) * 1.0
    errors[:3] = np.nan

    def is_beaten(i):
        return any(
            costs[j] <= costs[i]
            and errors[j] <= errors[i]
            and (costs[j] < costs[i] or errors[j] < errors[i])
            for j in range(30)
        )

    expected = {(costs[i], errors[i]) for i in range(3, 30) if not is_beaten(i)}
    found = front(costs, errors)
    assert {(costs[i], errors[i]) for i in found} == expected
    assert len(found) == len(expected)
    assert np.all(np.diff(costs[found]) > 0)
    assert np.all(np.diff(errors[found]) < 0)


def searched(seed, architecture, error):
    rows = [
        {"children/choices": [[SKIP] * 6, SIX], "children/errors": [80.0, None]},
        {"children/choices": [[ONE] * 6, SIX], "children/errors": [60.0, 50.0]},
    ]
    results = {
        "architecture": architecture,
        "error_name": "% error",
        "valid_error": error,
    }
    evaluated = Evaluated(np.array([[POOL] * 6, SIX]), np.array([70.0, 45.0]))
    return Searched("wpl", seed, SPACE, rows, results, None, candidates=evaluated)


def shown(tmp_path, config):
    arms = {"wpl": [searched(0, SIX, 45.0), searched(1, [SKIP] * 6, 75.0)]}
    report = Report(tmp_path, {"arms": {"wpl": {}}, **config}, arms, "data", None)
    page = Page("title", tmp_path)
    error_and_cost.SECTION.show(page, report)
    page.write(tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def products(with_convolution):
    """Of the network, written out: 2, 4 and 8 channels on 16, 4 and 1 pixels."""
    total = 16 * 9 * 1 * 2 + 8 * 2  # the stem and the classifier
    for pixels, c in ((4, 4), (1, 8)):  # the reductions
        total += pixels * (9 * c // 2 + 9 * c + c // 2) * c
    if with_convolution:
        total += sum(p * 9 * c * c for p, c in ((16, 2), (4, 4), (1, 8)))
    return total


def test_the_report_has_children_limits_and_parts(tmp_path):
    text = shown(tmp_path, {"limits": {"multiply_adds": 5000.0, "draws": 100}})
    assert (tmp_path / "figures" / "error_and_cost.svg").exists()
    one, other = products(True), products(False)
    mean, deviation = (one + other) / 2, (one - other) / 2
    # 4 children of epochs and 2 candidates of each of 2 searches.
    assert "<td>wpl</td><td>12</td>" in text
    assert f"<td>{mean:,.0f} ± {deviation:,.0f}</td>" in text
    assert "<td>60.00 ± 15.00</td><td>multiply-adds ≤ 5,000</td>" in text
    assert (
        f"<td>stage_0/nor_conv_3x3</td><td>1</td><td>36</td><td>{16 * 36}</td>" in text
    )
    assert "<td>stage_2/skip_connect</td><td>5</td><td>0</td><td>0</td>" in text
    assert "nor_conv_1x1" not in text
    assert "latency" not in text


def test_the_report_has_the_latency_that_was_measured(tmp_path):
    parts = {part.name: 0.5 for part in SPACE.parts}
    table = Table(repr(SPACE), 2.0, parts, [Child(SIX, 10.0, 11.0)])
    latency.write(tmp_path, Measurements("a device", 1, [table]))
    text = shown(tmp_path, {})
    # A call, stem, two reductions and classifier, and 6 operations in 3 stages.
    assert f"<td>{2.0 + 0.5 * (4 + 18):g}</td>" in text
    assert "differ from 1 whole child by 10.0% (mean relative error)" in text
    assert "<td>none</td>" in text


def test_children_that_cost_the_same_have_one_sentence(tmp_path):
    one = searched(0, SIX, 45.0)
    rows = [{"children/choices": [SIX], "children/errors": [50.0]}]
    report = Report(
        *(tmp_path, {"arms": {}}),
        {"wpl": [one._replace(metrics=rows, candidates=None)]},
        *("data", None),
    )
    page = Page("title", tmp_path)
    error_and_cost.SECTION.show(page, report)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "evaluated have the same costs: " in text
    assert f", {products(True):,} multiply-adds." in text
    assert not (tmp_path / "figures").exists()


def test_candidates_are_read_as_they_are_written(tmp_path):
    assert candidates.read(tmp_path, SPACE) is None

    chosen = np.array([SIX, [SKIP] * 6])
    selection = types.SimpleNamespace(
        architectures=Architecture(chosen),
        screened=Evaluation(np.zeros(2), np.array([3.5, np.inf])),
    )
    candidates.write(tmp_path, selection)
    found = candidates.read(tmp_path, SPACE)
    np.testing.assert_array_equal(found.choices, chosen)
    np.testing.assert_array_equal(found.errors, [3.5, np.nan])
