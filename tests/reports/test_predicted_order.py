"""The section on a predictor, on records by hand."""

import json

import numpy as np
import pytest
import scipy.stats
from helpers.toy import ToySpace

from wpl_jax.errors import UserError
from wpl_jax.evaluation.table import nasbench201
from wpl_jax.evaluation.truth_from_table import FromTable
from wpl_jax.reports import search_report
from wpl_jax.reports.page import Page
from wpl_jax.reports.sections import forgetting, predicted_order
from wpl_jax.reports.sections.section import Report
from wpl_jax.spaces.nasbench201 import NasBench201

SPACE = NasBench201((8, 8, 3), 10, 4, 1, exclude_none=True)
EPOCHS = 4
HELD_OUT = [[2, 2, 0, 0, 2, 2], [0] * 6, [1] * 6, [2] * 6, [3] * 6]
# After the second and the fourth epoch there is a round.
PREDICTED = (None, [0.1, 0.2, 0.3, 0.4, 0.5], [0.5, 0.4, 0.3, 0.2, 0.6])
MEASURED = (None, [0.2, 0.1, 0.4, 0.3, None], [0.9, 0.1, 0.2, 0.3, 0.05])
ROUNDS = (0, 1, 1, 2)


def write_search(folder, space=SPACE, held_out=HELD_OUT):
    folder.mkdir(parents=True)
    columns = forgetting.SECTION.columns.of_all(space)
    lines = []
    for epoch, number in enumerate(ROUNDS):
        record = dict.fromkeys(columns, 0.5) | {
            "step": epoch,
            "children/error": 60.0,
            "children/reward": 0.5,
            "children/best": held_out[0],
            "children/err1": [1.0],
            "children/err2": [2.0],
            "strategy/rounds": number,
            "strategy/held_out": held_out,
            "strategy/predicted": PREDICTED[number] or [None] * 5,
            "strategy/measured": MEASURED[number] or [None] * 5,
        }
        lines.append(json.dumps(record) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    results = {
        "architecture": held_out[0],
        "error_name": "error %",
        "valid_error": 40.0,
        "valid_loss": 1.0,
    }
    (folder / "results.json").write_text(json.dumps(results))
    return search_report.read(folder, "nao", 0, space, EPOCHS)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return write_search(tmp_path_factory.mktemp("nao") / "seed0")


def tau(a, b):
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if None not in (x, y)]
    return scipy.stats.kendalltau(*zip(*pairs, strict=True)).statistic


def test_taus_are_of_each_round_by_measurements_and_by_the_table(one):
    found = predicted_order.taus(one, FromTable("cifar10", "test"))
    table = nasbench201()
    true = table.values("cifar10_test", np.array(HELD_OUT) + 1).tolist()
    for place, number in enumerate((1, 2)):
        predicted, measured = PREDICTED[number], MEASURED[number]
        known = [
            t if m is not None else None for t, m in zip(true, measured, strict=True)
        ]
        expected = (
            tau(predicted, measured),
            tau(predicted, known),
            tau(measured, true),
        )
        np.testing.assert_allclose([each[place] for each in found], expected)
    without = predicted_order.taus(one, None)
    np.testing.assert_allclose(without.measured, found.measured)
    assert np.isnan([without.predicted_true, without.measured_true]).all()


def page_of(section, report, folder):
    page = Page("title", folder)
    section.show(page, report)
    page.write(folder / "page.html")
    return (folder / "page.html").read_text()


def test_the_section_has_the_last_round(one, tmp_path):
    config = {"arms": {}, "ranking": {"truth": "table"}}
    report = Report(tmp_path, config, {"nao": [one]}, "data", None)
    text = page_of(predicted_order.SECTION, report, tmp_path)
    found = predicted_order.taus(one, FromTable("cifar10", "test"))
    for values in found:
        assert f"<td>{values[-1]:.3f}</td>" in text
    assert "<th>predicted, table</th>" in text
    assert (tmp_path / "figures" / "predictor.svg").exists()


def test_without_a_table_the_section_compares_with_measurements(tmp_path):
    toy = write_search(
        tmp_path / "toy", ToySpace(), [[0, 0], [1, 0], [2, 0], [0, 1], [0, 2]]
    )
    report = Report(tmp_path, {"arms": {}}, {"nao": [toy]}, "data", None)
    text = page_of(predicted_order.SECTION, report, tmp_path)
    assert f"<td>{tau(PREDICTED[2], MEASURED[2]):.3f}</td>" in text
    assert "table</th>" not in text


def test_a_search_without_a_predictor_or_a_round_has_no_section(one, tmp_path):
    early = one._replace(metrics=one.metrics[:1])
    plain = one._replace(metrics=[{"children/best": HELD_OUT[0]}])
    for each in (early, plain):
        report = Report(tmp_path, {"arms": {}}, {"nao": [each]}, "data", None)
        assert "predictor" not in page_of(predicted_order.SECTION, report, tmp_path)


def test_damaged_records_are_named(tmp_path):
    with pytest.raises(UserError, match="held_out"):
        write_search(tmp_path / "wrong", held_out=[HELD_OUT[0], [9] * 6])
