"""The order of random architectures by the shared weights against their true order."""

import numpy as np

from wpl_jax.evaluation import ranking_metrics
from wpl_jax.evaluation.rank_disorder import correlation, read_ranks
from wpl_jax.reports.page import Page, new_figure
from wpl_jax.reports.sections.section import Report, Section


def _show(page: Page, report: Report) -> None:
    found = read_ranks(report.workdir, [one.folder for one in report.searches])
    if found is None:  # --mode=rank writes it.
        return
    true_errors = np.array(found["true_errors"], float)
    error = report.error_name
    page.heading("Rank disorder")
    figure = new_figure(4 * len(report.arms), 4)
    grid = figure.subplots(1, len(report.arms), sharey=True, squeeze=False)
    rows, k = [], max(1, len(true_errors) // 5)
    for ax, (arm, seeds, color) in zip(grid[0], report.colored(), strict=True):
        for one in seeds:
            shared = np.array(found["shared"][one.folder], float)
            tau, low, high = correlation(shared, true_errors)
            taus = f"{tau:.2f}", f"{low:.2f} to {high:.2f}"
            rows.append((arm, str(one.seed), *taus, *_on_top(true_errors, shared, k)))
            ax.plot(shared, true_errors, "o", color=color, alpha=0.6, ms=4)
        ax.set(title=arm, xlabel=f"{error}, shared weights")
    grid[0][0].set_ylabel(f"{error}, {found['truth']}")
    page.figure(
        figure,
        "rank_disorder",
        f"{len(true_errors)} random architectures on the validation data: with the "
        f"shared weights of the searches, all seeds, and {found['truth']}.",
    )
    taus = "Kendall's tau", "95 % interval"
    page.table(("penalty", "seed", *taus, f"P@top {k}", f"BR@{k}", "regret"), rows)
    page.text(
        f"P@top {k}: how many of the best {k} by the shared weights truly are the best "
        f"{k}. BR@{k}: the best true rank of these {k}, divided by the number of "
        "architectures. Regret: how much the true error of the best by the shared "
        "weights is above the lowest. The metrics leave out errors that are not finite."
    )


def _on_top(true: np.ndarray, shared: np.ndarray, k: int) -> tuple[str, str, str]:
    """P@top K, BR@K and regret over what is finite in both, for a table."""
    there = np.isfinite(true) & np.isfinite(shared)
    if there.sum() < k:
        return ("nan",) * 3
    both = true[there], shared[there]
    return (
        f"{ranking_metrics.precision_at_top(*both, k):.2f}",
        f"{ranking_metrics.best_rank(*both, k):.2f}",
        f"{ranking_metrics.regret(*both):.2f}",
    )


SECTION = Section(_show)
