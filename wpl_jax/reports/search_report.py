"""The report of searches: how much was forgotten, under which penalty."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from wpl_jax.evaluation.rank_files import read_ranks
from wpl_jax.reports import searched
from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import REPORT_FILE, Searched
from wpl_jax.reports.sections import (
    architecture_weights,
    best_architectures,
    child_order,
    children,
    choices_in_order,
    derived_accuracy,
    derived_operations,
    discretization_gap,
    ensembles,
    error_and_cost,
    forgetting,
    from_scratch,
    guessing,
    introduction,
    methods,
    predicted_order,
    rank_disorder,
    seed_agreement,
    selection,
    summary,
    true_order,
    weight_entropy,
)
from wpl_jax.reports.sections.section import Report
from wpl_jax.strategies import Strategy
from wpl_jax.supernet import Space

# In the order of the page. A section adds nothing if no search has what it shows.
SECTIONS = (
    summary.SECTION,
    guessing.SECTION,
    introduction.SECTION,
    methods.SECTION,
    derived_accuracy.SECTION,
    weight_entropy.SECTION,
    architecture_weights.SECTION,
    derived_operations.SECTION,
    discretization_gap.SECTION,
    children.SECTION,
    forgetting.SECTION,
    child_order.SECTION,
    true_order.SECTION,
    predicted_order.SECTION,
    selection.SECTION,
    error_and_cost.SECTION,
    from_scratch.SECTION,
    ensembles.SECTION,
    rank_disorder.SECTION,
    choices_in_order.SECTION,
    seed_agreement.SECTION,
    best_architectures.SECTION,
)


def read(folder: Path, arm: str, seed: int, space: Space, epochs: int) -> Searched:
    """Reads what a search left in its folder, with the columns of all sections.

    Args:
      folder: Of the search.
      arm: Its arm.
      seed: Its seed.
      space: What it searched.
      epochs: How many it had.

    Raises:
      UserError: If it has not finished, or a file is not what a search writes.
    """
    columns = [section.columns for section in SECTIONS]
    return searched.read(folder, arm, seed, space, epochs, columns)


def write(
    workdir: Path,
    config: dict[str, Any],
    searches: Sequence[Searched],
    about: str,
    start_epoch: int | None,
    strategies: Mapping[str, Strategy] = MappingProxyType({}),
    flags: Sequence[str] = (),
) -> None:
    """Writes ``report.html``, ``searches.csv`` and ``figures/``.

    Args:
      workdir: Where to.
      config: Of the run.
      searches: The arms in order, each with its seeds; the first is the main one.
      about: A line about the data.
      start_epoch: First epoch whose children leave a Fisher; None if none do.
      strategies: Of each arm, for the section on the selection.
      flags: Of the command line, that choose the configuration and its fields.
    """
    arms: dict[str, list[Searched]] = {}
    for one in searches:
        arms.setdefault(one.arm, []).append(one)
    ranks = read_ranks(workdir, [one.folder for one in searches])
    report = Report(workdir, config, arms, about, start_epoch, strategies, ranks, flags)
    page = Page("A search with shared weights", workdir)
    for section in SECTIONS:
        section.show(page, report)
    page.configuration(config)
    page.write(workdir / REPORT_FILE)
