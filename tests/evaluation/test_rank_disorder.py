"""Shared weights against training from scratch, on a task whose errors one knows."""

import itertools
import json
import re
import shutil

import jax
import numpy as np
import pytest
from helpers import toy
from ml_collections import ConfigDict

from wpl_jax.common.settings import SettingError
from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import rank_files, retrain, table
from wpl_jax.evaluation.rank_disorder import Ranking, correlation, estimate_of, measure
from wpl_jax.evaluation.rank_files import Ranked
from wpl_jax.evaluation.truth import FromScratch, RandomSearch
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.arms import restore
from wpl_jax.jobs.expand import expand
from wpl_jax.jobs.ranking import check_arms
from wpl_jax.jobs.search_config import make_search
from wpl_jax.reports import search_report
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.share import Share
from wpl_jax.spaces.nasbench201 import NasBench201
from wpl_jax.tasks import Evaluation


def tau_b(x, y):
    """By its definition, pair by pair."""
    agree = ties_x = ties_y = 0
    pairs = list(itertools.combinations(range(len(x)), 2))
    for i, j in pairs:
        a, b = np.sign(x[i] - x[j]), np.sign(y[i] - y[j])
        agree += a * b
        ties_x += a == 0
        ties_y += b == 0
    return agree / np.sqrt((len(pairs) - ties_x) * (len(pairs) - ties_y))


def test_the_interval_is_the_textbooks():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30).round(1)
    y = (x + rng.normal(size=30)).round(1)
    found = correlation(x, y)
    assert found.value == pytest.approx(tau_b(x, y), abs=1e-6)
    z, spread = np.arctanh(found.value), 1.959964 * (0.437 / 26) ** 0.5
    assert found.low == pytest.approx(np.tanh(z - spread), abs=1e-4)
    assert found.high == pytest.approx(np.tanh(z + spread), abs=1e-4)
    # Its promise: of samples of one population, 95 % hold the population's tau.
    held, tau = 0, 2 / np.pi * np.arcsin(0.6)
    for _ in range(300):
        a = rng.normal(size=30)
        low, high = correlation(a, 0.6 * a + 0.8 * rng.normal(size=30))[1:]
        held += low < tau < high
    assert 0.9 < held / 300 < 0.99


def test_what_is_not_finite_is_left_out_and_too_little_is_no_correlation():
    x, y = [1.0, 2, 3, 4, 5, np.nan, 7], [1.0, 2, 3, 5, 4, 0, np.inf]
    assert correlation(x, y).value == pytest.approx(0.8)
    assert np.all(np.isnan(correlation(x[1:], y[1:])))
    perfect = correlation(range(6), range(6))
    assert perfect.value == pytest.approx(1, abs=1e-6)
    assert perfect.high <= 1


def test_architectures_are_ordered_by_the_error_then_by_the_loss():
    loss = np.array([3.0, 1.0, 2.0, 2.0, np.nan, 5.0], np.float32)
    error = np.array([10.0, 20.0, 10.0, 10.0, 10.0, np.inf], np.float32)
    found = estimate_of(Evaluation(loss, error))
    assert found[2] == found[3] < found[0] < found[1]
    assert np.isnan(found[4:]).all()


def test_metrics_are_of_what_is_finite():
    rng = np.random.default_rng(0)
    true = np.append(rng.normal(size=20), [np.nan, 0.0])
    estimate = np.append(true[:20] + rng.normal(size=20), [0.0, np.inf])
    found = measure(true, estimate, 0.2, 100)
    tau = found["Kendall's tau"]
    assert tau == pytest.approx(correlation(estimate, true))
    best = np.argsort(estimate[:20])[:4]  # a fifth of all 22
    truly = set(np.argsort(true[:20])[:4])
    assert found["P@top 4"].value == len(truly & set(best)) / 4
    assert found["regret"].value == pytest.approx(true[best[0]] - true[:20].min())
    assert measure(true[-6:], estimate[-6:], 0.2, 100) == {}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of the toy; tests may not write to it."""
    workdir = tmp_path_factory.mktemp("toy") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search_report, "write", lambda *args: None)
        jobs.run(make_config(), workdir, "run")
    return workdir


def make_config():
    config = toy.get_config()
    config.strategy.name = "random"
    config.ranking.update({"architectures": 5, "block": 2, "bootstrap": 50})
    config.ranking.from_scratch.epochs = 2
    config.retrain.epochs = 0
    return config


def error_of(params, architecture):
    """Of the toy's validation data, in numpy."""
    a, b = architecture
    y = params["shared"] + 2 * params["a"][a] + 3 * params["b"][b]
    data = np.asarray(toy.make_data().valid, np.float64).reshape(-1, toy.SIZE)
    return np.sqrt(np.sum((y - data) ** 2, -1).mean())


@pytest.mark.slow
def test_shares_rank_by_shared_weights_and_from_scratch(
    finished, tmp_path, monkeypatch, capsys
):
    """Each in a folder of its own, of which the report is one."""
    workdir, trained = tmp_path / "run", []
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, other in ((first, "none-seed0"), (second, "wpl-seed0")):
        shutil.copytree(finished, folder)
        shutil.rmtree(folder / "searches" / other)
    run = retrain.run

    def stops_once(*args, **options):
        trained.append(args[2].tolist())
        if len(trained) == 3:
            raise SystemExit(143)
        return run(*args, **options)

    monkeypatch.setattr(retrain, "run", stops_once)
    with pytest.raises(SystemExit):
        jobs.run(make_config(), first, "rank", Machine(share=Share(1, 2)))
    jobs.run(make_config(), first, "rank", Machine(share=Share(1, 2)))
    assert "1 of 2 searches are not ranked" in capsys.readouterr().out
    joined = Machine(joined=(first, second))
    jobs.run(make_config(), workdir, "report", joined)
    assert "1 of 2 searches are not ranked: none-seed0" in capsys.readouterr().out
    assert "Rank disorder" not in (workdir / "report.html").read_text()
    jobs.run(make_config(), second, "rank", Machine(share=Share(2, 2)))
    jobs.run(make_config(), workdir, "report", joined)
    scores = table.read(workdir / "rank_disorder.csv")
    architectures = scores.choices.tolist()
    # What had been trained was not trained again; the other share trained the rest.
    odd, even = architectures[::2], architectures[1::2]
    assert trained == [*odd, odd[2], *even]
    for number, (architecture, error) in enumerate(
        zip(architectures, scores.values("true_error"), strict=True), 1
    ):
        folder = (second, first)[number % 2] / "ranking" / f"architecture_{number}"
        retrained = json.loads((folder / "retrained.json").read_text())
        assert retrained["architecture"] == architecture
        assert retrained["valid_error"] == pytest.approx(error, rel=1e-8)
        assert "test_error" not in retrained
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
        assert not (folder / "checkpoints").exists()
    found = json.loads((workdir / "rank_disorder.json").read_text())
    runs = expand(make_config())
    assert set(found["searches"]) == {each.folder(workdir).name for each in runs}
    for each in runs:
        search, _, _ = make_search(each.config)
        where = first if each.arm == "wpl" else second
        state = restore(search, each, each.folder(where))
        params = jax.tree.map(np.float64, state.shared.params)
        expected = np.array([error_of(params, a) for a in architectures])
        name = each.folder(workdir).name
        np.testing.assert_allclose(scores.values(f"{name}_error"), expected, rtol=1e-5)
        losses = scores.values(f"{name}_loss")
        np.testing.assert_allclose(losses, expected**2 / 2, rtol=1e-5)
        assert found["searches"][name]["seconds"] > 0
        assert found["searches"][name]["selected"] is None
    page = (workdir / "report.html").read_text()
    assert "Rank disorder" in page
    (second / "ranking" / "architecture_2" / "retrained.json").unlink()
    with pytest.raises(UserError, match="1 of 5 architectures have not been trained"):
        jobs.run(make_config(), workdir, "report", joined)
    # Of five architectures one is on top: the best by the shared weights.
    shared, true = scores.values("wpl-seed0_error"), scores.values("true_error")
    tau, best = correlation(shared, true), shared.argmin()
    rank = (1 + np.sum(true < true[best])) / 5
    metrics = found["searches"]["wpl-seed0"]["metrics"]
    assert metrics["Kendall's tau"] == pytest.approx(list(tau))
    assert metrics["P@top 1"][0] == (rank == 0.2)
    assert metrics["BR@1"][0] == pytest.approx(rank)
    assert metrics["regret"][0] == pytest.approx(true[best] - true.min())
    row = re.search("<td>wpl-seed0</td>(.*?)</tr>", page, re.DOTALL).group(1)
    cells = re.findall("<td>(.*?)</td>", row)
    assert len(cells) == len(metrics)
    assert cells[0] == f"{tau.value:.2f} ({tau.low:.2f} to {tau.high:.2f})"


@pytest.mark.slow
def test_a_truth_of_ones_own_needs_no_training(tmp_path):
    workdir, config = tmp_path / "run", make_config()
    config.search.epochs, config.arms = 1, ConfigDict({"none": {}})
    config.main_arm = "none"
    config.ranking = ConfigDict({"which": "all", "truth": "helpers.outside:Table"})
    jobs.run(config, workdir, "run")
    jobs.run(config, workdir, "rank")
    found = rank_files.read_ranks(workdir, ["none-seed0"])
    assert found["truth"] == "by a table"
    scores = table.read(workdir / "rank_disorder.csv")
    assert scores.choices.tolist() == [[a, b] for a in range(3) for b in range(3)]
    expected = scores.choices.sum(1) + 0.5
    np.testing.assert_array_equal(found["true_errors"], expected)
    best = json.loads((workdir / "searches/none-seed0/results.json").read_text())
    error = sum(best["architecture"]) + 0.5
    assert found["searches"]["none-seed0"]["selected"] == {
        "error": error,
        "regret": error - 0.5,
        "better": np.mean(expected < error),
    }
    assert not (workdir / "ranking").exists()
    assert "by a table" in (workdir / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architectures", 4),
        ("architectures", 10_001),
        ("which", "some"),
        ("batches", 6),
        ("top", 0.6),
        ("from_scratch.epochs", 0),
        ("from_scratch.epochs", None),
        ("truth", "nobody"),
    ],
)
def test_a_wrong_field_is_named(name, value, tmp_path):
    config = make_config()
    with config.ignore_type():
        config.update_from_flattened_dict({f"ranking.{name}": value})
    with pytest.raises(ConfigError, match=rf"config\.ranking\.{name}"):
        jobs.run(config, tmp_path / "run", "run")


def test_of_each_isomorphism_class_one_can_be_trained():
    space = NasBench201((8, 8, 3), 10)
    Ranking(which="classes", truth=FromScratch(1)).check(space)
    with pytest.raises(SettingError, match=r"which is 'all'.* these are 15,625"):
        Ranking(which="all", truth=FromScratch(1)).check(space)


SCORES = Evaluation(
    np.array([np.inf, 1, 2, 3, 4, 5]), np.array([np.nan, 1, 2, 3, 4, 5])
)


def write(folder, searches):
    choices = np.array([[a, b] for a in range(2) for b in range(3)], np.int32)
    ranking = Ranking(truth=FromScratch(7), bootstrap=10)
    true = [np.nan, 2, 3, 4, 5, 6.0]
    rank_files.write(folder, toy.ToySpace(), ranking, choices, true, searches)


def test_arms_with_other_decisions_are_refused():
    """The same numbers would be other architectures."""

    class Fewer(toy.ToySpace):
        decisions = toy.ToySpace.decisions[:1]

    check_arms({"a": toy.ToySpace(), "b": toy.ToySpace()})
    with pytest.raises(ConfigError, match=r"config\.arms\.b has other decisions"):
        check_arms({"a": toy.ToySpace(), "b": Fewer()})


def test_what_is_written_has_null_for_what_is_not_finite(tmp_path):
    random = RandomSearch(None, None, None, float("inf"), float("inf"))
    write(tmp_path, {"a": Ranked(SCORES, 2.5, None, [random])})
    found = rank_files.read_ranks(tmp_path, ["a"])
    np.testing.assert_array_equal(found["true_errors"], [np.nan, 2, 3, 4, 5, 6])
    np.testing.assert_array_equal(
        found["searches"]["a"]["errors"], [np.nan, 1, 2, 3, 4, 5]
    )
    assert found["truth"] == "trained from scratch for 7 epochs"
    assert found["searches"]["a"]["selected"] == {
        "error": 2.5,
        "regret": 0.5,
        "better": 0.2,
    }
    assert set(found["searches"]["a"]["random_search"][0].values()) == {None}
    write(tmp_path, {"a": Ranked(SCORES, np.nan, None, [])})
    assert rank_files.read_ranks(tmp_path, ["a"])["searches"]["a"]["selected"] is None
    # All children of the toy have the same number of parameters.
    metrics = found["without_search"]["number of parameters"]
    assert metrics["Kendall's tau"] == [None] * 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"truth": None}, "the field 'truth' is missing"),
        ({"truth": 3}, "the field 'truth' is 3, expected a text"),
        ({"searches": [1]}, "the field 'searches' is [1], expected an object"),
        ({"searches": {}}, "in the field 'searches', the field 'a' is missing"),
        ({"searches": {"a": {}}}, "in 'a', the field 'metrics' is missing"),
        ({"without_search": {"b": {"tau": 3}}}, "metrics of 'b', the field 'tau' is 3"),
    ],
)
def test_damaged_ranks_are_named(change, said, tmp_path):
    path = tmp_path / "rank_disorder.json"
    assert rank_files.read_ranks(tmp_path, ["a"]) is None
    write(tmp_path, {"a": Ranked(SCORES, None, 3.0, [])})
    changed = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))
    with pytest.raises(UserError) as caught:
        rank_files.read_ranks(tmp_path, ["a"])
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert said in str(caught.value)
    assert "--mode=rank, which makes it anew" in str(caught.value)


@pytest.mark.parametrize("change", ["a_error", "true_error", "3"])
def test_damaged_scores_are_named(change, tmp_path):
    write(tmp_path, {"a": Ranked(SCORES, None, 3.0, [])})
    path = tmp_path / "rank_disorder.csv"
    path.write_text(path.read_text().replace(change, "x,", 1))
    with pytest.raises(UserError, match=f"{path} is damaged"):
        rank_files.read_ranks(tmp_path, ["a"])
