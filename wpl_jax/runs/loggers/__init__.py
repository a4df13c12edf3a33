"""Loggers of metrics by name: a class is a module and a line in ``LOGGERS``.

``metrics.jsonl`` and TensorBoard files are always written. Others come with
``--log=NAME``. A logger never ends a job: what it raises is printed once, and it gets
nothing more. Only what is known before the job begins is an error: a name that there is
not, or a package that is not installed.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from wpl_jax.common.registry import Registry
from wpl_jax.errors import UserError, printable, shorten
from wpl_jax.runs.loggers.logger import Logged as Logged
from wpl_jax.runs.loggers.logger import Logger as Logger

# By name: functions of a :class:`Logged` that return a :class:`Logger`.
LOGGERS = Registry(
    "wpl_jax.loggers",
    {
        "mlflow": "wpl_jax.runs.loggers.mlflow_store:MlflowStore",
        "tensorboard": "wpl_jax.runs.loggers.tensorboard:TensorBoard",
        "wandb": "wpl_jax.runs.loggers.weights_and_biases:WeightsAndBiases",
    },
)
_LONGEST_REASON = 300


class NamedLogger(NamedTuple):
    """A logger that has been looked up.

    Attributes:
      name: For what is printed.
      open: Makes it, of a job.
    """

    name: str
    open: Callable[[Logged], Logger]


def _open_tensorboard(logged: Logged) -> Logger:
    return LOGGERS["tensorboard"](logged)


TENSORBOARD = NamedLogger("tensorboard", _open_tensorboard)


def find_loggers(names: Sequence[Any]) -> tuple[NamedLogger, ...]:
    """Looks loggers up, and imports what they need.

    Args:
      names: Names in ``LOGGERS``, import paths ``"package.module:Name"``, or functions
        of a :class:`Logged`. ``"tensorboard"`` may be among them, and changes nothing;
        nor does a name that comes again.

    Raises:
      UserError: If they are no sequence, there is no logger of a name, or a package
        is missing.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise UserError(f'loggers is {shorten(names)}, expected a list: ["wandb"].')
    found: list[NamedLogger] = []
    for name in names:
        if name == TENSORBOARD.name or name in [one.name for one in found]:
            continue
        if callable(name):
            found.append(NamedLogger(getattr(name, "__name__", str(name)), name))
            continue
        if name not in LOGGERS:
            raise UserError(
                f"There is no logger {shorten(name)}, expected one of "
                f'{sorted(LOGGERS)} or "package.module:Name".'
            )
        try:
            logger = LOGGERS[name]
            if not callable(logger):
                raise UserError(
                    f"The logger {name} is {shorten(logger)}, expected a class."
                )
            getattr(logger, "require", lambda: None)()
            found.append(NamedLogger(name, logger))
        except ImportError as error:
            raise UserError(f"The logger {name}: {error}.") from error
    return tuple(found)


class Loggers:
    """The loggers of one job, of which none can end it."""

    def __init__(self, named: Sequence[NamedLogger], logged: Logged):
        """Opens them.

        Raises:
          UserError: If a logger raises one: a file in the way, which is named.
        """
        self._title, self._open = logged.title, []
        for one in named:
            try:
                self._open.append((one.name, one.open(logged)))
            except UserError:
                self.close()
                raise
            except Exception as error:
                self._say(one.name, error, "at the start")

    def log(self, step: int, record: Mapping[str, Any]) -> None:
        """Passes the numbers of a record on."""
        values = {k: v for k, v in record.items() if _is_number(v)}
        for name, logger in list(self._open):
            try:
                logger.log(step, values)
            except Exception as error:
                self._say(name, error, f"in record {step}")
                self._open = [one for one in self._open if one[1] is not logger]
                with contextlib.suppress(Exception):
                    logger.close()

    def close(self) -> None:
        """Closes them."""
        while self._open:
            name, logger = self._open.pop()
            try:
                logger.close()
            except Exception as error:
                self._say(name, error, "at the end")

    def _say(self, name: str, error: Exception, where: str) -> None:
        reason = printable(f"{type(error).__name__}: {error}")[:_LONGEST_REASON]
        title = f"{self._title}: " if self._title else ""
        print(
            f"{title}the logger {name} failed {where} and gets nothing more of this "
            f"job, which goes on ({reason}). metrics.jsonl has all records.",
            flush=True,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
