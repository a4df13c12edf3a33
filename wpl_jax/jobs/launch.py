"""The command ``wpl-jax``: flags in, one function called, nothing else.

wpl-jax --config=two_models_digits --workdir=runs/digits

``--config`` takes a file, the name of a configuration in :mod:`wpl_jax.configs`, or the
``config.json`` of a run. Without it, that of the run in the workdir is taken.
"""

# ruff: noqa: E402 - imports take seconds, in which Ctrl-C is answered as well.

import os
import signal
import sys


def _interrupted(signum: int, frame: object) -> None:
    """Ends the program in one line, before and after a job."""
    os.write(2, b"\nInterrupted.\n")
    loaded = sys.modules.get("wpl_jax.devices.processes")
    getattr(loaded, "leave", os._exit)(128 + signum)


# A shell has SIGINT ignored by what a script starts with &.
if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, signal.SIG_IGN):
    signal.signal(signal.SIGINT, _interrupted)

import contextlib
import functools
import traceback
from collections.abc import Iterator
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from wpl_jax.common.paths import as_path, optional_path
from wpl_jax.devices import processes
from wpl_jax.errors import UserError
from wpl_jax.jobs import command_line
from wpl_jax.jobs import registry as jobs
from wpl_jax.runs import console
from wpl_jax.runs.loggers import find_loggers
from wpl_jax.runs.machine import Machine
from wpl_jax.runs.profiling import TraceRequest
from wpl_jax.runs.share import Share
from wpl_jax.runs.stopping import GRACE_SECONDS

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; override fields by --config.FIELD=VALUE."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run; the same command again continues what is in it.",
    required=True,
)
_DEVICES = flags.DEFINE_integer(
    "devices", None, "How many of the devices to use; all where it is not given."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes."
)
_PROCESSES = flags.DEFINE_integer("processes", None, "How many processes there are.")
_PROCESS = flags.DEFINE_integer("process", None, "Which of them this is, from 0.")
_CLUSTER = flags.DEFINE_bool(
    "cluster", False, "Whether the cluster says the three above (SLURM, GKE, TPU)."
)
_WAIT = flags.DEFINE_integer(
    "wait", 60, "Seconds that processes wait for each other.", lower_bound=1
)
_HEARTBEAT = flags.DEFINE_integer(
    "heartbeat",
    30,
    "Seconds without a sign of a process after which it is lost; the others end.",
    lower_bound=1,
)
_GRACE = flags.DEFINE_float(
    "grace",
    GRACE_SECONDS,
    "Seconds after SIGTERM, SIGINT or SIGHUP in which the run saves and ends; then it "
    "ends at once, with what the last checkpoint holds.",
    lower_bound=0.0,
)
_PROFILE = flags.DEFINE_integer(
    "profile",
    None,
    "Writes a trace of so many calls, once programs are compiled.",
    lower_bound=1,
)
_CACHE = flags.DEFINE_string(
    "cache", None, "Folder of compiled programs, kept from one run to the next."
)
_MODE = flags.DEFINE_string(
    "mode", "run", "What to do: run, report, or another mode of the job."
)
_SHARE = flags.DEFINE_string(
    "share", "1/1", "I/N: run every Nth of the searches, from the Ith on; for N shares."
)
_JOIN = flags.DEFINE_multi_string(
    "join", [], "Folder of other shares for the report; may be given several times."
)
_BUDGET = flags.DEFINE_float(
    "budget",
    None,
    "Seconds of each search that --mode=time fits; by default, those of the main arm.",
    lower_bound=0.0,
)
_INPUT = flags.DEFINE_string(
    "input", None, "Image, folder of images, .npy file or text for --mode=predict."
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "CSV file of --mode=predict, or folder of --mode=export."
)
_FORMAT = flags.DEFINE_multi_string(
    "format",
    [],
    "Format of --mode=export: nnx, linen, onnx or stablehlo; may be given several "
    "times.",
)
_LOG = flags.DEFINE_multi_string(
    "log",
    [],
    "Logger of metrics beside TensorBoard: wandb, mlflow or package.module:Name; may "
    "be given several times.",
)


def _run(argv: list[str]) -> None:
    """Runs the job, and says what is wrong with its input in one message."""
    if len(argv) > 1:
        _fail(f"Unexpected arguments: {argv[1:]}. Flags start with --.")
    said = logging.get_absl_handler().python_handler
    said.stream = console.lasting(said.stream)
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file it writes.
    try:
        if not _WORKDIR.value:
            raise UserError("--workdir is empty, expected a folder for the run.")
        if _CACHE.value:
            cache = as_path(_CACHE.value, "--cache")
            jax.config.update("jax_compilation_cache_dir", str(cache))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        trace = TraceRequest(_PROFILE.value) if _PROFILE.value else None
        machine = Machine(
            _DEVICES.value,
            _GRACE.value,
            trace,
            share=Share.parse(_SHARE.value),
            joined=tuple(as_path(path, "--join") for path in _JOIN.value),
            budget=_BUDGET.value,
            input=optional_path(_INPUT.value, "--input"),
            output=optional_path(_OUTPUT.value, "--output"),
            formats=tuple(_FORMAT.value),
            loggers=find_loggers(_LOG.value),
            config_flags=command_line.config_flags_of(sys.argv[1:]),
        )
        with _processes():
            if _CONFIG.value is not None:
                overrides = config_flags.get_override_values(flags.FLAGS["config"])
                jobs.check_overrides(_CONFIG.value, overrides, _MODE.value)
            workdir = as_path(_WORKDIR.value, "--workdir")
            jobs.run(_CONFIG.value, workdir, _MODE.value, machine)
            if trace:
                trace.remind()
    except UserError as error:
        _fail(error)


@contextlib.contextmanager
def _processes() -> Iterator[None]:
    """Connects the processes of a run, if there are several; only process 0 prints."""
    several = {
        "coordinator": _COORDINATOR.value,
        "processes": _PROCESSES.value,
        "process": _PROCESS.value,
    }
    start = functools.partial(
        processes.start, wait_seconds=_WAIT.value, heartbeat_seconds=_HEARTBEAT.value
    )
    missing = [f"--{name}" for name, value in several.items() if value is None]
    if _CLUSTER.value:
        if len(missing) < len(several):
            raise UserError("--cluster finds out what the other flags say: omit them.")
        start()
    elif len(missing) < len(several):
        if missing:
            raise UserError(f"Several processes also need {' and '.join(missing)}.")
        _, colon, port = str(_COORDINATOR.value).rpartition(":")
        if not colon or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(
                f"--coordinator={_COORDINATOR.value} is not HOST:PORT. Give the first "
                "process's host and a free port, as in --coordinator=localhost:1234."
            )
        start(_COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    else:
        alone = [name for name in ("wait", "heartbeat") if flags.FLAGS[name].present]
        if alone:
            raise UserError(f"--{alone[0]} is for several processes: leave it out.")
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
        if not processes.is_primary():
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        try:
            with processes.explain_lost_processes():
                yield
        except (SystemExit, UserError):
            raise
        except BaseException:
            traceback.print_exc()
            processes.end(1)


def _parse(argv: list[str]) -> list[str]:
    """Parses the flags; what does not fit the configuration is said in one message."""
    argv = command_line.with_built_in(argv)
    command_line.register_parsers(flags.FLAGS["config"], argv)
    try:
        rest = app.parse_flags_with_usage(argv)
        config = _CONFIG.value
        if config is None:  # The mode needs none; see `main`.
            return rest
        if not isinstance(config, ConfigDict):
            getattr(config, "job", None)  # What failed to load says so when it is read.
            raise TypeError(f"get_config() must return a ConfigDict, got {config!r}.")
    except (AttributeError, KeyError) as error:
        overrides = [flag for flag in argv if flag.startswith("--config")]
        _fail(f"{' '.join(overrides)}: {_innermost(error)}")
    except command_line.ConfigFileError as error:
        _fail(error)
    except (OSError, TypeError, ValueError) as error:
        advice = command_line.advice(argv) if isinstance(error, OSError) else ""
        _fail(f"{command_line.config_file(argv)}: {error}{advice}")
    return rest


def _innermost(error: object) -> object:
    """What ml_collections says, out of the exceptions that it wraps it in."""
    while isinstance(error, AttributeError | KeyError) and error.args:
        error = error.args[0]
    return error


def _fail(message: object) -> NoReturn:
    print(f"Error: {message}", file=console.lasting(sys.stderr))
    processes.end(2)


def main() -> None:
    """Runs the program."""
    sys.stdout = console.lasting(sys.stdout)
    sys.argv = command_line.with_config_of_run(sys.argv)
    free = jobs.without_config()
    modes = " and ".join(f"--mode={mode}" for mode in free)
    flags.register_multi_flags_validator(
        ["config", "mode"],
        lambda given: given["config"] is not None or given["mode"] in free,
        "--config must have a value where --workdir has no run of a configuration; "
        f"{modes} need none.",
    )
    app.run(_run, flags_parser=_parse)
