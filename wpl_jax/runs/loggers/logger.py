"""What a logger is, and what it is told about the job that it logs."""

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from wpl_jax.errors import UserError
from wpl_jax.runs.run_directory import CONFIG_FILE
from wpl_jax.runs.run_files import write_atomically

_ABOVE = 4  # folders between a job and the run: searches/NAME/retrain


class Logged(NamedTuple):
    """The job whose metrics a logger gets: a search, or a training from scratch.

    Attributes:
      title: What the job is called in what is printed.
      first_step: Number of the first record that will be logged. It is above 0 when a
        job resumes; what was logged of that step and later ones has not happened.
      folder: Of the job; None for one in memory.
    """

    title: str
    first_step: int
    folder: Path | None

    def require_folder(self) -> Path:
        """The folder.

        Raises:
          UserError: If the job has none.
        """
        if self.folder is None:
            raise UserError("This logger writes files: give the job a workdir.")
        return self.folder

    @property
    def run(self) -> Path | None:
        """The folder of the whole run, which has its configuration."""
        if self.folder is None:
            return None
        folder = self.folder.absolute()
        above = (folder, *folder.parents)[:_ABOVE]
        return next((f for f in above if (f / CONFIG_FILE).is_file()), None)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration of the run; {} of a job in memory."""
        return (
            {} if self.run is None else json.loads((self.run / CONFIG_FILE).read_text())
        )

    @property
    def name(self) -> str:
        """The path of the job in its run, such as ``"wpl-seed0/retrain"``."""
        if self.folder is None or self.run is None:
            return self.title
        path = self.folder.absolute().relative_to(self.run).as_posix()
        return path.removeprefix("searches/").removeprefix(".") or self.title

    def run_id(self, logger: str, make: Callable[[], str]) -> str:
        """The identifier by which a logger finds the job again when it resumes.

        Args:
          logger: Name of the logger, a part of the file's name.
          make: Makes a new one, if the folder has none.
        """
        if self.folder is None:
            return make()
        path = self.folder / f"{logger}_run.txt"
        if self.first_step and path.is_file():
            return path.read_text().strip()
        found = make()
        write_atomically(path, found)
        return found


class Logger(Protocol):
    """Receives the numbers of each record of a job's metrics.

    A class whose instances have the methods ``log`` and ``close``. It is called with a
    :class:`Logged` when the job begins. Whatever it raises is printed once, and the job
    goes on without it.
    """

    @staticmethod
    def require() -> None:
        """Imports what the logger needs, before the job begins; by default, nothing.

        Raises:
          ImportError: If a package is missing, with what to install.
        """

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Receives one record.

        Args:
          step: Its number, such as that of an epoch, from 0. After a resumption, and
            when a search returns to the start of an epoch, numbers come again.
          values: Numbers by name, such as ``"children/reward"``.
        """

    def close(self) -> None:
        """The job has ended, or was stopped."""


def require_package(name: str, extra: str) -> None:
    """Imports a package; an ImportError names the extra that installs it."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"it needs the package {name}: pip install 'wpl-jax[{extra}]'"
        ) from error
