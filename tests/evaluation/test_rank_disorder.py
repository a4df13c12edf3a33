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

from wpl_jax.errors import ConfigError, UserError
from wpl_jax.evaluation import rank_disorder, retrain
from wpl_jax.evaluation.rank_disorder import correlation, draw
from wpl_jax.evaluation.truth import FromScratch
from wpl_jax.jobs import registry as jobs
from wpl_jax.jobs.arms import restore
from wpl_jax.jobs.search_config import expand, make_search
from wpl_jax.reports import search_report


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
    assert found.tau == pytest.approx(tau_b(x, y), abs=1e-6)
    z, spread = np.arctanh(found.tau), 1.959964 * (0.437 / 26) ** 0.5
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
    assert correlation(x, y).tau == pytest.approx(0.8)
    assert np.all(np.isnan(correlation(x[1:], y[1:])))
    perfect = correlation(range(6), range(6))
    assert perfect.tau == pytest.approx(1, abs=1e-6)
    assert perfect.high <= 1


def test_the_architectures_are_random_and_always_the_same():
    space = toy.ToySpace()
    found = draw(200, space)
    np.testing.assert_array_equal(found[:7], draw(200, space)[:7])
    counts = np.bincount(3 * found[:, 0] + found[:, 1], minlength=9)
    assert len(counts) == 9
    assert np.all(counts > 8)  # 22 expected


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
    config.ranking.architectures, config.ranking.from_scratch.epochs = 5, 2
    config.retrain.epochs = 0
    return config


def error_of(params, architecture):
    """Of the toy's validation data, in numpy."""
    a, b = architecture
    y = params["shared"] + 2 * params["a"][a] + 3 * params["b"][b]
    data = np.asarray(toy.make_data().valid, np.float64).reshape(-1, toy.SIZE)
    return np.sqrt(np.sum((y - data) ** 2, -1).mean())


def test_the_mode_ranks_by_shared_weights_and_from_scratch(
    finished, tmp_path, monkeypatch
):
    workdir, trained = tmp_path / "run", []
    shutil.copytree(finished, workdir)
    run = retrain.run

    def stops_once(*args, **options):
        trained.append(args[2].tolist())
        if len(trained) == 3:
            raise SystemExit(143)
        return run(*args, **options)

    monkeypatch.setattr(retrain, "run", stops_once)
    with pytest.raises(SystemExit):
        jobs.run(make_config(), workdir, "rank")
    jobs.run(make_config(), workdir, "rank")
    found = json.loads((workdir / "rank_disorder.json").read_text())
    architectures = found["architectures"]
    # What had been trained was not trained again.
    assert trained == [*architectures[:3], *architectures[2:]]
    for number, (architecture, error) in enumerate(
        zip(architectures, found["true_errors"], strict=True), 1
    ):
        folder = workdir / "ranking" / f"architecture_{number}"
        retrained = json.loads((folder / "retrained.json").read_text())
        assert retrained["architecture"] == architecture
        assert retrained["valid_error"] == error
        assert "test_error" not in retrained
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
        assert not (folder / "checkpoints").exists()
    runs = expand(make_config())
    assert set(found["shared"]) == {each.folder(workdir).name for each in runs}
    for each in runs:
        search, _, _ = make_search(each.config)
        state = restore(search, each, each.folder(workdir))
        params = jax.tree.map(np.float64, state.shared.params)
        expected = [error_of(params, a) for a in architectures]
        np.testing.assert_allclose(
            found["shared"][each.folder(workdir).name], expected, rtol=1e-5
        )
    page = (workdir / "report.html").read_text()
    assert "Rank disorder" in page
    tau = correlation(found["shared"]["wpl-seed0"], found["true_errors"])
    assert f"<td>{tau.tau:.2f}</td>" in page
    # Of five architectures one is on top: the best by the shared weights.
    shared, true = (
        np.array(found["shared"]["wpl-seed0"]),
        np.array(found["true_errors"]),
    )
    best = shared.argmin()
    rank = (1 + np.sum(true < true[best])) / 5
    cells = (
        *(f"{tau.low:.2f} to {tau.high:.2f}", f"{rank == 0.2:.2f}", f"{rank:.2f}"),
        f"{true[best] - true.min():.2f}",
    )
    row = re.search(f"<td>{cells[0]}</td>.*?</tr>", page, re.DOTALL).group()
    assert re.findall("<td>(.*?)</td>", row) == list(cells)


def test_a_truth_of_ones_own_needs_no_training(tmp_path):
    workdir, config = tmp_path / "run", make_config()
    config.search.epochs, config.arms = 1, ConfigDict({"none": {}})
    config.main_arm = "none"
    config.ranking = ConfigDict({"architectures": 6, "truth": "helpers.outside:Table"})
    jobs.run(config, workdir, "run")
    jobs.run(config, workdir, "rank")
    found = json.loads((workdir / "rank_disorder.json").read_text())
    assert found["truth"] == "by a table"
    expected = [sum(choice) + 0.5 for choice in found["architectures"]]
    assert found["true_errors"] == expected
    assert not (workdir / "ranking").exists()
    assert "by a table" in (workdir / "report.html").read_text()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("architectures", 4),
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
        jobs.run(config, tmp_path / "run", "rank")


def test_what_is_written_has_null_for_what_is_not_finite(tmp_path):
    architectures = np.zeros((2, 2), int)
    shared = {"a": [np.inf, 1.0]}
    rank_disorder.write(tmp_path, architectures, FromScratch(7), [np.nan, 2.0], shared)
    found = json.loads((tmp_path / "rank_disorder.json").read_text())
    assert found["true_errors"] == [None, 2.0]
    assert found["truth"] == "trained from scratch for 7 epochs"
    assert found["shared"] == {"a": [None, 1.0]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"true_errors": None}, "the field 'true_errors' is missing"),
        ({"true_errors": 3}, "'true_errors' is 3, expected a list of numbers or"),
        ({"truth": 3}, "the field 'truth' is 3, expected a text"),
        ({"shared": [1]}, "the field 'shared' is [1], expected an object"),
        ({"shared": {}}, "in the field 'shared', the field 'wpl-seed0' is missing"),
        ({"shared": {"wpl-seed0": [1.0]}}, "expected a list of 2 numbers or nulls"),
    ],
)
def test_damaged_ranks_are_named(change, said, tmp_path):
    path = tmp_path / "rank_disorder.json"
    good = {"truth": "read", "true_errors": [1.0, None]}
    good |= {"shared": {"wpl-seed0": [2.0, 3.0]}}
    names = ["wpl-seed0"]
    assert rank_disorder.read_ranks(tmp_path, names) is None
    path.write_text(json.dumps(good))
    assert rank_disorder.read_ranks(tmp_path, names) == good
    changed = good | change
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))
    with pytest.raises(UserError) as caught:
        rank_disorder.read_ranks(tmp_path, names)
    assert str(caught.value).startswith(f"{path} is damaged: ")
    assert said in str(caught.value)
    assert "--mode=rank, which makes it anew" in str(caught.value)
