"""The section on the selection."""

from helpers.toy import ToySpace

from wpl_jax.reports.page import Page
from wpl_jax.reports.sections import selection
from wpl_jax.reports.sections.section import Report
from wpl_jax.strategies.enas import Enas
from wpl_jax.strategies.random_search import RandomSearch
from wpl_jax.strategies.strategy import Candidates

SPACE = ToySpace()


def test_the_report_says_what_ranks_the_candidates(tmp_path):
    candidates = Candidates(proposed=20, screen_batches=3, keep=30, judge_batches=7)
    by_loss = Candidates(by="loss")
    strategies = {
        "enas": Enas(SPACE, candidates=candidates),
        "random": RandomSearch(SPACE),
        "by_loss": Enas(SPACE, candidates=by_loss),
    }
    report = Report(tmp_path, {}, {}, "data", None, strategies)
    page = Page("title", tmp_path)
    selection.SECTION.show(page, report)
    page.write(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<td>20, drawn from the controller</td>" in text
    assert "<td>all, on 3 batches</td><td>the best 20, on 7 batches</td>" in text
    assert "<td>1000, drawn at random</td>" in text
    assert "<td>the best 10, on all validation data</td><td>error</td>" in text
    assert "<td>the best 10, on all validation data</td><td>loss</td>" in text
