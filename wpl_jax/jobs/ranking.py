"""Parts of the mode that ranks architectures by the shared weights of searches."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from wpl_jax.errors import ConfigError
from wpl_jax.evaluation import rank_disorder, rank_files
from wpl_jax.evaluation.rank_disorder import Ranking
from wpl_jax.evaluation.rank_files import Ranked
from wpl_jax.evaluation.shared_scores import SharedScores
from wpl_jax.jobs import memory
from wpl_jax.jobs.build import build
from wpl_jax.jobs.config_fields import naming, with_changes, wrong
from wpl_jax.jobs.retrain_config import make_retraining
from wpl_jax.reports.searched import Searched
from wpl_jax.runs.loggers.tensorboard import wall_seconds
from wpl_jax.runs.machine import Machine, Requests
from wpl_jax.search import Search
from wpl_jax.supernet import Space
from wpl_jax.tasks import Data, DataCache, Evaluation


def build_ranking(config: ConfigDict) -> Ranking:
    """The settings of a ranking; a ConfigError names one that is wrong."""
    return build(Ranking, config, "ranking")


def check(ranking: Ranking, search: Search, data: Data) -> None:
    """Checks that the architectures of a search can be ranked.

    Raises:
      UserError: If they cannot.
    """
    with naming("ranking"):
        ranking.check(search.task.space)
    available = search.task.num_batches(data, "valid")
    if ranking.batches is not None and ranking.batches > available:
        expected = f"at most {available}, the batches of the validation data"
        raise wrong("ranking.batches", ranking.batches, expected)


def check_arms(spaces: Mapping[str, Space]) -> None:
    """Checks that all arms have the same decisions, as they rank the same choices.

    Args:
      spaces: Of each arm, what it searches.

    Raises:
      ConfigError: If two arms differ.
    """
    (first, space), *others = spaces.items()
    for arm, other in others:
        if other.decisions != space.decisions:
            raise ConfigError(
                f"config.arms.{arm} has other decisions than config.arms.{first}, and "
                "a ranking compares the same architectures in all arms. Put arms with "
                "the same decisions into a configuration of their own."
            )


class Training(NamedTuple):
    """The training from scratch that true errors come from."""

    need: memory.Need
    run: Callable[..., list[float]]


def make_training(
    config: ConfigDict,
    epochs: int,
    cache: DataCache,
    machine: Machine,
    workdir: Path,
    requests: Requests,
) -> Training:
    """Builds the training from scratch of a ranking.

    Args:
      config: Of the run.
      epochs: Of each training.
      cache: Of data.
      machine: How the run uses this machine; its share divides the architectures.
      workdir: Of the run.
      requests: To stop between two calls, and to profile some.
    """
    changes = {"retrain": {"epochs": epochs}}
    changed = with_changes(config, changes, "config.ranking")
    retraining, data, _ = make_retraining(changed, cache, machine.devices)
    run = functools.partial(
        rank_disorder.from_scratch,
        retraining,
        data,
        seed=config.seed,
        workdir=workdir,
        share=machine.share,
        requests=requests,
        checkpoint_seconds=config.retrain.checkpoint_seconds,
    )
    return Training(memory.of_retraining(retraining, data), run)


def score(
    ranking: Ranking,
    search: Search,
    params: Any,
    data: Data,
    choices: np.ndarray,
    folder: Path,
    title: str,
    requests: Requests,
) -> Evaluation:
    """Scores of architectures by the shared weights of a search, resumably.

    They are written to the folder of the search.

    Args:
      ranking: How they are ranked.
      search: The search.
      params: Its shared parameters.
      data: Of its task.
      choices: ``int32[n, decisions]``.
      folder: Of the search.
      title: Its name in printed lines.
      requests: To stop between two blocks, and to profile some.
    """
    job = SharedScores(
        search.task, search.devices, ranking.batches, ranking.block, ranking.tuning
    )
    below = folder / rank_files.FOLDER
    scores = job.resumably(params, choices, data, below, title, requests)
    rank_files.write_scores(folder, search.task.space, choices, scores)
    return scores


def join(
    config: ConfigDict,
    searched: Sequence[Searched],
    of_searches: Sequence[Path],
    folders: Sequence[Path],
) -> None:
    """Compares the rankings of all searches, and writes what that gives.

    Args:
      config: Of the run.
      searched: Its finished searches, which have been ranked.
      of_searches: The folder of each.
      folders: Of the run; the files are written to the first.

    Raises:
      UserError: If architectures have not been trained, or a file is damaged.
    """
    settings = build_ranking(config)
    check_arms({one.arm: one.space for one in searched})
    space = searched[0].space
    choices = settings.choose(space)
    trained = functools.partial(rank_disorder.read_trained, folders)
    needs_training = settings.truth.epochs is not None
    true_errors = settings.truth.of(space, choices, trained if needs_training else None)
    ranked = {
        one.folder: _compared(settings, one, choices, folder)
        for one, folder in zip(searched, of_searches, strict=True)
    }
    rank_files.write(folders[0], space, settings, choices, true_errors, ranked)


def _compared(
    ranking: Ranking, one: Searched, choices: np.ndarray, folder: Path
) -> Ranked:
    """A search's scores, with the true error of the architecture that it selected."""
    scores = rank_files.read_scores(folder, choices)
    truth, seconds = ranking.truth, wall_seconds(folder)
    if truth.epochs is not None:  # The architecture would have to be trained.
        return Ranked(scores, None, seconds, [])
    architecture = np.array(one.results["architecture"])
    (error,) = truth.of(one.space, architecture[None], None)
    random_search = truth.random_search(one.space, seconds, error)
    return Ranked(scores, error, seconds, random_search)
