"""Weights & Biases: a run for each search, and for each training from scratch.

Its environment variables choose the rest: ``WANDB_PROJECT`` (by default ``wpl_jax``),
``WANDB_ENTITY``, ``WANDB_MODE=offline``, ``WANDB_API_KEY``, ``WANDB_DIR``. Its own
files are not in the folder of the run: they have symbolic links, through which a run
writes nothing.
"""

import os
import uuid
from collections.abc import Mapping

from wpl_jax.runs.loggers.logger import Logged, Logger, require_package

_STEP = "record"  # the axis of all curves


class WeightsAndBiases(Logger):
    """One run, which a resumed job continues."""

    def __init__(self, logged: Logged):
        """Starts or resumes the run."""
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "wpl_jax"),
            id=logged.run_id("wandb", lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            name=logged.name,
            group=None if logged.run is None else logged.run.name,
            config=logged.config,
        )
        # Its own step never goes back, as a search may.
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)

    @staticmethod
    def require() -> None:
        """Imports the package; an ImportError names what is to be installed."""
        require_package("wandb", "wandb")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends a record."""
        self._run.log({_STEP: step, **values})

    def close(self) -> None:
        """Uploads what is left, and ends the run."""
        self._run.finish()
