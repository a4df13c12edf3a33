"""MLflow: a run for each search, and for each training from scratch.

Its environment variables choose the rest: ``MLFLOW_TRACKING_URI`` and
``MLFLOW_EXPERIMENT_NAME`` (by default ``wpl_jax``).
"""

import os
import time
from collections.abc import Mapping

from wpl_jax.runs.loggers.logger import Logged, Logger, require_package


class MlflowStore(Logger):
    """One run, which a resumed job continues."""

    def __init__(self, logged: Logged):
        """Starts or resumes the run."""
        from mlflow import MlflowClient

        self._client = MlflowClient()
        self._id = logged.run_id("mlflow", lambda: self._create(logged))
        self._client.update_run(self._id, status="RUNNING")

    def _create(self, logged: Logged) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "wpl_jax")
        experiment = self._client.get_experiment_by_name(name)
        number = (
            self._client.create_experiment(name)
            if experiment is None
            else experiment.experiment_id
        )
        tags = {"title": logged.title}
        if logged.run is not None:
            tags["workdir"] = str(logged.run)
        run = self._client.create_run(number, run_name=logged.name, tags=tags)
        return str(run.info.run_id)

    @staticmethod
    def require() -> None:
        """Imports the package; an ImportError names what is to be installed."""
        require_package("mlflow", "mlflow")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends a record."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, float(x), now, step) for name, x in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def close(self) -> None:
        """Ends the run."""
        self._client.set_terminated(self._id)
