"""The table of what was trained from scratch, against means and errors by hand."""

import re

import pytest

from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import Searched
from wpl_jax.reports.sections import from_scratch
from wpl_jax.reports.sections.section import Report


def trained(valid, test, parameters):
    return {"valid_error": valid, "test_error": test, "parameters": parameters}


def searched(arm, seed, retrained, **baselines):
    results = {"error_name": "ppl"}
    return Searched(arm, seed, None, [], results, retrained, None, baselines)


ARMS = {
    "wpl": [
        searched(
            *("wpl", 0, trained(60.0, 50.0, 1000)),
            lstm=trained(58.0, 49.0, 1010),
            gru=trained(70.0, 61.0, 990),
        ),
        searched("wpl", 1, trained(62.0, 54.0, 1100), lstm=trained(59.0, 51.0, 1090)),
    ],
    "none": [
        searched("none", 0, None),
        searched("none", 1, trained(61.0, 52.0, 900)),
    ],
}


def show(folder, arms, **baselines):
    page = Page("Report", folder)
    config = {"retrain": {"baselines": baselines}}
    from_scratch.SECTION.show(page, Report(folder, config, arms, "", None))
    page.write(folder / "report.html")
    text = (folder / "report.html").read_text()
    rows = re.findall("<tr>(.*?)</tr>", text, re.DOTALL)
    return [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows], text


def test_baselines_are_below_the_arms_with_differences_of_the_same_seed(tmp_path):
    rows, text = show(tmp_path, ARMS)
    columns = ["validation ppl", "test ppl", "test, minus wpl", "parameters", "seeds"]
    assert rows == [
        ["trained", *columns],
        ["wpl", "61.00 ± 1.00", "52.00 ± 2.00", "", "1,050", "2"],
        ["none", "61.00", "52.00", "-2.00", "900", "1"],
        ["lstm", "58.50 ± 0.50", "50.00 ± 1.00", "-2.00 ± 1.00", "1,050", "2"],
        ["gru", "70.00", "61.00", "11.00", "990", "1"],
    ]
    words = " ".join(text.split())
    assert "Baselines, which no search has found: lstm, gru." in words
    assert "as close as possible to that of the architecture of wpl of a seed" in words


def test_the_metrics_of_a_task_are_columns(tmp_path):
    def measured(test, **metrics):
        return trained(60.0, test, 1000) | {"test_metrics": metrics}

    arms = {
        "wpl": [
            searched("wpl", 0, measured(1.0, MAE=0.0125, calls=1000.0)),
            searched("wpl", 1, measured(3.0, MAE=0.0135, calls=None)),  # not finite
        ],
        "none": [searched("none", 0, trained(61.0, 52.0, 900))],
    }
    (header, *rows), _ = show(tmp_path, arms)
    assert header[2:5] == ["test ppl", "test MAE", "test calls"]
    assert [row[3:5] for row in rows] == [
        ["0.0130 ± 0.0005", "1000"],
        ["", ""],
    ]


@pytest.mark.parametrize("given", [None, 12_345])
def test_a_given_number_of_parameters_is_named(given, tmp_path):
    _, text = show(tmp_path, ARMS, parameters=given)
    assert ("12,345" in text) == (given is not None)


def test_there_is_nothing_about_baselines_without_any(tmp_path):
    _, text = show(tmp_path, {"none": ARMS["none"]})
    assert "Trained from scratch" in text
    assert "Baselines" not in text
    _, text = show(tmp_path, {"none": ARMS["none"][:1]})
    assert "Trained from scratch" not in text
