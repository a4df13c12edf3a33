"""Rows of searches, and methods compared over seeds."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from wpl_jax.common.bootstrap import Interval, interval_of
from wpl_jax.errors import UserError
from wpl_jax.evaluation import rank_files
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.evaluation.rank_files import Ranked
from wpl_jax.evaluation.table import nasbench201
from wpl_jax.evaluation.truth_from_table import FromTable
from wpl_jax.jobs import compare
from wpl_jax.reports import measures, paired
from wpl_jax.reports.measures import Row
from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import Searched
from wpl_jax.reports.sections import choices_in_order, methods, seed_agreement
from wpl_jax.reports.sections.section import Report
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.tasks import Evaluation

TAU = "Kendall's tau, CIFAR-10"


def rows_of(**values):
    """Rows of one measure: for each arm, a value for each seed."""
    return [
        Row(arm, seed, {TAU: value, "forgotten, nats": 0.5})
        for arm, of_seeds in values.items()
        for seed, value in of_seeds.items()
    ]


def test_interval_is_that_of_the_normal_distribution_for_many_seeds():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = interval_of(np.mean, values)
    margin = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert found.value == values.mean()
    assert found.low == pytest.approx(found.value - margin, abs=0.15 * margin)
    assert found.high == pytest.approx(found.value + margin, abs=0.15 * margin)


def test_one_seed_has_no_interval():
    found = interval_of(np.mean, np.array([3.0]))
    assert found.value == 3
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_differences_are_between_the_same_seeds():
    """A constant difference is certain, however much the seeds differ."""
    rows = rows_of(
        none={0: 0.1, 1: 0.9, 2: 0.5, 3: math.nan},
        wpl={0: 0.2, 1: 1.0, 2: 0.6, 3: 7.0, 9: 5.0},
        other={8: 0.3},
    )
    found = paired.compare(rows, TAU, "none")
    assert found["none"].more is None
    assert found["none"].mean.value == pytest.approx(0.5)
    assert found["none"].seeds == 3
    assert found["wpl"].seeds == 5
    np.testing.assert_allclose(found["wpl"].more, [0.1, 0.1, 0.1])
    assert found["other"].more is None
    assert paired.compare(rows, "another", "none") == {}


def test_rows_survive_their_file(tmp_path):
    rows = [
        Row("none", 0, {"a": 0.25, "b, c": math.nan}),
        Row("wpl, mine", 12, {"b, c": -3e-7}),
    ]
    path = tmp_path / measures.SEARCHES_FILE
    measures.write(path, rows)
    first, second = measures.read(path)
    assert (first.arm, first.seed, first.values["a"]) == ("none", 0, 0.25)
    assert math.isnan(first.values["b, c"])
    assert (second.arm, second.seed) == ("wpl, mine", 12)
    assert second.values["b, c"] == -3e-7
    assert math.isnan(second.values["a"])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets save it
    assert [row.arm for row in measures.read(path)] == ["none", "wpl, mine"]


@pytest.mark.parametrize(
    "text", ["", "a,b\n1,2\n", "arm,seed,x\nnone,1,many\n", "x" * 200_000]
)
def test_another_file_is_a_user_error(text, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"other\.csv is no searches\.csv"):
        measures.read(path)


# From what searches and a ranking have left.


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two arms over two seeds, whose scores are random."""
    space, rng = NasBench201((8, 8, 3), 10, 4, 1), np.random.default_rng(1)
    ranking = Ranking(architectures=40, truth=FromTable("cifar10", "test"))
    choices = ranking.choose(space)
    true = np.array(ranking.truth.of(space, choices, None))
    folder, ranked, arms = tmp_path_factory.mktemp("run"), {}, {}
    for arm, noise in (("none", 8.0), ("wpl", 1.0)):
        for seed in (0, 1):
            column = {
                "forgetting/loss_mean": 0.5 + seed,
                "forgetting/loss_best_mean": 0.25,
                "forgetting/loss_max": 2.0,
                "forgetting/error_mean": 3.0,
                "children/choices": choices[1:6].tolist(),
                "children/err1": true[1:6].tolist(),
                "children/err2": (-true[1:6]).tolist(),
            }
            results = {
                "architecture": [3] * 6,
                "error_name": "% error",
                "valid_error": 40.0,
            }
            one = Searched(arm, seed, space, [column], results, None)
            arms.setdefault(arm, []).append(one)
            errors = (true + noise * rng.normal(size=len(true))).astype(np.float32)
            losses = errors / 100 + 0.02 * rng.normal(size=len(true)).astype(np.float32)
            errors[0] = losses[0] = np.nan  # This one has exploded.
            ranked[one.folder] = Ranked(Evaluation(losses, errors), None, None, [])
    rank_files.write(folder, space, ranking, choices, true.tolist(), ranked)
    ranking_config = {"truth": "table", "table": {"split": "test"}}
    arms_config = {"none": {}, "wpl": {}}
    config = {"search": {}, "arms": arms_config, "ranking": ranking_config}
    ranks = rank_files.read_ranks(folder, list(ranked))
    return Report(folder, config, arms, "", None, ranks=ranks)


def test_a_row_has_the_order_and_the_selected_by_each_data_set(report):
    rows = measures.rows_of(report)
    assert [(row.arm, row.seed) for row in rows] == [
        *(("none", 0), ("none", 1), ("wpl", 0), ("wpl", 1)),
    ]
    table, values = nasbench201(), rows[3].values
    all_3x3 = 1462  # the benchmark's number
    assert values["accuracy, CIFAR-100"] == pytest.approx(
        table.columns["cifar100_test"][all_3x3]
    )
    lines = np.genfromtxt(
        report.workdir / rank_files.SCORES_FILE, delimiter=",", names=True, dtype=None
    )
    for name, column in (("", "error"), (" by the loss", "loss")):
        shared = lines[f"wplseed1_{column}"]
        there = np.isfinite(shared)
        assert there.sum() == 39
        expected = kendalltau(shared[there], lines["true_error"][there]).statistic
        assert values[f"Kendall's tau{name}, CIFAR-10"] == pytest.approx(expected)
    other = values["Kendall's tau, ImageNet16-120"]
    assert 0.3 < other < 1
    assert other != values["Kendall's tau, CIFAR-10"]
    assert values["Kendall's tau, err1"] == -values["Kendall's tau, err2"] == 1
    assert values["forgotten, nats"] == 1.5
    assert values["forgotten, % error"] == 3
    assert 0 <= values["P@top 8"] <= 1


def shown(section, report):
    page = Page("title", report.workdir)
    section.show(page, report)
    page.write(report.workdir / "page.html")
    return (report.workdir / "page.html").read_text()


def test_page_compares_the_arms(report):
    text = shown(methods.SECTION, report)
    assert "minus none" in text
    found = paired.compare(measures.rows_of(report), TAU, "none")
    assert found["wpl"].more.low > 0
    assert f"{paired.in_brackets(found['wpl'].more, '+')}*" in text
    assert (report.workdir / "figures" / "methods.png").stat().st_size > 1000
    axes = paired.scatter(measures.rows_of(report), "none").axes
    assert [ax.get_ylabel() for ax in axes] == [TAU, "accuracy, CIFAR-10"]
    points = axes[0].containers[1].lines[0].get_xydata()
    np.testing.assert_allclose(points, [[1.0, found["wpl"].mean.value]])


def test_page_says_what_the_order_favours(report):
    text = shown(choices_in_order.SECTION, report)
    assert "Which choices the order favours" in text
    ranks = report.ranks
    true = np.array(ranks["true_errors"])
    space = report.searches[0].space
    truth = choices_in_order.favour(
        space, np.array(ranks["choices"]), true, np.zeros_like(true)
    )
    for name, slope in truth.slopes.items():
        assert name in text
        assert f"{slope:.1f}" in text


def test_a_search_without_a_finite_score_has_no_order(report):
    """One that has diverged, or a table that knows none of its architectures."""
    one = report.ranks["searches"]["wpl-seed1"]
    nans = np.full(40, np.nan)
    metrics = {name: [None] * 3 for name in one["metrics"]}
    exploded = {**one, "errors": nans, "losses": nans, "metrics": metrics}
    searches = {**report.ranks["searches"], "wpl-seed1": exploded}
    ranking = {"truth": "table", "table": {"split": "valid"}}
    changed = report._replace(
        ranks={**report.ranks, "searches": searches},
        config={**report.config, "ranking": ranking},
    )
    values = measures.rows_of(changed)[3].values
    taus = [value for name, value in values.items() if name.startswith(TAU[:13])]
    assert len(taus) == 9
    assert np.isnan(taus[:-2]).all()
    measures.write(report.workdir / "exploded.csv", measures.rows_of(changed))
    for section in (choices_in_order.SECTION, seed_agreement.SECTION):
        assert "nan" in shown(section, changed)


def test_one_seed_is_not_compared(report, tmp_path):
    page = Page("title", tmp_path)
    arms = {arm: seeds[:1] for arm, seeds in report.arms.items()}
    methods.SECTION.show(page, report._replace(arms=arms))
    page.write(tmp_path / "page.html")
    assert "Methods compared" not in (tmp_path / "page.html").read_text()


def test_numbers_have_their_digits():
    assert paired.in_brackets(Interval(12.345, 12.0, 13.0)) == "12.35 [12.00, 13.00]"


def test_command_compares_arms_of_several_files(tmp_path, capsys):
    halves = [
        rows_of(none={0: 0.1, 1: 0.9}, wpl={0: 0.2, 1: 1.0}),
        rows_of(none={2: 0.5}, wpl={2: 0.6}),
    ]
    files = [tmp_path / f"half_{i}.csv" for i in range(2)]
    for path, rows in zip(files, halves, strict=True):
        measures.write(path, rows)
    arguments = [f"--out={tmp_path / 'out'}", *map(str, files)]
    compare.main(arguments)
    printed = capsys.readouterr().out
    assert "| wpl | +0.000 [+0.000, +0.000] | +0.100 [+0.100, +0.100]* |" in printed
    assert "| none | 3 | 0.500 [0.500, 0.500] | 0.500 [" in printed
    assert (tmp_path / "out" / "comparison.html").exists()
    assert "minus none" in (tmp_path / "out" / "comparison.md").read_text()
    compare.main([*arguments, "--main=wpl"])
    assert "| none | +0.000 [" in capsys.readouterr().out
    for wrong, said in (
        (["--main=ewc"], "no arm 'ewc'"),
        ([str(files[0])], "Seed 0 of 'none' is in two of the files"),
    ):
        with pytest.raises(SystemExit):
            compare.main([*arguments, *wrong])
        assert said in capsys.readouterr().err


# The order by one seed and by all.


def test_the_mean_of_seeds_is_free_of_chance():
    """Noise that seeds do not share averages out; a bias that they share stays."""
    rng = np.random.default_rng(0)
    true, bias = rng.normal(size=(2, 300))
    noise = 2.0 * rng.normal(size=(40, 300))
    scores = [Evaluation(each, np.zeros(300)) for each in true + noise]
    found = seed_agreement.agreement(true, scores)
    estimates = [each.loss for each in scores]
    expected = np.mean([kendalltau(true, each).statistic for each in estimates])
    assert found.single == pytest.approx(expected)
    assert found.joint > 0.75 > 0.4 > found.single > found.between
    joint = kendalltau(true, np.mean(estimates, 0)).statistic
    assert found.joint == pytest.approx(joint)
    first, second = estimates[:2]
    two = seed_agreement.agreement(true, scores[:2])
    assert two.between == pytest.approx(kendalltau(first, second).statistic)
    biased = [Evaluation(each.loss + 2 * bias, each.error) for each in scores]
    assert seed_agreement.agreement(true, biased).joint < 0.4


def test_page_has_the_order_by_all_seeds(report, tmp_path):
    page = Page("title", tmp_path)
    seed_agreement.SECTION.show(page, report)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<tr>") == 3  # of the header and of two arms


def test_a_row_has_the_order_by_another_truth_of_the_ranking(report):
    changed = {"ranking": {"truth": "table", "table": {"split": "valid"}}}
    row, *_ = measures.rows_of(report._replace(config=report.config | changed))
    own = "Kendall's tau, by NAS-Bench-201 on cifar10 (test)"
    assert own in row.values
    assert own not in measures.rows_of(report)[0].values
