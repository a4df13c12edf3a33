"""What the report is about: children, forgetting, penalties and the data."""

from collections.abc import Sequence

import numpy as np

from wpl_jax.common.counted import counted
from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.section import Report, Section, span
from wpl_jax.reports.sections.weight_entropy import WEIGHTS


def _show(page: Page, report: Report) -> None:
    measured = "err1 and err2 are its error then."
    if report.has_others:
        measured = (
            "err1 is a child's error right after its own training, err2 the same at "
            "the end of the epoch, after the others have been trained. The difference "
            "err2 - err1 is what was forgotten; below 0, the other children's training "
            "has helped."
        )
    page.text(
        "Many candidate architectures, the children, share one set of weights. That "
        "is cheap, but training one child changes weights that others use, and they "
        "forget. A search compares children by their errors with the shared weights, "
        "so forgetting can make the comparison wrong.",
        f"Each epoch trains {_children(report)}. {measured}",
    )
    by_gradients = [arm for arm, *_ in report.recording(WEIGHTS)]
    if by_gradients:
        page.text(
            f"Gradients train architecture weights{_in(by_gradients, report)}. There "
            "a child is a mixture of all choices with these weights, or an "
            "architecture drawn with them. It is evaluated as it was on the last of "
            "its batches. The derived architecture has the choice with the largest "
            "weight in each decision."
        )
    if any(np.any(one.curve("penalty/alpha")) for one in report.searches):
        start = report.start_epoch
        when = "" if start is None else f"It is on from epoch {start + 1}. "
        page.text(
            "The Weight Plasticity Loss (WPL; Benyahia et al., ICML 2019) pulls each "
            "shared weight to the value that it had after the previous child, in "
            f"proportion to its Fisher information. {when}L2 is the same pull for all "
            "weights; EWC (Elastic Weight Consolidation) adds up a pull for each "
            "earlier child."
        )
    batches = span(report.of_search("eval_batches"))
    page.text(
        f"Data: {report.about}. Errors: {report.error_name} on "
        f"{counted(batches, 'validation batch', 'validation batches')}, "
        "without dropout. "
        f"{counted(len({one.seed for one in report.searches}), 'seed')}."
    )


def _in(arms: Sequence[str], report: Report) -> str:
    """Which of the arms, unless it is all of them."""
    if len(arms) == len(report.arms):
        return ""
    return f" in the {'arm' if len(arms) == 1 else 'arms'} {', '.join(arms)}"


def _children(report: Report) -> str:
    """How many an epoch trains, and on how many batches."""
    counts = {len(one.curve("children/err1")[0]) for one in report.searches}
    batches = counted(span(report.of_search("batches")), "batch", "batches")
    if counts == {1}:
        return f"one child on {batches}"
    return f"{span(counts)} children, one after the other, on {batches} each"


SECTION = Section(_show)
