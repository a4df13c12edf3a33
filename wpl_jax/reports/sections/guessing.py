"""Warnings about searches, and trainings from scratch, that have learned nothing."""

from collections.abc import Iterator

from wpl_jax.evaluation.rank_disorder import RANKED
from wpl_jax.evaluation.rank_files import read_ranks
from wpl_jax.evaluation.retrained import remedy as remedy_from_scratch
from wpl_jax.reports.page import Page
from wpl_jax.reports.searched import REMEDY, Searched
from wpl_jax.reports.sections.section import Report, Section
from wpl_jax.tasks.guessing import Model, lowest, read_guess, remark


def _show(page: Page, report: Report) -> None:
    """Names the models that are no better than guessing."""
    searches = report.searches
    found = [model for one in searches for model in _with_shared_weights(one)]
    scratch = [
        Model(
            f"{_name(one)}, trained from scratch",
            one.retrained["valid_error"],
            read_guess(one.retrained),
        )
        for one in searches
        if one.retrained
    ]
    if ranks := read_ranks(report.workdir, [one.folder for one in searches]):
        for one in searches:
            best = lowest(ranks["searches"][one.folder]["errors"].tolist())
            found.append(
                Model(f"{_name(one)}, {RANKED}", best, read_guess(one.results))
            )
        name = f"the best ranked architecture, {ranks['truth']}"
        guess = read_guess(searches[0].results)
        scratch.append(Model(name, lowest(ranks["true_errors"].tolist()), guess))
    page.warning(remark(found, report.error_name, REMEDY))
    page.warning(remark(scratch, report.error_name, remedy_from_scratch()))


def _with_shared_weights(one: Searched) -> Iterator[Model]:
    """A search's best architecture, and its last children if all are as a guess."""
    guess = read_guess(one.results)
    best = one.results["valid_error"]
    yield Model(f"{_name(one)}, the best architecture", best, guess)
    children = one.curve("children/error")[-1]
    if guess and guess.explains_all(children, one.metrics[-1]["children/err2"]):
        which = f"{_name(one)}, all children of the last epoch"
        yield Model(which, children, guess)


def _name(one: Searched) -> str:
    return f"{one.arm}, seed {one.seed}"


SECTION = Section(_show)
