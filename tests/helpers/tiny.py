"""The smallest two-model experiment with all its parts, and ways to run it.

This file is a configuration (``--config=tests/helpers/tiny.py``) and a module.
"""

import contextlib
import fcntl
import itertools
import json
import os
import resource
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from configs import two_models_digits
from wpl_jax.jobs.build import settings
from wpl_jax.two_models.arms import Study

ROOT = Path(__file__).resolve().parents[2]
# Compilation is most of the tests' time, and how fast programs run does not matter. So
# LLVM does not optimize, and of XLA's two ways to make loops of fused operations it
# takes the older one, which compiles faster.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)
# A later XLA ends the process at a flag that it does not know, as 0.12 does this one.
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):
    QUICK_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
ARMS = 14
# What a run leaves that may not depend on when or where it ran.
SAME_BYTES = (
    "results.json",
    "metrics.jsonl",
    "report.html",
    "figures/alpha_normalized.svg",
    "figures/methods.svg",
    "figures/sharing.svg",
    "figures/stops.svg",
    "figures/training.svg",
)
# What the threads of Orbax leave behind when they cannot read or write.
ORBAX_FAILING = (
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore::pytest.PytestUnhandledThreadExceptionWarning",
    "ignore::ResourceWarning",
)


def get_config() -> ConfigDict:
    """Two seeds, two stops, one or two shared layers, both steps: ``ARMS`` arms."""
    config = two_models_digits.get_config()
    config.num_seeds = 2
    config.data.valid = 60
    config.fisher_examples = 20
    config.eval_examples = 30
    config.hidden = 5
    config.layers_a = 2
    config.layers_b = 3
    config.model_a.steps = 30
    config.model_b.steps = 20
    config.model_b.sgd.learning_rate = 0.2
    config.model_b.eval_every = 10
    config.stops = (0.2,)
    config.main.shared = 2
    config.main.stop = 1.0
    config.checkpoint_seconds = 0.0
    alphas = (0.1, 10.0)  # The explicit step diverges at the second.
    steps = ("explicit", "proximal")
    config.studies = ConfigDict(
        {
            "methods": settings(Study, steps=steps, shared=(2,), alphas=alphas),
            "loose": settings(Study, stops=(0.2,), shared=(1, 2), alphas=alphas),
        }
    )
    return config


def arguments(workdir: Path, *flags: str) -> list[str]:
    """The command that runs the configuration in a folder."""
    given = any(flag.startswith("--config=") for flag in flags)
    config = [] if given else [f"--config={__file__}"]
    return [
        *(sys.executable, str(ROOT / "launch.py"), *config),
        *(f"--workdir={workdir}", *flags),
    ]


def environment(cache: Path | None = None, **variables: str) -> dict[str, str]:
    """One device, programs that compile quickly, and are kept in ``cache``."""
    settings = {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": QUICK_TO_COMPILE,
    }
    if cache is not None:
        settings["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        settings["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return dict(os.environ) | settings | variables


def call(
    command: list[str], env: Mapping[str, str], **options: Any
) -> subprocess.CompletedProcess:
    """Runs a command to its end, with its output as text."""
    return subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, **options
    )


class Run(NamedTuple):
    """An undisturbed run that all tests share; they may not write to it."""

    workdir: Path
    cache: Path  # its compiled programs
    stdout: str
    stderr: str  # with a line for each program that was compiled

    def launch(
        self, workdir: Path, *flags: str, **options: Any
    ) -> subprocess.CompletedProcess:
        """Runs the configuration in another folder to its end."""
        env = environment(self.cache)
        return call(arguments(workdir, *flags), env, **options)

    def start(self, workdir: Path, *flags: str) -> subprocess.Popen:
        """Starts the configuration in another folder."""
        return subprocess.Popen(
            arguments(workdir, *flags),
            env=environment(self.cache),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def undisturbed_run(tmp_path_factory) -> Run:
    """Runs the configuration, once for all workers of a test session."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "tiny"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        notes = folder / "notes.json"
        if not notes.exists():
            env = environment(folder / "cache", JAX_LOG_COMPILES="1")
            first = call(arguments(folder / "run"), env)
            assert first.returncode == 0, first.stderr
            notes.write_text(
                json.dumps({"stdout": first.stdout, "stderr": first.stderr})
            )
        found = json.loads(notes.read_text())
    return Run(folder / "run", folder / "cache", **found)


def assert_same_bytes(workdir: Path, expected: Path) -> None:
    """Two runs left the same, but for what tells of times."""
    for name in SAME_BYTES:
        assert (workdir / name).read_bytes() == (expected / name).read_bytes(), name


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Lets no file grow beyond ``limit`` bytes, as on a disk with no room."""
    earlier = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, earlier[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, earlier)


class Death(BaseException):
    """The end of a process, as far as one can play it within a process."""


def deaths(
    action: Callable[[], None], *modules: types.ModuleType, stride: int = 1
) -> Iterator[None]:
    """Runs an action over and over, each time to ``stride`` lines further in modules.

    Yields after each death, while what the action had in memory is still there: a
    file that it has not flushed is not flushed. Ends when the action ran to its end.
    """
    files = {module.__file__ for module in modules}
    for count in itertools.count(1, stride):
        left = count

        def trace(frame, event, arg):
            nonlocal left
            if event == "line":
                left -= 1
                if not left:
                    raise Death
            return trace

        def enter(frame, event, arg, trace=trace):
            return trace if frame.f_code.co_filename in files else None

        earlier = sys.gettrace()
        sys.settrace(enter)
        try:
            action()
        except Death:
            sys.settrace(earlier)
            yield
        else:
            return
        finally:
            sys.settrace(earlier)
