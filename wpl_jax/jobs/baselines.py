"""Baselines of a configuration: which, how large, and their training from scratch.

They belong to the searches of the main arm. Each of these has the same baselines,
trained with its seed and as large as the architecture that it has found.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from wpl_jax.common.registry import settings_name
from wpl_jax.common.settings import SettingError
from wpl_jax.devices import processes
from wpl_jax.errors import UserError
from wpl_jax.evaluation import retrain
from wpl_jax.evaluation.plain_networks import (
    BASELINES,
    Baseline,
    Baselines,
    Fitted,
    count_parameters,
    fit,
)
from wpl_jax.evaluation.retrained import RETRAINED_FILE
from wpl_jax.evaluation.retraining import Retraining
from wpl_jax.jobs import memory
from wpl_jax.jobs.build import build
from wpl_jax.jobs.config_fields import Field, FieldError
from wpl_jax.jobs.expand import Run
from wpl_jax.jobs.retrain_config import Prepared
from wpl_jax.models.files import keep_in
from wpl_jax.reports.searched import baseline_folder
from wpl_jax.runs.machine import Requests
from wpl_jax.supernet import Space

_PATH = "retrain.baselines"


def settings_of(config: ConfigDict) -> Baselines:
    """The baselines of a configuration, none where it has no section of them.

    Raises:
      ConfigError: If a setting is wrong.
    """
    if "baselines" not in config.retrain or not config.retrain.epochs:
        return Baselines()
    return build(Baselines, config, _PATH)


def of_search(each: Run) -> Baselines:
    """The baselines that belong to a search: none but for the main arm."""
    if each.arm != each.config.main_arm:
        return Baselines()
    return settings_of(each.config)


def folders(each: Run, workdir: Path) -> dict[str, Path]:
    """Where the baselines of a search are trained, by their names."""
    names = (settings_name(name) for name in of_search(each).names)
    return {name: baseline_folder(workdir, name, each.seed) for name in names}


def are_trained(each: Run, workdir: Path) -> bool:
    """Whether the baselines of a search have been trained."""
    found = folders(each, workdir).values()
    return all((folder / RETRAINED_FILE).exists() for folder in found)


class Comparison(NamedTuple):
    """Baselines and the training that they share with an architecture.

    Attributes:
      settings: Which baselines.
      prepared: The training of the architecture that they are compared with.
    """

    settings: Baselines
    prepared: Prepared

    @property
    def _space(self) -> Space:
        return self.prepared.retraining.task.space

    def fit(self, choice: np.ndarray) -> dict[str, Fitted]:
        """The baselines, as large as an architecture, by their names.

        Args:
          choice: The architecture, ``int32[num_decisions]``.

        Raises:
          ConfigError: If a baseline is for other data.
        """
        space, found = self._space, {}
        parameters = self.settings.parameters or count_parameters(space, choice)
        for name in self.settings.names:
            try:
                baseline = BASELINES[name]
                if not isinstance(baseline, Baseline):
                    raise UserError(f"it is no {Baseline.__module__}.Baseline")
                found[settings_name(name)] = fit(baseline, space, parameters)
            except (ImportError, SettingError, UserError) as error:
                raise FieldError(
                    Field(f"{_PATH}.names"),
                    f" has {name!r}: {error}. Expected baselines for the data of the "
                    f'search, of {sorted(BASELINES)} or "package.module:NAME".',
                ) from error
        return found

    def needs(self) -> Iterator[memory.Need]:
        """The memory for each, as large as an architecture drawn at random."""
        if not self.settings.names:
            return
        choice = np.asarray(self._space.sample(jax.random.key(0)))
        for fitted in self.fit(choice).values():
            yield memory.of_retraining(self._training(fitted), self.prepared.data)

    def _training(self, fitted: Fitted) -> Retraining:
        """The same training of another network."""
        retraining = self.prepared.retraining
        task: Any = retraining.task
        task = dataclasses.replace(task, space=fitted.space)
        return dataclasses.replace(retraining, task=task)

    def train(
        self,
        each: Run,
        choice: np.ndarray,
        workdir: Path,
        title: str,
        requests: Requests,
    ) -> None:
        """Trains the baselines of a search, as far as it has not been done.

        Args:
          each: The search.
          choice: What it has found, ``int32[num_decisions]``.
          workdir: Of the run.
          title: What the search is called in what is printed.
          requests: To end between two calls, and to trace some.
        """
        own = count_parameters(self._space, choice)
        fitted = self.fit(choice)
        for name, folder in folders(each, workdir).items():
            if processes.broadcast((folder / RETRAINED_FILE).exists()):
                continue
            one = fitted[name]
            print(
                f"{title}: {name} has {one.width} and {one.parameters:,} parameters, "
                f"the best architecture {own:,}.",
                flush=True,
            )
            retrain.run(
                self._training(one),
                self.prepared.data,
                one.choice,
                each.seed,
                folder,
                f"{title}, {name}",
                requests,
                each.config.retrain.checkpoint_seconds,
                keep=keep_in(folder, one.space, self.prepared.predictor),
            )
