"""What the report is about: children, forgetting, penalties and the data."""

from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.section import Report, Section


def _show(page: Page, report: Report) -> None:
    settings, start = report.config["search"], report.start_epoch
    when = "" if start is None else f"It is on from epoch {start + 1}. "
    page.text(
        "One set of shared weights trains many candidate architectures, the children. "
        "That is cheap, and has a price: training one child changes weights that "
        "others use, and they forget. A search that ranks children by what the shared "
        "weights make of them then ranks them wrongly.",
        f"Each epoch trains {settings['children']} children, one after the other, on "
        f"{settings['batches']} batches each. err1 is a child's error right after its "
        "own training, err2 the same at the end of the epoch, after the others have "
        "been trained. The difference err2 - err1 is what was forgotten; below 0, the "
        "other children's training has helped.",
        "The Weight Plasticity Loss (WPL; Benyahia et al., ICML 2019) pulls each "
        "shared weight back to where the children before left it, in proportion to "
        f"its Fisher information. {when}L2 is the same pull for all "
        "weights; EWC (Elastic Weight Consolidation) adds up a pull for each earlier "
        "child.",
        f"Data: {report.about}. Errors: {report.error_name} "
        f"on {settings['eval_batches']} validation batches, without dropout. "
        f"{len({one.seed for one in report.searches})} seed(s).",
    )


SECTION = Section(_show)
