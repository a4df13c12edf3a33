"""The best architecture of each search, trained from scratch."""

import numpy as np

from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.section import Report, Section, spread


def _show(page: Page, report: Report) -> None:
    rows = []
    for arm, seeds in report.arms.items():
        found = [s.retrained for s in seeds if s.retrained]
        if found:
            errors = [
                spread([each[f"{split}_error"] for each in found], 2)
                for split in ("valid", "test")
            ]
            parameters = f"{np.mean([each['parameters'] for each in found]):,.0f}"
            rows.append((arm, *errors, parameters, str(len(found))))
    if not rows:
        return
    error = report.error_name
    page.heading("Trained from scratch")
    page.table(
        ("arm", f"validation {error}", f"test {error}", "parameters", "seeds"), rows
    )
    page.text(
        "The best architecture of each search, trained from scratch with the settings "
        "in config.retrain; ± the standard error over seeds. The test data was used "
        "for nothing else."
    )


SECTION = Section(_show)
