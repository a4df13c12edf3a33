"""The best architecture of each search, trained from scratch, beside baselines."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wpl_jax.reports.page import Page
from wpl_jax.reports.sections.section import Report, Section, spread

_METRICS = "test_metrics"
_Trained = Mapping[int, Mapping[str, Any]]  # what training from scratch gave, by seed


def _show(page: Page, report: Report) -> None:
    arms = {
        arm: {one.seed: one.retrained for one in seeds if one.retrained}
        for arm, seeds in report.arms.items()
    }
    baselines = _baselines(report)
    main, *_ = arms.values()
    metrics = _metrics([*arms.values(), *baselines.values()])
    error, name = report.error_name, next(iter(arms))
    rows = [
        (label, *_cells(found, main, metrics))
        for label, found in (*arms.items(), *baselines.items())
        if found
    ]
    if not rows:
        return
    page.heading("Trained from scratch")
    columns = [
        *("trained", f"validation {error}", f"test {error}"),
        *(f"test {metric}" for metric in metrics),
        *(f"test, minus {name}", "parameters", "seeds"),
    ]
    page.table(columns, rows)
    page.text(
        "The best architecture of each search, trained from scratch with the settings "
        "in config.retrain; ± the standard error over seeds. Differences are those of "
        "the same seed. The test data was used for nothing else."
    )
    if baselines:
        page.text(
            f"Baselines, which no search has found: {', '.join(baselines)}. They are "
            f"trained in the same way as the best architectures of {name}. Their width "
            "makes their number of parameters as close as possible to "
            f"{_target(report, name)}."
        )


def _baselines(report: Report) -> Mapping[str, _Trained]:
    """Of each baseline, what training it gave."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    for one in report.searches:
        for name, trained in one.baselines.items():
            found.setdefault(name, {})[one.seed] = trained
    return found


def _metrics(trained: Sequence[_Trained]) -> list[str]:
    """The names of the task's own metrics."""
    names = (
        name
        for of_seeds in trained
        for found in of_seeds.values()
        for name in found.get(_METRICS, {})
    )
    return list(dict.fromkeys(names))


def _target(report: Report, main: str) -> str:
    given = report.config.get("retrain", {}).get("baselines", {}).get("parameters")
    return f"{given:,}" if given else f"that of the architecture of {main} of a seed"


def _cells(found: _Trained, main: _Trained, metrics: Sequence[str]) -> tuple[str, ...]:
    """Errors, metrics, differences from the main arm, parameters, number of seeds."""
    errors = (
        spread([each[f"{split}_error"] for each in found.values()], 2)
        for split in ("valid", "test")
    )
    of_task = (_measured(found, metric) for metric in metrics)
    differences = [
        found[seed]["test_error"] - main[seed]["test_error"]
        for seed in found.keys() & main.keys()
    ]
    difference = ""
    if differences and found is not main:
        difference = spread(differences, 2)
    parameters = f"{np.mean([each['parameters'] for each in found.values()]):,.0f}"
    return (*errors, *of_task, difference, parameters, str(len(found)))


def _measured(found: _Trained, metric: str) -> str:
    """A metric with three digits; its unit and its size are not known."""
    values = [each.get(_METRICS, {}).get(metric) for each in found.values()]
    finite = [value for value in values if value is not None]
    if not finite:
        return ""
    largest = max(map(abs, finite)) or 1.0
    return spread(finite, max(0, 2 - math.floor(math.log10(largest))))


SECTION = Section(_show)
