"""The table of NAS-Bench-201 against published figures, and tables of one's own."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from helpers import toy
from ml_collections import ConfigDict

from wpl_jax.common.settings import SettingError
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import table as tables
from wpl_jax.evaluation.baselines import random_search
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.evaluation.ranking_metrics import kendall_tau
from wpl_jax.evaluation.table import nasbench201
from wpl_jax.evaluation.truth_from_table import FromTable
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.build import build, settings
from wpl_jax.spaces.nasbench201_architectures import (
    OPERATIONS,
    all_architectures,
    from_string,
)
from wpl_jax.supernet import Decision, Space

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT.parent / "shared" / "data" / "nasbench201.csv"
ALL_SKIP, ALL_1X1, ALL_3X3 = [1] * 6, [2] * 6, [3] * 6


@dataclasses.dataclass(frozen=True)
class Cell(Space):
    """As much of the space of NAS-Bench-201 as a truth is to know."""

    operations: tuple = OPERATIONS

    name = "nasbench201"

    @property
    def decisions(self):
        return (Decision("edge", self.operations),) * 6


def test_published_figures():
    table = nasbench201()
    data_sets = ("cifar10", "cifar100", "imagenet16_120")
    best = [table.columns[f"{name}_test"].max() for name in data_sets]
    np.testing.assert_allclose(best, [94.37, 73.51, 47.31], atol=0.005)
    skip = [float(table.values(f"{name}_test", ALL_SKIP)) for name in data_sets]
    np.testing.assert_allclose(skip, [54.30, 15.61, 16.32], atol=0.005)
    assert table.rows(ALL_3X3) == 1462
    assert table.rows(ALL_SKIP) == 1835
    assert table.values("cifar10_valid").argmax() == 6111


def test_costs_are_those_that_the_benchmark_prints():
    table = nasbench201()
    # Two 1x1 convolutions; 3x3 convolutions alone.
    for row, parameters, flops in ((0, 0.129306, 15.64737), (1462, 1.531546, 220.1197)):
        assert table.columns["parameters"][row] == round(parameters * 1e6)
        assert table.columns["flops"][row] == pytest.approx(flops * 1e6, rel=1e-6)
    ones = table.values("flops", [ALL_SKIP, ALL_1X1])
    assert ones[1] - ones[0] == 6 * 15 * 16 * 16 * 32 * 32


def test_all_are_looked_up_at_once():
    table, every = nasbench201(), all_architectures()
    rows = table.rows(every.reshape(25, 625, 6))
    assert rows.shape == (25, 625)
    np.testing.assert_array_equal(table.choices[rows.ravel()], every)
    np.testing.assert_array_equal(
        table.values("cifar100_valid", every),
        table.columns["cifar100_valid"][rows.ravel()],
    )


def test_what_needs_no_search_ranks_this_well():
    columns = nasbench201().columns
    names = {"parameters": "parameters", "12 epochs": "cifar10_valid_12_epochs"}
    found = {
        by: kendall_tau(columns[name], columns["cifar10_test"])
        for by, name in names.items()
    }
    assert {by: round(tau, 3) for by, tau in found.items()} == {
        "parameters": 0.577,
        "12 epochs": 0.594,
    }
    expected = scipy.stats.kendalltau(columns["parameters"], columns["cifar10_test"])
    assert found["parameters"] == pytest.approx(expected.statistic, abs=1e-12)


def test_what_the_table_lacks_is_named():
    table = nasbench201()
    with pytest.raises(UserError, match=r"lacks architecture \[0, 0, 0, 0, 0, 5\]"):
        table.rows([ALL_SKIP, [0, 0, 0, 0, 0, 5]])
    with pytest.raises(UserError, match=r"shape \(2, 5\), expected 6 decisions"):
        table.rows([[0] * 5] * 2)
    for wrong in (np.full(6, 3.7), np.full(6, 2**32 + 3), np.full(6, True), ["3"] * 6):
        with pytest.raises(UserError, match="expected numbers of the choices"):
            table.rows(wrong)
    with pytest.raises(UserError, match=r"lacks column 'cifar10', it has .*cifar10_te"):
        table.values("cifar10")


@pytest.mark.skipif(not SOURCE.exists(), reason="needs ../shared/data/nasbench201.csv")
def test_the_table_is_its_source():
    table = nasbench201()
    with SOURCE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    choices = [from_string(row["arch"]) for row in rows]
    np.testing.assert_array_equal(table.choices, choices)
    for name, column in (
        ("cifar10_valid", "c10_valid"),
        ("cifar10_valid_12_epochs", "c10_valid_12ep"),
        ("cifar100_test", "c100_test"),
        ("imagenet16_120_valid", "in16_valid"),
        ("imagenet16_120_seconds", "in16_train_s"),
    ):
        expected = [float(row[column]) for row in rows]
        np.testing.assert_array_equal(table.columns[name], expected)


ROWS = "space,choice,mine_valid\ntoy,0 2,71.5\ntoy,1 0,10\n"


def written(tmp_path, text):
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def test_a_table_of_ones_own(tmp_path):
    table = tables.read(written(tmp_path, ROWS))
    assert table.space == "toy"
    np.testing.assert_array_equal(table.values("mine_valid"), [71.5, 10])
    assert table.values("mine_valid", [1, 0]) == 10
    saved = tables.read(written(tmp_path, f"\ufeff{ROWS}\n\n"))  # by a spreadsheet
    np.testing.assert_array_equal(saved.values("mine_valid"), [71.5, 10])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "0 rows"),
        ("space,choice,a_valid\n", "0 rows"),
        ("choice,a_valid\n0 1,3\n", "columns choice, a_valid"),
        ("space,a_valid\ntoy,3\n", "columns space, a_valid"),
        ("space,choice,a_valid\ntoy,0 1,3\nother,0 2,3\n", "cannot be read as a table"),
        ("space,choice,a_valid\ntoy,0 1,good\n", "good"),
        ("space,choice,a_valid,a_valid\ntoy,0 1,3,4\n", "two columns of one name"),
        ("space,choice,a_valid\ntoy,0 99999999999,3\n", "cannot be read as a table"),
        ("space,choice,a_valid\ntoy,0 1\n", "cannot be read as a table"),
        ("space,choice,a_valid\ntoy,0 x,3\n", "'x'"),
        ("space,choice,a_valid\ntoy,0 1,3\ntoy,0,3\n", "cannot be read as a table"),
        ("space,choice,a_valid\ntoy,0 1,3,4\n", "cannot be read as a table"),
        ("space,choice,a_valid\ntoy,,3\n", "no decisions"),
        ("space,choice,a_valid\ntoy,0 -1,3\n", "choices below 0"),
        ("space,choice,a_valid\ntoy,0 1,3\ntoy,0 1,4\n", r"more than one row .*\[0, 1"),
    ],
)
def test_a_file_that_is_no_table_is_refused(text, message, tmp_path):
    with pytest.raises(UserError, match=message):
        tables.read(written(tmp_path, text))


def test_the_truth_is_the_tables():
    truth = FromTable("cifar100", "test")
    assert truth.about == "by NAS-Bench-201 on cifar100 (test)"
    assert truth.epochs is None
    found = truth.of(Cell(), np.array([ALL_SKIP, ALL_3X3]), None)
    assert found == pytest.approx([100 - 15.607, 100 - 71.107])
    # Of a space without an operation, or in another order, the same architectures.
    some = np.array([[3, 2, 1, 1, 4, 2], ALL_3X3])
    expected = truth.of(Cell(), some, None)
    assert truth.of(Cell(OPERATIONS[1:]), some - 1, None) == expected
    assert truth.of(Cell(OPERATIONS[::-1]), 4 - some, None) == expected
    with pytest.raises(UserError, match=r"between none, .*choices: none, pool"):
        truth.check(Cell(("none", "pool")))


def test_random_search_has_the_published_result():
    """Dong and Yang (2020): 12,000 s on CIFAR-10, selected after 12 epochs."""
    table = nasbench201()
    full, short = FromTable("cifar10", "test").random_search(Cell(), 12_000, 6.0)
    assert (full.epochs, short.epochs) == (200, 12)
    assert short.trainings / full.trainings == pytest.approx(200 / 12)
    assert short.error == pytest.approx(100 - 93.75, abs=0.05)
    # The same searches, simulated until their time is over.
    rows = random_search(table, 12_000)
    simulated = 100 - table.columns["cifar10_test"][rows]
    spread = simulated.std() / len(rows) ** 0.5
    assert short.error == pytest.approx(simulated.mean(), abs=4 * spread)
    # A search of no time: one random architecture; without none, a better one.
    nothing = FromTable("cifar10", "test").random_search(Cell(), 0.0, 6.0)[0]
    assert nothing.error == pytest.approx((100 - table.columns["cifar10_test"]).mean())
    small = FromTable("cifar10", "test").random_search(Cell(OPERATIONS[1:]), None, 6.0)
    assert small[0].trainings is None
    assert small[0].equal_trainings < full.equal_trainings
    seconds = table.columns["cifar10_seconds"].mean()
    assert full.equal_seconds == pytest.approx(full.equal_trainings * seconds)


def test_a_table_of_ones_own_may_have_shorter_trainings_and_times(tmp_path):
    text = "space,choice,a_valid,a_valid_3_epochs,a_seconds\ntoy,0 0,50,20,5\n"
    truth = FromTable("a", path=str(written(tmp_path, text)))
    cheaper = truth.cheaper(toy.ToySpace(), np.array([[0, 0]]))
    assert {k: v.tolist() for k, v in cheaper.items()} == {"3 epochs of training": [80]}
    # How long trainings were is not known, so a part of the time is not either.
    (found,) = truth.random_search(toy.ToySpace(), 10.0, 50.0)
    assert found == (None, 2.0, 50.0, 1.0, 5.0)
    alone = FromTable("mine", path=str(written(tmp_path, ROWS)))
    assert alone.random_search(toy.ToySpace(), 10.0, 50.0) == []
    assert alone.cheaper(toy.ToySpace(), np.array([[0, 2]])) == {}


def test_random_search_draws_what_a_table_of_ones_own_knows(tmp_path):
    rows = ("0 0,50,5,nan", "0 1,nan,7,20", "1 0,40,nan,30", "1 1,60,15,nan")
    lines = "".join(f"toy,{row}\n" for row in rows)
    text = f"space,choice,a_valid,a_seconds,a_valid_3_epochs\n{lines}"
    truth = FromTable("a", path=str(written(tmp_path, text)))
    # Of the first and the last; no error after 3 epochs has all that it needs.
    (found,) = truth.random_search(toy.ToySpace(), 10.0, 42.5)
    assert found.trainings == 1.0
    assert found.error == 45.0
    # Of two draws, three in four have the better one.
    assert found.equal_trainings == pytest.approx(2)
    assert truth.random_search(toy.ToySpace(), 10.0, np.nan) == []
    nothing = written(tmp_path, text.replace(",5,", ",nan,").replace(",15,", ",nan,"))
    assert FromTable("a", path=str(nothing)).random_search(toy.ToySpace(), 9, 1) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"data_set": "10"}, r"data_set is '10', .*cifar10_valid, cifar100_valid"),
        ({"data_set": None}, "data_set is None"),
        ({"split": "seconds"}, "split is 'seconds', expected one of"),
        ({"path": "nowhere.csv"}, "path is 'nowhere.csv', .*cannot be read"),
        ({"path": 3}, "path is 3, expected the path of a table, or None"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(SettingError, match=message):
        FromTable(**wrong)


def test_a_space_that_the_table_is_not_of_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'nasbench201', the search is of 'toy'"):
        FromTable().check(toy.ToySpace())
    for choice in ("0", "0 9"):
        path = written(tmp_path, f"space,choice,a_valid\ntoy,{choice},3\n")
        with pytest.raises(UserError, match=r"has decisions of \[3, 3\] choices"):
            FromTable("a", path=str(path)).check(toy.ToySpace())


def test_a_search_that_the_table_cannot_judge_does_not_begin(tmp_path):
    config = toy.get_config()
    config.ranking = ConfigDict({"architectures": 6, "truth": "table"})
    with pytest.raises(UserError, match="the search is of 'toy'"):
        jobs.run(config, tmp_path / "run", "run")
    config.ranking.table = ConfigDict({"data_set": "nothing"})
    with pytest.raises(ConfigError, match=r"config\.ranking\.table\.data_set"):
        jobs.run(config, tmp_path / "run", "run")
    assert not (tmp_path / "run").exists()


def test_a_configuration_names_the_table(tmp_path):
    path = written(tmp_path, ROWS)
    ranking = settings(Ranking, truth="table", table={"path": str(path)})
    config = ConfigDict({"ranking": ranking})
    config.ranking.table.data_set = "mine"
    truth = build(Ranking, config, "ranking").truth
    assert truth.about == "by table.csv on mine (valid)"
    assert truth.of(toy.ToySpace(), np.array([[1, 0], [0, 2]]), None) == [90, 28.5]
