"""``start_from``: a search or a training from scratch with the weights of another one.

It is not resuming. The source is read once, when there is no checkpoint yet; a run that
is resumed does not need it any more.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from wpl_jax.common.paths import as_path
from wpl_jax.devices import processes
from wpl_jax.errors import ConfigError, UserError, for_caller, shorten
from wpl_jax.jobs.config_fields import Field, FieldError, get_field
from wpl_jax.jobs.open_task import open_task
from wpl_jax.runs import warm_start
from wpl_jax.runs.run_directory import CHECKPOINTS
from wpl_jax.runs.run_files import to_json, write_atomically
from wpl_jax.runs.warm_start import Taken
from wpl_jax.supernet import Space
from wpl_jax.tasks import Data, DataCache

START_FILE = "start.json"


class Start(NamedTuple):
    """What one search or training starts from.

    Attributes:
      field: What names it, such as "config.search.start_from".
      path: Of the source; None to start from initial weights.
      name: Of the search in the folders of runs; None outside of them.
      space: Of the weights.
      words: Its vocabulary; None without one.
      folder: Of the search or training that starts; None if it writes no files.
    """

    field: str
    path: str | None
    name: str | None
    space: Space
    words: Sequence[str] | None
    folder: Path | None

    def check(self) -> None:
        """Checks that something fits, if the start is still to come.

        Raises:
          UserError: If the source cannot be read, or nothing of it fits.
        """
        if self.path is None or self._is_after_search or not processes.is_primary():
            return
        if self.folder is None or not (self.folder / CHECKPOINTS).is_dir():
            shapes = jax.eval_shape(self.space.init, jax.random.key(0))
            self._take(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))

    @property
    def _given(self) -> Path:
        """The path of the source."""
        return as_path(self.path, self.field)

    @property
    def _is_after_search(self) -> bool:
        """Whether a retraining starts from the search that comes before it."""
        if self.path is None or self.name is None or self.folder is None:
            return False
        source = self._given / "searches" / self.name
        return source.resolve() == self.folder.parent.resolve()

    def about(self) -> dict[str, str]:
        """What tells a search or a training in Python from others; {} by default."""
        return {} if self.path is None else {"start_from": self.path}

    def keep_words(self) -> None:
        """Leaves the vocabulary in the folder, for others that start from it."""
        if self.words is None or self.folder is None:
            return
        if processes.is_primary():
            self.folder.mkdir(parents=True, exist_ok=True)
            warm_start.write_words(self.folder, self.words)

    def function(self, title: str) -> Callable[[Any], Any] | None:
        """A function of initial parameters that returns those to start from.

        Args:
          title: What the search or training is called in what is printed.
        """
        return None if self.path is None else functools.partial(self._start, title)

    def _start(self, title: str, params: Any) -> Any:
        params, started = jax.device_get(params), None
        if processes.is_primary():
            source, taken = self._take(params)
            told = taken.describe()
            where = f"starts from {source.folder}, checkpoint {source.step}"
            print(f"{title}: {where}: {told}", flush=True)
            content = {"from": str(source.folder), "checkpoint": source.step}
            content |= {n: getattr(taken, n) for n in ("fitting", "partly", "fresh")}
            if self.folder is not None:
                write_atomically(self.folder / START_FILE, to_json(content))
            started = taken.params
        return processes.from_primary(started, params)

    def _take(self, params: Any) -> tuple[warm_start.Source, Taken]:
        source = warm_start.read_source(self._find())
        taken = warm_start.start_from(source, self.space, params, self.words)
        if taken.is_empty:
            raise UserError(
                f"{self.field} is {self.path!r}, and nothing of it fits the "
                f"space {self.space.name}: {taken.describe()}\nGive a search or a "
                "training of a space with the same sizes."
            )
        return source, taken

    def _find(self) -> Path:
        """The folder with the checkpoints of the source."""
        path = self._given
        places = [path, path / "retrain"]
        if self.name is not None:
            places.insert(1, path / "searches" / self.name)
        found = [place for place in places if (place / CHECKPOINTS).is_dir()]
        if not found:
            searches = sorted(p.parent for p in path.glob(f"searches/*/{CHECKPOINTS}"))
            hint = ", ".join(map(str, searches[:5])) or "the folder of one"
            raise ConfigError(
                f"{self.field} is {self.path!r}, where there is no checkpoint "
                f"of a search or a training. Give {hint}."
            )
        if self.folder and found[0].resolve() == self.folder.resolve():
            raise ConfigError(
                f"{self.field} is {self.path!r}, the folder of the search that "
                "is to start. Give that of another one; the same "
                f"{for_caller('command', 'call')} without it resumes."
            )
        return found[0]


def path_of(config: ConfigDict, field: str) -> str | None:
    """The folder that a field names; None if it is not set.

    Raises:
      ConfigError: If it is no text.
    """
    section, _, name = field.rpartition(".")
    value = get_field(config, section).get(name)
    if value is not None and not (isinstance(value, str) and value):
        raise FieldError(
            Field(field),
            f" is {shorten(value)}, expected the folder of a search or of a training, "
            "or None.",
        )
    return value


def words_of(
    config: ConfigDict, cache: DataCache, data: Data
) -> tuple[str, ...] | None:
    """The vocabulary of a search; None if its space has no rows of words."""
    opened = open_task(config, cache)
    return labels_of(opened.task.space, opened.predictor and opened.predictor(data))


def labels_of(space: Space, predictor: Any) -> tuple[str, ...] | None:
    """The vocabulary of a predictor; None if the space has no rows of words."""
    if not space.word_rows or predictor is None:
        return None
    return tuple(predictor.labels)
