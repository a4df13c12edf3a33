"""Benchmarks give their figures: at sizes that say nothing, in the time of a test."""

import importlib.util
import math
import sys

import pytest

from benchmarks import (
    fisher_of_children,
    growth,
    micro_cell,
    nasbench201,
    penalty,
    scaling,
    search,
    storage,
)
from benchmarks.field import compare as field
from benchmarks.field import models, tables


def assert_figures(rows):
    for row in rows:
        assert row["benchmark"]
        assert math.isfinite(row["ratio"]), row
        assert row.get("low", row["ratio"]) <= row["ratio"] <= row.get("high", math.inf)


@pytest.mark.slow
def test_a_step_on_images(monkeypatch):
    for name, value in (("SIZE", 8), ("FILTERS", 4), ("LAYERS", 3)):
        monkeypatch.setattr(micro_cell, name, value)
    monkeypatch.setattr(micro_cell, "CHILDREN", ((0, 4),))
    rows = list(micro_cell.rows())
    assert_figures(rows)
    said = [
        (row["benchmark"], row["figure"])
        for row in rows
        if "child 1, batch 4" in row["benchmark"]
    ]
    assert len(said) == len(set(said)) == 4
    assert sum("memory" in row["benchmark"] for row in rows) == 2


@pytest.mark.slow
def test_a_step_on_nasbench201(monkeypatch):
    for name, value in (("SIZES", ((4, 2, 1, 2),)), ("CHILDREN", 1), ("ROUNDS", 2)):
        monkeypatch.setattr(nasbench201, name, value)
    rows = list(nasbench201.rows())
    assert_figures(rows)
    expected = 7 + 3 * (importlib.util.find_spec("torch") is not None)
    assert len({row["figure"] for row in rows}) == expected
    assert all(row["seconds"] > 0 for row in rows)


@pytest.mark.slow
def test_a_step_on_text(monkeypatch):
    for name, value in (("WORDS", 50), ("BATCH", 4), ("LENGTH", 3)):
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(search, "PYTORCH", {8: search.PYTORCH[200]})
    rows = list(search.rows((8,)))
    assert_figures(rows)
    steps = [row for row in rows if row["benchmark"] == "search step, hidden 8"]
    assert ["WPL" in row["figure"] for row in steps] == [True, False]
    assert "Fisher update / shared step" in [row["figure"] for row in rows]
    assert sum("of the authors' code" in row["figure"] for row in rows) == 3


@pytest.mark.slow
def test_fishers_of_children(monkeypatch):
    for name, value in (("SIZE", 8), ("FILTERS", 4), ("LAYERS", 3)):
        monkeypatch.setattr(micro_cell, name, value)
    for name, value in (("WORDS", 50), ("BATCH", 4), ("LENGTH", 3)):
        monkeypatch.setattr(search, name, value)
    monkeypatch.setattr(fisher_of_children, "CELLS", ((8, 2),))
    monkeypatch.setattr(fisher_of_children, "BATCH", 4)
    rows = list(fisher_of_children.rows())
    assert_figures(rows)
    assert ["hidden 8" in row["benchmark"] for row in rows] == [True, False]


@pytest.mark.slow
def test_growth(monkeypatch):
    for name, sizes in {
        "NODES": (2, 3),
        "HIDDEN": (4, 8),
        "EXAMPLES": (10, 20),
        "EVALUATED": (1, 3),
    }.items():
        monkeypatch.setattr(growth, name, sizes)
    rows = growth.rows()
    assert_figures(rows)
    assert [row["sizes"] for row in rows] == [[2, 3], [4, 8], [1, 3], [10, 20]]
    assert all(row["times"][0] == 1 for row in rows)
    assert ", 1, 3: 1, " in rows[2]["figure"]


def test_the_estimates_of_scaling_count_the_papers_search():
    work = scaling.count()
    # 146,014,000 of the published code, less a batch normalization and biases.
    assert work.supernet == 146_014_000 - 2 * 1000 - 2 * 1000 - 10_000
    assert work.chain == 12 * 35
    # Each number moves twice its 4 bytes.
    assert scaling.averaging(10**9, 4.0) == 2
    forward = scaling.Range(1.0, 2.0)
    found = scaling.epoch(work, forward, devices=32, gbs=1e30, batches=9)
    assert found["training and Fisher"] == pytest.approx((2 * 10 * 3, 2 * 10 * 6))
    assert found["err1 and err2"] == (2 * 2 * 5, 2 * 2 * 10)
    assert found["controller"] == (64, 128)


@pytest.mark.slow
def test_accuracies_of_penalties_in_fewer_bits(monkeypatch):
    pytest.importorskip("sklearn")
    for name, value in (("SEEDS", 2), ("STEPS", 3), ("ALPHAS", (0.0, 1.0))):
        monkeypatch.setattr(storage, name, value)
    monkeypatch.setattr(storage, "STORED", storage.STORED[::3])
    rows = list(storage.rows())
    assert_figures(rows)
    assert [row["figure"][-7:] for row in rows[::2]] == ["alpha 0", "alpha 1"] * 2


@pytest.mark.slow
def test_steps_of_adam_under_a_penalty(monkeypatch):
    too_large = 10**15  # for any memory
    monkeypatch.setattr(penalty, "SIZES", (100, too_large))
    monkeypatch.setattr(penalty, "STEPS", 2)
    rows = list(penalty.rows())
    assert_figures(rows)
    assert [row["benchmark"][:8] for row in rows] == ["SGD step"] * 2 + ["step of "] * 3


@pytest.mark.parametrize("name", models.MODELS)
def test_models_of_the_field_have_the_weights_that_were_asked_for(name):
    weights = models.make_weights(models.MODELS[name], 30_000)
    assert 0.85 * 30_000 < sum(w.size for w in weights.values()) <= 30_000


@pytest.mark.slow
def test_libraries_are_compared_and_those_that_are_not_there_are_named():
    methods = ("gradient", "wpl_jax", "optax micro_grad", "kfac-jax")
    pythons = dict.fromkeys(methods, sys.executable)
    rows = {
        row["method"]: row for row in field.compare(pythons, methods, "GRU", 3e3, 4, 2)
    }
    assert "missing" in rows["kfac-jax"]["problem"]
    for method in methods[1:3]:
        assert rows[method]["low"] <= rows[method]["high"] < math.inf
        assert rows[method]["difference"] < 1e-5
    assert all(field.describe(row).startswith("GRU") for row in rows.values())


@pytest.mark.slow
def test_the_exact_fisher_is_compared_without_the_empirical_one():
    pythons = dict.fromkeys(field.EXACT, sys.executable)
    *_, exact = field.compare(pythons, field.EXACT, "MLP", 3e3, 4, 2)
    assert exact["method"] == "wpl_jax, exact"
    assert exact["difference"] == 0
    assert exact["low"] <= exact["high"] < math.inf


def worker_of(tmp_path, script, limit=60.0):
    """A worker whose Python is a shell script."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return field.Worker(str(path), "wpl_jax", "MLP", 1e3, 4, limit)


def test_a_method_that_takes_too_long_is_stopped(tmp_path):
    worker = worker_of(tmp_path, "exec sleep 60", limit=0.1)
    assert worker.problem == "stopped after 0.1 s"
    worker.stop()
    worker = worker_of(tmp_path, "echo ready; read x; exec sleep 60", limit=0.5)
    assert worker.problem is None
    with pytest.raises(field.StoppedError, match=r"stopped after 0\.5 s"):
        worker.ask("time")
    worker.stop()


def test_a_method_that_fails_says_why(tmp_path):
    worker = worker_of(tmp_path, "echo many; echo out of memory >&2; echo >&2; exit 1")
    assert worker.problem == "many"
    worker.stop()
    worker = worker_of(tmp_path, "echo first >&2; echo out of memory >&2; exit 1")
    assert worker.problem == "failed: out of memory"
    worker.stop()
    worker = worker_of(tmp_path, "echo ready; read x; echo killed >&2; exit 1")
    with pytest.raises(field.StoppedError, match="failed: killed"):
        worker.ask("time")
    worker.stop()


def test_tables_of_the_field_have_no_empty_cell():
    about = {"model": "GRU", "weights": 96_052, "examples": 64}
    times = {"seconds": 0.5, "mebibytes": 6.4}
    ratios = {"ratio": 1.25, "low": 1.2, "high": 1.3, "difference": 3e-7}
    rows = [
        {**about, "method": "gradient", **times},
        {**about, "method": "wpl_jax", **times, **ratios},
        {**about, "method": "optax micro_grad", "problem": "stopped after 9 s"},
        {**about, "method": "kfac-jax", "problem": "unsupported: a block"},
        {**about, "weights": 999_328, "method": "kfac-jax", **times, **ratios},
        {**about, "method": "gradient", "examples": 256, "mebibytes": 24.0},
        {**about, "weights": 9_000, "method": "laplax", "problem": "missing: laplax"},
    ]
    said = tables.tables(rows)
    of_size, _, overview, exact = said.split("\n\n")
    cells = of_size.splitlines()[2:]
    assert cells[0] == "| GRU | 96,052, 64 | gradient | 1 | - | 0.5000 | 6 | - |"
    assert "| wpl_jax | 1.25 | 1.20 to 1.30 | 0.5000 | 6 | 3e-07 |" in cells[1]
    assert "| BackPACK | not run |" in cells[5]
    assert overview.splitlines()[2:] == [
        "| GRU | wpl_jax | 1.25 (1.20 to 1.30) | not run |",
        "| GRU | optax micro_grad | stopped after 9 s | not run |",
        "| GRU | kfac-jax | unsupported: a block | 1.25 (1.20 to 1.30) |",
        "| GRU | BackPACK | not run | not run |",
    ]
    assert "| laplax | missing: laplax |" in exact
