"""The arms of a run as methods that are compared over the same seeds."""

from wpl_jax.reports import measures, paired
from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.section import Report, Section


def _show(page: Page, report: Report) -> None:
    """The file always; tables where several seeds have more than forgetting."""
    rows = measures.rows_of(report)
    measures.write(report.workdir / measures.SEARCHES_FILE, rows)
    several = len(report.arms) > 1 and len({row.seed for row in rows}) > 1
    names = (measures.TAU, measures.ACCURACY)
    if not several or not any(n.startswith(names) for n in paired.measures_of(rows)):
        return
    page.heading("Methods compared")
    paired.add(page, rows, next(iter(report.arms)))
    page.text(f"{measures.SEARCHES_FILE} has the values of each search.")


SECTION = Section(_show)
