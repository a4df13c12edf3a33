"""What ranks the candidates for the best architecture of each arm."""

from wpl_jax.common.counted import counted
from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.section import Report, Section


def _show(page: Page, report: Report) -> None:
    if not report.strategies:
        return
    page.heading("What ranks the candidates")
    rows = []
    for arm, strategy in report.strategies.items():
        settings = strategy.candidates
        kept = min(settings.keep, settings.proposed)
        rows.append(
            (
                arm,
                f"{settings.proposed}, {strategy.candidates_are}",
                f"all, {_on(settings.screen_batches)}",
                f"the best {kept}, {_on(settings.judge_batches)}",
                settings.by,
            )
        )
    page.table(("arm", "candidates", "screened", "judged", "by"), rows)
    page.text(
        "After the last epoch, candidates are ranked by their validation error or loss "
        "with the shared weights, first on few batches, and the best of them again on "
        "more. The best of these is the result. Training from scratch and tables take "
        "no part in the selection."
    )


def _on(batches: int | None) -> str:
    if batches is None:
        return "on all validation data"
    return f"on {counted(batches, 'batch', 'batches')}"


SECTION = Section(_show)
